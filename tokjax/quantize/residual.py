"""Several codes for a vector, each of what the ones before it left.

Letters: `B` samples, `N` vectors, `D` width, `S` levels.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tokjax.core.registry import Paper, quantizers
from tokjax.core.spec import check
from tokjax.core.types import Aux, Params, Quantized
from tokjax.nn.param import stack
from tokjax.quantize.base import NO_CODE, Context, Quantizer, mean_square, quantizer
from tokjax.quantize.gradients import GRADIENTS, Gradient, pass_gradient


@quantizers.register(
    "residual",
    papers=(
        Paper(
            title="SoundStream: An End-to-End Neural Audio Codec",
            authors="Zeghidour, Luebs, Omran, Skoglund, Tagliasacchi",
            year=2021,
            url="https://arxiv.org/abs/2107.03312",
        ),
    ),
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class Residual(Quantizer):
    """S codes per vector, each of what the codes before it left, as in `residual:depth=8/vq:codes=1024`.

    The first k codes of a vector are codes of their own: the rest may be `NO_CODE`. Levels of fixed range (`fsq`,
    `lfq`) are finer from level to level, by their `shrink`. The gradient passes once, from the sum to the vector; where
    every level passes it on, it arrives S times.

    Attributes:
      base: the quantizer of every level.
      depth: S.
      shared: all levels have one codebook. Its averages then move at every level.
      dropout: probability that a sample of a training batch keeps only its first k codes, k drawn evenly from 1 to S,
        so that codes are ordered by importance (nested dropout).
      gradient: what the sum passes back.
    """

    base: str
    depth: int
    shared: bool = False
    dropout: float = 0.0
    gradient: Gradient = "straight_through"

    def __post_init__(self):
        super().__post_init__()
        check(self.depth >= 1, "depth", self.depth, "must be at least 1.")
        check(0 <= self.dropout <= 1, "dropout", self.dropout, "a probability is from 0 to 1.")
        check(self.gradient in GRADIENTS, "gradient", self.gradient, f"use one of {', '.join(GRADIENTS)}.")
        single = len(self.level.sizes) == 1 and self.level.additive
        fix = "what its codes leave cannot be quantized in turn; use vq without cosine, simvq, fsq, latent or lfq."
        check(single, "base", self.base, fix)

    @functools.cached_property
    def level(self) -> Quantizer:
        """The quantizer of every level."""
        return quantizer(self.base, width=self.width)

    @property
    def sizes(self) -> tuple[int, ...]:
        return self.level.sizes * self.depth

    @property
    def _ranges(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each level's vectors: their size over that of the first ones, and their middle; float32 [S, D]."""
        number = np.arange(self.depth)[:, None]
        shrink, centre = (np.broadcast_to(x, (self.width,)) for x in (self.level.shrink, self.level.centre))
        return (shrink**number).astype(np.float32), np.where(number, centre, 0.0).astype(np.float32)

    def declare(self) -> Any:
        declared = self.level.declare()
        return declared if self.shared else stack(declared, self.depth)

    def init_state(self, key: jax.Array) -> Params:
        if self.shared:
            return self.level.init_state(key)
        return jax.vmap(self.level.init_state)(jax.random.split(key, self.depth))

    def prepare(self, x: jax.Array) -> jax.Array:
        return self.level.prepare(x)

    def _kept(self, context: Context) -> jax.Array:
        """Returns how many codes each vector keeps, int32 [N]."""
        if not (context.train and self.dropout):
            return jnp.full(context.mask.shape, self.depth)
        shape = (context.samples,)
        drawn = jax.random.randint(context.named("levels"), shape, 1, self.depth + 1)
        cut = jax.random.uniform(context.named("dropout"), shape) < self.dropout
        return context.per_vector(jnp.where(cut, drawn, self.depth))

    def assign(self, params: Params, state: Params, z: jax.Array, context: Context) -> Quantized:
        kept = self._kept(context)

        def quantize(carry: tuple, inputs: tuple) -> tuple[tuple, tuple]:
            total, shared = carry
            index, (scale, centre), own_params, own_state = inputs
            key = None if context.key is None else jax.random.fold_in(context.key, index)
            own = dataclasses.replace(context, mask=context.mask & (index < kept), key=key)
            level_params, level_state = (params, shared) if self.shared else (own_params, own_state)
            found = self.level.assign(level_params, level_state, (z - total) / scale + centre, own)
            vectors = (jax.lax.stop_gradient(found.vectors) - centre) * scale
            total = total + jnp.where(own.mask[:, None], vectors, 0.0)
            codes = jnp.where(own.mask, found.codes, NO_CODE)
            shared, own_state = (found.state, {}) if self.shared else ({}, found.state)
            return (total, shared), (codes, found.loss, found.stats, own_state)

        own = ({}, {}) if self.shared else (params, state)
        levels = (jnp.arange(self.depth), self._ranges, *own)
        start = (jnp.zeros_like(z), state if self.shared else {})
        (total, shared), (codes, losses, stats, states) = jax.lax.scan(quantize, start, levels)
        every: Aux = jax.tree.map(jnp.sum, stats)
        every["quantization_error"] = (jax.lax.stop_gradient(mean_square(z - total, context.mask)), jnp.ones(()))
        return Quantized(
            codes=codes.T,
            vectors=pass_gradient(self.gradient, z, total),
            loss=jnp.sum(losses),
            state=shared if self.shared else states,
            stats=every,
        )

    def lookup(self, params: Params, state: Params, codes: jax.Array) -> jax.Array:
        def add(total: jax.Array, inputs: tuple) -> tuple[jax.Array, None]:
            codes, (scale, centre), own_params, own_state = inputs
            own = (params, state) if self.shared else (own_params, own_state)
            vectors = (self.level.dequantize(*own, codes) - centre) * scale
            return total + jnp.where(codes[:, None] >= 0, vectors, 0.0), None

        own = ({}, {}) if self.shared else (params, state)
        return jax.lax.scan(add, jnp.zeros((len(codes), self.width)), (codes.T, self._ranges, *own))[0]

    def flops(self, count: int) -> float:
        return self.depth * self.level.flops(count)
