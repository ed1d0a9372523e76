"""Labels without training: the nearest of K fixed random directions to a fixed random projection.

Letters: `N` vectors, `D` width, `d` projected width, `K` codes.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from tokjax.core.keys import named
from tokjax.core.registry import Paper, quantizers
from tokjax.core.spec import check
from tokjax.core.types import Params, Quantized
from tokjax.kernels.nearest_code.api import nearest
from tokjax.quantize.base import Context, Quantizer, code_stats, mean_square
from tokjax.quantize.gradients import unit

_EPSILON = 1e-5  # added to variances


@quantizers.register(
    "random_projection",
    papers=(
        Paper(
            title="Self-supervised Learning with Random-projection Quantizer for Speech Recognition",
            authors="Chiu, Qin, Zhang, Yu, Wu",
            year=2022,
            url="https://arxiv.org/abs/2202.01855",
        ),
    ),
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomProjection(Quantizer):
    """Labels for masked prediction: the nearest of K random directions to a random projection; nothing is trained.

    Vectors are first brought to mean 0 and variance 1 over their channels. Codes stand for their direction, of the
    projected width, and pass no gradient.

    Attributes:
      codes: K.
      projected: d.
    """

    codes: int
    projected: int = 16

    def __post_init__(self):
        super().__post_init__()
        check(self.codes >= 2, "codes", self.codes, "use at least 2.")
        check(self.projected >= 1, "projected", self.projected, "must be at least 1.")

    @property
    def sizes(self) -> tuple[int, ...]:
        return (self.codes,)

    @property
    def code_width(self) -> int:
        return self.projected

    @property
    def additive(self) -> bool:
        return False

    def init_state(self, key: jax.Array) -> Params:
        bound = math.sqrt(6.0 / (self.width + self.projected))  # Glorot & Bengio 2010, as the paper has it
        shape = (self.width, self.projected)
        directions = jax.random.normal(named(key, "codebook"), (self.codes, self.projected))
        return {
            "projection": jax.random.uniform(named(key, "projection"), shape, minval=-bound, maxval=bound),
            "codebook": unit(directions),
        }

    def prepare(self, x: jax.Array) -> jax.Array:
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        return centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + _EPSILON)

    def assign(self, params: Params, state: Params, z: jax.Array, context: Context) -> Quantized:
        z = jax.lax.stop_gradient(z)
        directions = unit(jnp.matmul(z, state["projection"], precision=jax.lax.Precision.HIGHEST))
        codes = nearest(directions, state["codebook"])
        vectors = jax.lax.stop_gradient(state["codebook"][codes])
        stats = code_stats(codes, context.mask, self.codes, mean_square(directions - vectors, context.mask))
        return Quantized(codes=codes, vectors=vectors, loss=jnp.zeros(()), state=state, stats=stats)

    def lookup(self, params: Params, state: Params, codes: jax.Array) -> jax.Array:
        del params
        return state["codebook"][codes]

    def flops(self, count: int) -> float:
        return 2.0 * count * self.projected * (self.width + self.codes)
