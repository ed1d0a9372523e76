"""Learned vectors of ids, and of the n-grams that end in them, hashed into tables of fixed size (Pagnoni et al. 2024).

Letters: `B` batch, `T` tokens, `D` width, `N` ids.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from tokjax.core.registry import Paper, embeddings
from tokjax.core.spec import check
from tokjax.core.types import Params
from tokjax.embed.base import Embedding
from tokjax.nn import layers

_MULTIPLIER = 1_000_003  # of the polynomial; odd, so that every id matters modulo 2**32
_MIX = 0x9E3779B1  # spreads the low bits over the high ones, of which the bucket is made


@embeddings.register(
    "ngram_hash",
    papers=(
        Paper(
            title="Byte Latent Transformer: Patches Scale Better Than Tokens",
            authors="Pagnoni et al.",
            year=2024,
            url="https://arxiv.org/abs/2412.09871",
        ),
    ),
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class NgramHash(Embedding):
    """A learned vector for every id, and one for the bucket of each n-gram that ends in it.

    Logits are products with the vectors of ids alone.

    Attributes:
      smallest, largest: n, from and to.
      buckets: of each n, a power of two.
    """

    smallest: int = 3
    largest: int = 5
    buckets: int = 4096

    def __post_init__(self):
        super().__post_init__()
        check(2 <= self.smallest <= self.largest, "smallest", self.smallest, "use 2 up to `largest`.")
        power = self.buckets >= 8 and self.buckets & (self.buckets - 1) == 0
        check(power, "buckets", self.buckets, "use a power of two, at least 8.")

    @property
    def context(self) -> int:
        return self.largest - 1

    @property
    def _sizes(self) -> range:
        return range(self.smallest, self.largest + 1)

    def declare(self) -> Any:
        ngrams = {str(n): layers.declare_embedding(self.buckets, self.width) for n in self._sizes}
        return {"ids": layers.declare_embedding(self.vocab_size, self.width), "ngrams": ngrams}

    def rows(self, params: Params, ids: jax.Array, key: jax.Array) -> jax.Array:
        del key
        return params["ids"][ids]

    def vectors(self, params: Params, ids: jax.Array, segment_ids: jax.Array, key: jax.Array) -> jax.Array:
        del key
        total = params["ids"][ids]
        for n, bucket in self.bucket_of(ids, segment_ids).items():
            total = total + params["ngrams"][str(n)][bucket]
        return total * math.sqrt(self.width / (1 + len(self._sizes)))

    def bucket_of(self, ids: jax.Array, segment_ids: jax.Array) -> dict[int, jax.Array]:
        """Returns, for each n, the bucket int32 [B, T] of the n-gram that ends at each position.

        What would reach into another document, or before the row, counts as nothing, alike at every start.
        """
        sums = jnp.zeros(ids.shape, jnp.uint32)
        found = {}
        for back in range(self.largest):
            earlier = jnp.pad(ids, ((0, 0), (back, 0)))[:, : ids.shape[1]]
            same = jnp.pad(segment_ids, ((0, 0), (back, 0)), constant_values=-1)[:, : ids.shape[1]] == segment_ids
            power = pow(_MULTIPLIER, back, 1 << 32)
            sums += jnp.where(same, earlier + 1, 0).astype(jnp.uint32) * jnp.uint32(power)
            if back + 1 in self._sizes:
                found[back + 1] = ((sums * jnp.uint32(_MIX)) >> (32 - self.buckets.bit_length() + 1)).astype(jnp.int32)
        return found
