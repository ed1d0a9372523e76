"""Latent quantization: every channel becomes one of its own few values, which are learned.

Letters: `N` vectors, `D` width, `L` values of a channel, `K` codes.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tokjax.core.registry import Paper, quantizers
from tokjax.core.spec import check
from tokjax.core.types import Params, Quantized
from tokjax.nn.param import Param
from tokjax.quantize.base import Context, Quantizer, code_stats, mean_square
from tokjax.quantize.gradients import straight_through
from tokjax.quantize.levels import check_levels, join, split


def _evenly(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    del key
    return jnp.linspace(-0.5, 0.5, shape[0])


@quantizers.register(
    "latent",
    papers=(
        Paper(
            title="Disentanglement via Latent Quantization",
            authors="Hsu, Dorrell, Whittington, Wu, Finn",
            year=2023,
            url="https://arxiv.org/abs/2305.18378",
        ),
    ),
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class Latent(Quantizer):
    """Every channel the nearest of its own values, which gradients move; one code for all channels.

    Codes stand for the values as they are now, wherever training has moved them. The paper also decays the weights of
    encoder and decoder strongly (`optimizer.weight_decay`), without which channels do not come apart.

    Attributes:
      levels: L of each channel, at first evenly from -1/2 to 1/2; their number is the width, their product K.
      commitment: weight of the loss that pulls vectors to their values.
      quantization: weight of the loss that pulls values to their vectors.
    """

    levels: tuple[int, ...]
    commitment: float = 0.1
    quantization: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        check_levels(self.levels, self.width, "latent")
        for field in ("commitment", "quantization"):
            check(getattr(self, field) >= 0, field, getattr(self, field), "must not be negative.")

    @property
    def sizes(self) -> tuple[int, ...]:
        return (math.prod(self.levels),)

    def declare(self) -> Any:
        return {
            "values": {
                f"{channel:03}": Param((L,), (None,), _evenly, decay=False) for channel, L in enumerate(self.levels)
            }
        }

    def _values(self, params: Params) -> jax.Array:
        """The values [D, largest L], those that a channel does not have infinitely far away."""
        most = max(self.levels)
        rows = [jnp.pad(v, (0, most - len(v)), constant_values=np.inf) for _, v in sorted(params["values"].items())]
        return jnp.stack(rows)

    def assign(self, params: Params, state: Params, z: jax.Array, context: Context) -> Quantized:
        values, mask = self._values(params), context.mask
        numbers = jnp.argmin(jnp.abs(z[:, :, None] - jax.lax.stop_gradient(values)), axis=-1).astype(jnp.int32)
        codes = join(numbers, self.levels)
        chosen = self.lookup(params, state, codes)
        loss = self.commitment * mean_square(z - jax.lax.stop_gradient(chosen), mask)
        loss = loss + self.quantization * mean_square(jax.lax.stop_gradient(z) - chosen, mask)
        stats = code_stats(codes, mask, self.sizes[0], mean_square(z - chosen, mask))
        return Quantized(codes=codes, vectors=straight_through(z, chosen), loss=loss, state=state, stats=stats)

    def lookup(self, params: Params, state: Params, codes: jax.Array) -> jax.Array:
        del state
        return self._values(params)[np.arange(self.width), split(codes, self.levels)]
