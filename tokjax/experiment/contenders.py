"""What `tokjax compare` compares: names on the command line become configurations of equal standing."""

import dataclasses
import re
from pathlib import Path

from ml_collections import ConfigDict

from tokjax.core.errors import SpecError, UnknownNameError, UserError, nearest
from tokjax.core.registry import systems, tokenizers
from tokjax.core.spec import read_value
from tokjax.data.images import Images
from tokjax.experiment.config import load_config, override
from tokjax.experiment.images import build_image_tokenizer, is_image_tokenizer
from tokjax.objectives.language import LanguageSystem

LENGTH_MULTIPLE = 32  # rows are whole multiples of this many positions
_GROUPS = ("data", "optimizer", "system")  # of a recipe of images, that a contender may change
# A comma between contenders, which is none before a number: that is the next value of a list, as in levels=8,5,5.
_SEPARATOR = re.compile(r",(?!\s*[-+.\d][-+.\de]*\s*(?:[,:]|$|/[\w.]+=))")
_FIELD = re.compile(r"/(?=[A-Za-z_][\w.]*=)")


@dataclasses.dataclass(frozen=True)
class Contender:
    """One way of tokenizing text and the model that reads it, or one tokenizer of images.

    Attributes:
      name: as on the command line.
      config: its recipe, before the row length and the number of steps are set.
    """

    name: str
    config: ConfigDict


def split_names(text: str) -> tuple[str, ...]:
    """Returns the names between the commas of `text`; lists of numbers, as in vqgan/body.widths=16,32, stay whole."""
    return tuple(name.strip() for name in _SEPARATOR.split(text) if name.strip())


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
    if not issubclass(systems[system], LanguageSystem):
        raise SpecError(
            f"--systems: {system!r} reads no text; name its data with --images, or compare language models."
        )
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


def image_contender(name: str, *, images: Images, scale: str) -> Contender:
    """Returns the tokenizer of images called `name`: a recipe and changes to it, NAME[:variant][/FIELD=VALUE...].

    A field is one of the system, as in `vqgan/quantizer=fsq:levels=8,5,5`, or of another group, as in
    `titok:small/data.batch_size=16`. Where the images are of one size, systems take it and their channels, unless a
    field says otherwise.

    Args:
      name: as of the command line.
      images: what is to be tokenized.
      scale: the variant where `name` has none.

    Raises:
      UserError: no such recipe or field, a system that is none of images, or values that do not fit together.
    """
    reference, *changes = _FIELD.split(name)
    changes = [change if change.split(".")[0] in _GROUPS else f"system.{change}" for change in changes]
    try:
        config = load_config(reference if ":" in reference else f"{reference}:{scale}")
        if not is_image_tokenizer(config.system):
            raise SpecError("turns no images into codes; name image tokenizers, or leave --images out.")
        override(config, [*_shape(images), *changes])
        build_image_tokenizer(config.system.to_dict())
    except UserError as error:
        message = str(error).removeprefix("--config ").removeprefix("--config.")
        raise type(error)(f"--systems {name}: {message}") from None
    with config.unlocked():
        config.source = images.name
    return Contender(name, config)


def _shape(images: Images) -> list[str]:
    """Returns size and channels of a system of images that are all alike, as changes to its recipe."""
    if images.pixels is None:
        return []
    _, height, width, channels = images.pixels.shape
    return [f"system.size={min(height, width)}", f"system.channels={channels}"]


def folder(name: str) -> str:
    """Returns a name for the directory of the contender `name`, which may itself be a path."""
    return re.sub(r"[^\w.:-]", "_", name)


def _takes_vocab_size(tokenizer: str) -> bool:
    return "vocab_size" in {f.name for f in dataclasses.fields(tokenizers[tokenizer])}


def row_length(context_bytes: int, bytes_per_target: float) -> int:
    """Positions that hold about `context_bytes` of text, a multiple of `LENGTH_MULTIPLE`."""
    return max(1, round(context_bytes / bytes_per_target / LENGTH_MULTIPLE)) * LENGTH_MULTIPLE
