"""Index backpropagation: every step trains every code, through the softmax over all of them.

z_q = C[argmax] + A(z, C, sg C) - sg A(z, C, sg C), where A is attention with keys and values in the codebook: the same
values and gradients as one-hot codes with the softmax's gradient, and no N x K matrix.

Letters: `N` vectors, `D` width, `K` codes.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from tokjax.core.registry import Paper, quantizers
from tokjax.core.spec import check
from tokjax.core.types import Params, Quantized
from tokjax.kernels.nearest_code.api import largest_product
from tokjax.nn.param import Param
from tokjax.quantize.attention import codebook_attention, mean_attention
from tokjax.quantize.base import Context, Quantizer, code_stats, entropy, masked_mean, mean_square
from tokjax.quantize.vq import uniform


@quantizers.register(
    "ibq",
    papers=(
        Paper(
            title="Scalable Image Tokenization with Index Backpropagation Quantization",
            authors="Shi, Luo, Ge, Yang, Shan, Wang",
            year=2024,
            url="https://arxiv.org/abs/2412.02692",
        ),
    ),
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class IBQ(Quantizer):
    """The code of the largest dot product, with the gradient of the softmax over all K.

    Attributes:
      codes: K.
      commitment: weight of the loss that pulls the chosen codes to the vectors.
      entropy_weight: of the loss E[H(p)] - H(E[p]), in nats.
      temperature: of p in it.
    """

    codes: int
    commitment: float = 0.25
    entropy_weight: float = 0.05
    temperature: float = 0.01

    def __post_init__(self):
        super().__post_init__()
        check(self.codes >= 2, "codes", self.codes, "use at least 2.")
        for field in ("commitment", "entropy_weight"):
            check(getattr(self, field) >= 0, field, getattr(self, field), "must not be negative.")
        check(self.temperature > 0, "temperature", self.temperature, "must be above 0.")

    @property
    def sizes(self) -> tuple[int, ...]:
        return (self.codes,)

    @property
    def additive(self) -> bool:
        return False

    def declare(self) -> Any:
        return {"codebook": Param((self.codes, self.width), (None, None), uniform(1.0 / self.codes), decay=False)}

    def assign(self, params: Params, state: Params, z: jax.Array, context: Context) -> Quantized:
        codebook, mask = params["codebook"], context.mask
        fixed = jax.lax.stop_gradient(codebook)
        codes = largest_product(z, fixed)
        chosen = codebook[codes]
        soft, _ = codebook_attention(z, codebook, fixed, 1.0)
        vectors = chosen + (soft - jax.lax.stop_gradient(soft))
        loss = mean_square(vectors - z, mask)
        loss = loss + mean_square(jax.lax.stop_gradient(chosen) - z, mask)
        loss = loss + self.commitment * mean_square(chosen - jax.lax.stop_gradient(z), mask)
        stats = code_stats(codes, mask, self.codes, mean_square(chosen - z, mask))
        if self.entropy_weight and context.train:
            scale = 1.0 / self.temperature
            mean, normaliser = codebook_attention(z, codebook, codebook, scale)
            # H(p) is the log normaliser less the mean score, which is the product with the mean code.
            of_code = masked_mean(normaliser - scale * jnp.sum(z * mean, axis=-1), mask)
            of_batch = entropy(mean_attention(z, codebook, normaliser, mask, scale))
            loss = loss + self.entropy_weight * (of_code - of_batch)
            found = jax.lax.stop_gradient({"code_entropy": of_code, "batch_entropy": of_batch})
            stats |= {name: (value, jnp.ones(())) for name, value in found.items()}
        return Quantized(codes=codes, vectors=vectors, loss=loss, state=state, stats=stats)

    def lookup(self, params: Params, state: Params, codes: jax.Array) -> jax.Array:
        del state
        return params["codebook"][codes]

    def flops(self, count: int) -> float:
        return 2.0 * count * self.codes * self.width * 5  # scores for the code; scores and sums at two temperatures
