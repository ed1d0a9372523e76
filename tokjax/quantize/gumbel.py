"""Codes drawn from a softmax with Gumbel noise, whose gradient they have.

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
from tokjax.nn.param import Param, fan_in, normal
from tokjax.quantize.base import Context, Quantizer, code_stats, masked_mean, mean_square


@quantizers.register(
    "gumbel",
    papers=(
        Paper(
            title="Categorical Reparameterization with Gumbel-Softmax",
            authors="Jang, Gu, Poole",
            year=2016,
            url="https://arxiv.org/abs/1611.01144",
        ),
    ),
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class Gumbel(Quantizer):
    """A code drawn by Gumbel noise on learned scores, one-hot forward and the softmax backward.

    Scores of all K codes exist at once. Outside training the code of the largest score is taken.

    Attributes:
      codes: K.
      temperature: of the softmax at the first step.
      cooling: the temperature falls by a factor exp(-cooling) each step.
      coolest: temperature at which it stays.
      uniform_weight: of the loss KL(softmax of the scores, uniform), in nats.
    """

    codes: int
    temperature: float = 1.0
    cooling: float = 1e-4
    coolest: float = 0.1
    uniform_weight: float = 5e-4

    def __post_init__(self):
        super().__post_init__()
        check(self.codes >= 2, "codes", self.codes, "use at least 2.")
        for field in ("temperature", "coolest"):
            check(getattr(self, field) > 0, field, getattr(self, field), "must be above 0.")
        for field in ("cooling", "uniform_weight"):
            check(getattr(self, field) >= 0, field, getattr(self, field), "must not be negative.")

    @property
    def sizes(self) -> tuple[int, ...]:
        return (self.codes,)

    @property
    def additive(self) -> bool:
        return False

    def declare(self) -> Any:
        D, K = self.width, self.codes
        return {
            "scores": Param((D, K), (None, None), fan_in(D)),
            "codebook": Param((K, D), (None, None), normal(1.0), decay=False),
        }

    def init_state(self, key: jax.Array) -> Params:
        del key
        return {"steps": jnp.zeros((), jnp.int32)}

    def assign(self, params: Params, state: Params, z: jax.Array, context: Context) -> Quantized:
        scores = jnp.matmul(z, params["scores"], precision=jax.lax.Precision.HIGHEST)
        logs = jax.nn.log_softmax(scores)
        divergence = jnp.sum(jnp.exp(logs) * (logs + math.log(self.codes)), axis=-1)
        loss = self.uniform_weight * masked_mean(divergence, context.mask)
        if context.train:
            steps = state["steps"]
            temperature = jnp.maximum(self.temperature * jnp.exp(-self.cooling * steps), self.coolest)
            noisy = scores + jax.random.gumbel(context.named("gumbel"), scores.shape)
            codes = jnp.argmax(noisy, axis=-1).astype(jnp.int32)
            # The codes' own gradient is that of the one-hot choice, the scores' that of the softmax.
            soft = jax.nn.softmax(noisy / temperature) @ jax.lax.stop_gradient(params["codebook"])
            vectors = params["codebook"][codes] + (soft - jax.lax.stop_gradient(soft))
            state = {"steps": steps + 1}
        else:
            codes = jnp.argmax(scores, axis=-1).astype(jnp.int32)
            vectors = params["codebook"][codes]
        stats = code_stats(codes, context.mask, self.codes, mean_square(z - vectors, context.mask))
        return Quantized(codes=codes, vectors=vectors, loss=loss, state=state, stats=stats)

    def lookup(self, params: Params, state: Params, codes: jax.Array) -> jax.Array:
        del state
        return params["codebook"][codes]

    def flops(self, count: int) -> float:
        return 4.0 * count * self.codes * self.width
