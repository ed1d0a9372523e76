"""Finite scalar perturbation: trained with noise as wide as a level in place of rounding.

Letters: `N` vectors, `D` width, `L` levels of a channel, `K` codes.
"""

import dataclasses
import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from tokjax.core.registry import Paper, quantizers
from tokjax.core.spec import check
from tokjax.core.types import Params, Quantized
from tokjax.quantize.base import Context, Quantizer, code_stats, masked_mean, mean_square
from tokjax.quantize.gradients import straight_through
from tokjax.quantize.levels import check_levels, join, split

Distribution = Literal["normal", "logistic", "tanh", "laplace"]
# Variance of the distribution whose cumulative one bounds vectors; that of tanh(x) is logistic of half the scale.
_VARIANCES = {"normal": 1.0, "logistic": math.pi**2 / 3, "tanh": math.pi**2 / 12, "laplace": 2.0}
_DEVIATION = math.sqrt(1 / 12)  # of what is even from 0 to 1


def cumulative(kind: Distribution, x: jax.Array) -> jax.Array:
    """Returns the share, from 0 to 1, of the distribution `kind` that lies below `x`."""
    if kind == "normal":
        return (1.0 + jax.lax.erf(x / math.sqrt(2.0))) / 2.0
    if kind == "laplace":
        above = x >= 0  # at 0 both sides have the same slope, which that of |x| is not
        return jnp.where(above, 1.0 - jnp.exp(-jnp.where(above, x, 0.0)) / 2.0, jnp.exp(jnp.where(above, 0.0, x)) / 2.0)
    return jax.nn.sigmoid(2.0 * x if kind == "tanh" else x)


@quantizers.register(
    "fsp",
    papers=(
        Paper(
            title="VP-VAE: Rethinking Vector Quantization via Adaptive Vector Perturbation",
            authors="Zhai, Ding, Lin, Zhao, Wang, Wang, Zhi, Xi",
            year=2026,
            url="https://arxiv.org/abs/2602.17133",
        ),
    ),
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class FSP(Quantizer):
    """Every channel bounded by a cumulative distribution, and moved within half a level in training, not rounded.

    If channels are distributed as assumed, what is bounded is even from 0 to 1, and all levels are as likely. Codes
    stand for the middles of levels, scaled to unit variance. What training sees is that only in the mean, so that the
    quantizer is not `additive`.

    Attributes:
      levels: L of each channel; their number is the width, their product K.
      distribution: that channels are assumed to have.
      rounded: share of channels that are rounded in training, too, with a straight-through gradient.
      mean_weight: weight of the loss that moves the mean of each channel to 0.
      variance_weight: weight of the loss that moves its variance to that of the distribution.
    """

    levels: tuple[int, ...]
    distribution: Distribution = "normal"
    rounded: float = 0.0
    mean_weight: float = 0.1
    variance_weight: float = 0.07

    def __post_init__(self):
        super().__post_init__()
        check_levels(self.levels, self.width, "fsp")
        known = get_args(Distribution)
        check(self.distribution in known, "distribution", self.distribution, f"use one of {', '.join(known)}.")
        check(0 <= self.rounded <= 1, "rounded", self.rounded, "a share is from 0 to 1.")
        for field in ("mean_weight", "variance_weight"):
            check(getattr(self, field) >= 0, field, getattr(self, field), "must not be negative.")

    @property
    def sizes(self) -> tuple[int, ...]:
        return (math.prod(self.levels),)

    @property
    def additive(self) -> bool:
        return False

    def assign(self, params: Params, state: Params, z: jax.Array, context: Context) -> Quantized:
        L, mask, share = np.asarray(self.levels), context.mask, cumulative(self.distribution, z)
        codes = join(jnp.clip(jnp.floor(share * L).astype(jnp.int32), 0, L - 1), self.levels)
        middles = self.lookup(params, state, codes)
        vectors = scaled = (share - 0.5) / _DEVIATION
        if context.train:
            moved = share + jax.random.uniform(context.named("noise"), z.shape, minval=-0.5, maxval=0.5) / L
            vectors = jnp.where((moved > 0) & (moved < 1), (moved - 0.5) / _DEVIATION, scaled)
        rounded = jax.random.uniform(context.named("rounded"), z.shape) < self.rounded if context.train else True
        vectors = jnp.where(rounded, straight_through(scaled, middles), vectors)
        stats = code_stats(codes, mask, self.sizes[0], mean_square(scaled - middles, mask))
        return Quantized(codes=codes, vectors=vectors, loss=self._moments(z, mask), state=state, stats=stats)

    def _moments(self, z: jax.Array, mask: jax.Array) -> jax.Array:
        """How far the mean and the variance of each channel, over vectors that count, are from those assumed."""
        mean, count = masked_mean(z, mask), jnp.sum(mask)
        variance = masked_mean(jnp.square(z - mean), mask) * count / jnp.maximum(count - 1, 1)
        of_variance = jnp.mean(jnp.square(variance - _VARIANCES[self.distribution]))
        loss = self.mean_weight * jnp.mean(jnp.square(mean)) + self.variance_weight * of_variance
        return jnp.where(count > 1, loss, 0.0)

    def lookup(self, params: Params, state: Params, codes: jax.Array) -> jax.Array:
        del params, state
        return (((split(codes, self.levels) + 0.5) / np.asarray(self.levels) - 0.5) / _DEVIATION).astype(jnp.float32)
