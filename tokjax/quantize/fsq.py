"""Finite scalar quantization: every channel rounded to one of a few levels; no codebook.

Letters: `N` vectors, `D` width, `K` codes.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from tokjax.core.registry import Paper, quantizers
from tokjax.core.spec import check
from tokjax.core.types import Params, Quantized
from tokjax.quantize.base import Context, Quantizer, code_stats, mean_square
from tokjax.quantize.gradients import straight_through
from tokjax.quantize.levels import check_levels, join, split

_MARGIN = 1e-3  # share by which bounds lie outside the last level, so that it is reached


@quantizers.register(
    "fsq",
    papers=(
        Paper(
            title="Finite Scalar Quantization: VQ-VAE Made Simple",
            authors="Mentzer, Minnen, Agustsson, Tschannen",
            year=2023,
            url="https://arxiv.org/abs/2309.15505",
        ),
    ),
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class FSQ(Quantizer):
    """Every channel bounded by tanh and rounded to a level; one code for all channels.

    A code is the sum of the channels' level numbers times a mixed-radix basis, the first channel's the least. Levels of
    a channel lie from -1 up, 1 / (L // 2) apart. Vectors that codes stand for are not fixed points of `quantize`, whose
    tanh bounds them again; of rounding alone they are.

    Attributes:
      levels: L of each channel; their number is the width, their product K. [8, 8, 8, 5, 5, 5] is 64,000.
      skip_rounding: probability that a sample is bounded but not rounded, in training.
      corrupt: share of vectors that get another code, drawn evenly, in training; whoever reads them learns to bear it.
    """

    levels: tuple[int, ...]
    skip_rounding: float = 0.0
    corrupt: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        check_levels(self.levels, self.width, "fsq")
        for field in ("skip_rounding", "corrupt"):
            check(0 <= getattr(self, field) <= 1, field, getattr(self, field), "a share is from 0 to 1.")

    @property
    def sizes(self) -> tuple[int, ...]:
        return (math.prod(self.levels),)

    @property
    def shrink(self) -> tuple[float, ...]:
        return tuple(1.0 / L for L in self.levels)

    @property
    def centre(self) -> tuple[float, ...]:
        return tuple(-0.5 / (L // 2) if L % 2 == 0 else 0.0 for L in self.levels)

    @property
    def _half(self) -> np.ndarray:
        """Levels below zero of each channel, [D]; they are also the unit of level numbers."""
        return np.asarray(self.levels) // 2

    def prepare(self, x: jax.Array) -> jax.Array:
        """Returns `x` [..., D] bounded to the levels' range, -1 to 1 (Mentzer et al. 2023, appendix A.1)."""
        L = np.asarray(self.levels)
        half = (L - 1) * (1 + _MARGIN) / 2
        offset = np.where(L % 2 == 0, 0.5, 0.0)
        # Not of two levels, as the paper has it of all: nearly all vectors would be above the boundary, then at -3.8.
        shift = np.where(L > 2, np.arctanh(offset / half), 0.0)
        return (jnp.tanh(x + shift) * half - offset) / self._half

    def round(self, z: jax.Array) -> jax.Array:
        """Returns the level numbers nearest to bounded vectors `z` [..., D], int32 from 0 on."""
        numbers = jnp.round(z * self._half).astype(jnp.int32) + self._half
        return jnp.clip(numbers, 0, np.asarray(self.levels) - 1)

    def assign(self, params: Params, state: Params, z: jax.Array, context: Context) -> Quantized:
        codes = join(self.round(z), self.levels)
        if context.train and self.corrupt:
            drawn = jax.random.randint(context.named("codes"), codes.shape, 0, self.sizes[0])
            codes = jnp.where(jax.random.uniform(context.named("corrupt"), codes.shape) < self.corrupt, drawn, codes)
        levels = self.lookup(params, state, codes)
        vectors = straight_through(z, levels)
        if context.train and self.skip_rounding:
            skip = jax.random.uniform(context.named("skip"), (context.samples,)) < self.skip_rounding
            vectors = jnp.where(context.per_vector(skip)[:, None], z, vectors)
        stats = code_stats(codes, context.mask, self.sizes[0], mean_square(z - levels, context.mask))
        return Quantized(codes=codes, vectors=vectors, loss=jnp.zeros(()), state=state, stats=stats)

    def lookup(self, params: Params, state: Params, codes: jax.Array) -> jax.Array:
        del params, state
        return ((split(codes, self.levels) - self._half) / self._half).astype(jnp.float32)
