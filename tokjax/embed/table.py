"""A learned vector for every id."""

import dataclasses
from typing import Any

import jax

from tokjax.core.registry import embeddings
from tokjax.core.types import Params
from tokjax.embed.base import Embedding
from tokjax.nn import layers


@embeddings.register("table")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Table(Embedding):
    """A learned vector for every id."""

    def declare(self) -> Any:
        return layers.declare_embedding(self.vocab_size, self.width)

    def rows(self, params: Params, ids: jax.Array, key: jax.Array) -> jax.Array:
        del key
        return params[ids]

    def vectors(self, params: Params, ids: jax.Array, segment_ids: jax.Array, key: jax.Array) -> jax.Array:
        del segment_ids, key
        return layers.embed(params, ids)

    def logits(self, params: Params, hidden: jax.Array, key: jax.Array) -> jax.Array:
        del key
        return layers.readout(params, hidden, self.vocab_size)
