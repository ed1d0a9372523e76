"""A codebook that is a fixed random one times a learned matrix, so that every step moves all codes.

Letters: `N` vectors, `D` width, `K` codes.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from tokjax.core.registry import Paper, quantizers
from tokjax.core.spec import check
from tokjax.core.types import Params, Quantized
from tokjax.kernels.nearest_code.api import nearest
from tokjax.nn.param import Param, fan_in
from tokjax.quantize.base import Context, Quantizer, code_stats, mean_square
from tokjax.quantize.gradients import GRADIENTS, Gradient, pass_gradient

ZHU = Paper(
    title="Addressing Representation Collapse in Vector Quantized Models with One Linear Layer",
    authors="Zhu, Li, Xin, Xia, Xu",
    year=2024,
    url="https://arxiv.org/abs/2411.02038",
)


@quantizers.register("simvq", papers=(ZHU,))
@dataclasses.dataclass(frozen=True, kw_only=True)
class SimVQ(Quantizer):
    """The nearest of K fixed random vectors times a learned matrix.

    The vectors are drawn once, of variance 1 / D, and never trained: trained together with the matrix they collapse as
    any codebook does.

    Attributes:
      codes: K.
      gradient: what vectors pass back.
      commitment: weight of the loss that pulls vectors to their codes.
    """

    codes: int
    gradient: Gradient = "straight_through"
    commitment: float = 0.25

    def __post_init__(self):
        super().__post_init__()
        check(self.codes >= 2, "codes", self.codes, "use at least 2.")
        check(self.gradient in GRADIENTS, "gradient", self.gradient, f"use one of {', '.join(GRADIENTS)}.")
        check(self.commitment >= 0, "commitment", self.commitment, "must not be negative.")

    @property
    def sizes(self) -> tuple[int, ...]:
        return (self.codes,)

    def declare(self) -> Any:
        return {"matrix": Param((self.width, self.width), (None, None), fan_in(self.width), decay=False)}

    def init_state(self, key: jax.Array) -> Params:
        return {"fixed": jax.random.normal(key, (self.codes, self.width)) / math.sqrt(self.width)}

    def codebook(self, params: Params, state: Params) -> jax.Array:
        """Returns the codes, [K, D]."""
        fixed = jax.lax.stop_gradient(state["fixed"])
        return jnp.matmul(fixed, params["matrix"], precision=jax.lax.Precision.HIGHEST)

    def assign(self, params: Params, state: Params, z: jax.Array, context: Context) -> Quantized:
        codebook = self.codebook(params, state)
        codes = nearest(z, codebook)
        chosen = codebook[codes]
        pull = mean_square(jax.lax.stop_gradient(z) - chosen, context.mask)
        loss = pull + self.commitment * mean_square(z - jax.lax.stop_gradient(chosen), context.mask)
        stats = code_stats(codes, context.mask, self.codes, pull)
        vectors = pass_gradient(self.gradient, z, chosen)
        return Quantized(codes=codes, vectors=vectors, loss=loss, state=state, stats=stats)

    def lookup(self, params: Params, state: Params, codes: jax.Array) -> jax.Array:
        return self.codebook(params, state)[codes]

    def flops(self, count: int) -> float:
        return 2.0 * self.codes * self.width * (count + self.width)
