"""What every contender of a comparison may spend on training."""

import dataclasses
import math
import re
from typing import Literal

from tokjax.core.errors import SpecError

Data = Literal["bytes", "images"]

_SHARED = {"flops": ("flops", 1.0), "s": ("seconds", 1.0)}
# What is trained on -> unit -> (kind, how many of it).
_UNITS: dict[Data, dict[str, tuple[str, float]]] = {
    "bytes": {**_SHARED, "b": ("bytes", 1.0), "kb": ("bytes", 1e3), "mb": ("bytes", 1e6), "gb": ("bytes", 1e9)},
    "images": {**_SHARED, "images": ("images", 1.0)},
}
_LARGEST = {"bytes": "5MB", "images": "50000images"}


@dataclasses.dataclass(frozen=True)
class Budget:
    """What every system may spend on training.

    Attributes:
      kind: 'flops' (forward and backward), 'seconds' (of training steps), or 'bytes' of text or 'images' read, repeats
        included.
      amount: how much.
    """

    kind: str
    amount: float

    @classmethod
    def parse(cls, text: str, data: Data = "bytes") -> "Budget":
        """Reads '1e13flops', '60s', and '5MB' of text or '50000images'.

        Args:
          text: what to read.
          data: what is trained on.

        Raises:
          SpecError: another form, or nothing to spend.
        """
        match = re.fullmatch(r"\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*([a-z]+)\s*", text.lower())
        kind, scale = _UNITS[data].get(match[2] if match else "", ("", 1.0))
        try:
            amount = float(match[1]) * scale if match else 0.0
        except ValueError:
            kind = ""
        if not kind:
            example = _LARGEST[data]
            raise SpecError(
                f"--budget: got {text!r}; write FLOPs, seconds or {data}, as in 1e13flops, 60s or {example}."
            )
        if not amount > 0 or math.isinf(amount):
            raise SpecError(f"--budget: got {text!r}; give more than nothing, as in 1e12flops.")
        return cls(kind, amount)

    def share(self, fraction: float) -> "Budget":
        """A fraction of this budget, of the same kind."""
        return dataclasses.replace(self, amount=self.amount * fraction)
