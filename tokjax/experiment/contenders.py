"""What `tokjax compare` compares: names on the command line become configurations of equal standing."""

import dataclasses
import math
import re
from pathlib import Path

from ml_collections import ConfigDict

from tokjax.core.errors import SpecError, UnknownNameError, nearest
from tokjax.core.registry import systems, tokenizers
from tokjax.core.spec import read_value
from tokjax.experiment.config import load_config

_UNITS = {"flops": "flops", "s": "seconds", "b": "bytes", "kb": "bytes", "mb": "bytes", "gb": "bytes"}
_SCALES = {"kb": 1e3, "mb": 1e6, "gb": 1e9}
LENGTH_MULTIPLE = 32  # rows are whole multiples of this many positions


@dataclasses.dataclass(frozen=True)
class Budget:
    """What every system may spend on training.

    Attributes:
      kind: 'flops' (forward and backward), 'seconds' (of training steps) or 'bytes' (of text read).
      amount: how much.
    """

    kind: str
    amount: float

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """Reads '1e13flops', '60s' or '5MB'.

        Raises:
          SpecError: another form, or nothing to spend.
        """
        match = re.fullmatch(r"\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*([a-z]+)\s*", text.lower())
        unit = match[2] if match else ""
        try:
            amount = float(match[1]) * _SCALES.get(unit, 1.0) if match else 0.0
        except ValueError:
            unit = ""
        if unit not in _UNITS:
            raise SpecError(f"--budget: got {text!r}; write FLOPs, seconds or bytes, as in 1e13flops, 60s or 5MB.")
        if not amount > 0 or math.isinf(amount):
            raise SpecError(f"--budget: got {text!r}; give more than nothing, as in 1e12flops.")
        return cls(_UNITS[unit], amount)

    def share(self, fraction: float) -> "Budget":
        """A fraction of this budget, of the same kind."""
        return dataclasses.replace(self, amount=self.amount * fraction)


@dataclasses.dataclass(frozen=True)
class Contender:
    """One way of tokenizing text and the model that reads it.

    Attributes:
      name: as on the command line.
      config: its recipe, before the row length and the number of steps are set.
    """

    name: str
    config: ConfigDict


def contender(name: str, *, source: str, scale: str) -> Contender:
    """Returns the contender called `name`: a system, a tokenizer (read by `lm`), or SYSTEM/TOKENIZER.

    A tokenizer may carry its vocabulary size, as in `bpe:2048`, and fields of its spec, as in
    `equal_info:token_bits=8`; fields of the system are written as in `hat:system.symbols_per_word=8`. A path is a
    tokenizer that was fitted before.

    Raises:
      UnknownNameError: neither a system nor a tokenizer.
    """
    base, *settings = name.split(":")
    system, slash, tokenizer = base.partition("/")
    if system not in systems and (slash or system not in tokenizers) and Path(name).exists():
        config = load_config(f"lm:{scale}")
        with config.unlocked():
            config.source, config.tokenizer = source, {"name": name}
        return Contender(name, config)
    if not slash and system not in systems:
        if system not in tokenizers:
            known = [*systems, *tokenizers]
            raise UnknownNameError(f"--systems: no system or tokenizer {system!r}.{nearest(system, known)}")
        system, tokenizer = "lm", system
    systems.entry(system)
    config = load_config(f"{system}:{scale}")
    with config.unlocked():
        config.source = source
        if tokenizer:
            tokenizers.entry(tokenizer)
            default = config.tokenizer.get("vocab_size")
            config.tokenizer = {"name": tokenizer}
            if default and _takes_vocab_size(tokenizer):
                config.tokenizer.vocab_size = default
        for setting in settings:
            field, equals, value = setting.rpartition("=")
            if not equals and not (value.isdigit() and _takes_vocab_size(config.tokenizer.name)):
                raise SpecError(
                    f"--systems: {name!r}: write a vocabulary size behind a trained tokenizer, as bpe:2048, or "
                    "FIELD=VALUE of any."
                )
            group = config.system if field.startswith("system.") else config.tokenizer
            group[field.removeprefix("system.") or "vocab_size"] = read_value(value)
    return Contender(name, config)


def folder(name: str) -> str:
    """Returns a name for the directory of the contender `name`, which may itself be a path."""
    return re.sub(r"[^\w.:-]", "_", name)


def _takes_vocab_size(tokenizer: str) -> bool:
    return "vocab_size" in {f.name for f in dataclasses.fields(tokenizers[tokenizer])}


def row_length(context_bytes: int, bytes_per_target: float) -> int:
    """Positions that hold about `context_bytes` of text, a multiple of `LENGTH_MULTIPLE`."""
    return max(1, round(context_bytes / bytes_per_target / LENGTH_MULTIPLE)) * LENGTH_MULTIPLE
