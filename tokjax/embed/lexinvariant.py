"""Embeddings without a vocabulary: every id gets a fresh random vector in every sequence (Huang et al. 2023).

The vector of an id is drawn where it is needed, from the sequence's key and the id, so that no table exists and memory
does not grow with the vocabulary. What an id means, a model can then only learn from the sequence itself.

Letters: `D` width, `V` vocabulary, `N` ids.
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
from tokjax.embed.table import Table
from tokjax.nn import layers
from tokjax.nn.param import Param, fan_in, normal

HUANG = Paper(
    title="Lexinvariant Language Models",
    authors="Huang, Zelikman, Chen, Wu, Valiant, Liang",
    year=2023,
    url="https://arxiv.org/abs/2305.16349",
)


def draw(key: jax.Array, ids: jax.Array, width: int) -> jax.Array:
    """Returns Gaussian vectors of variance 1 / D, a function of the key and the id alone.

    Args:
      key: one -> [N, D]; [B] -> [B, N, D].
      ids: int32 [N].
      width: D.
    """
    if key.ndim:
        return jax.vmap(draw, in_axes=(0, None, None))(key, ids, width)
    each = jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i), (width,)))
    return each(ids) / jnp.sqrt(jnp.float32(width))


@embeddings.register("lexinvariant", papers=(HUANG,))
@dataclasses.dataclass(frozen=True, kw_only=True)
class Lexinvariant(Embedding):
    """A fresh random vector for every id in every sequence; only the end of a document keeps a learned one.

    A sequence is a row of a batch: documents of one row share their draw, and none sees another.

    To what it reads, a model adds one learned vector that all ids have in common, which the paper does not mention.
    It tells no id from another. Drawn vectors have no direction on average, so that without it no score of attention
    could depend on distance alone, and no head could look at the position before.

    Attributes:
      channels: of the width that drawn vectors take, which is ours too: the first ones where they are read, the last
        ones where logits are products with them. The others have fixed directions, for what a model makes of symbols.
        The vector in common is in these, and the first position of a document or row is read as the end of the one
        before, whatever stands there: heads that attend to it where nothing is alike can count what is. 0 is all of
        the width, as in the paper.
    """

    channels: int = 0

    def __post_init__(self):
        super().__post_init__()
        fix = f"use 1 to half of the width, {self.width // 2}, or 0 for all of it."
        check(0 <= 2 * self.channels <= self.width, "channels", self.channels, fix)

    @property
    def drawn(self) -> bool:
        return True

    @property
    def context(self) -> int:
        return 1 if self.channels else 0  # whether a symbol is the first

    def declare(self) -> Any:
        end = {"end_of_document": Param((1, self.width), (None, "embed"), fan_in(self.width), decay=False)}
        if not self.channels:
            return {**end, "common": Param((self.width,), ("embed",), normal(0.5), decay=False)}
        fixed = Param((self.width - self.channels,), ("embed",), normal(1.0), decay=False)
        return {**end, "common": fixed}

    def vectors(self, params: Params, ids: jax.Array, segment_ids: jax.Array, key: jax.Array) -> jax.Array:
        if not self.channels:
            return super().vectors(params, ids, segment_ids, key) + params["common"]
        end = params["end_of_document"] * math.sqrt(self.width)
        each = jax.vmap(draw, in_axes=(0 if key.ndim else None, 0, None))
        drawn = each(key, ids, self.channels) * math.sqrt(self.channels)
        is_first = segment_ids != jnp.pad(segment_ids[:, :-1], ((0, 0), (1, 0)))
        common = jnp.broadcast_to(params["common"], (*ids.shape, self.width - self.channels))
        is_end = is_first | (ids == self.vocab_size - 1)
        return jnp.where(is_end[..., None], end, jnp.concatenate([drawn, common], axis=-1))

    def rows(self, params: Params, ids: jax.Array, key: jax.Array) -> jax.Array:
        is_end = (ids == self.vocab_size - 1)[:, None]
        drawn = draw(key, ids, self.channels or self.width)
        before = [(0, 0)] * (drawn.ndim - 1) + [(self.width - drawn.shape[-1], 0)]
        return jnp.where(is_end, params["end_of_document"], jnp.pad(drawn, before))


@embeddings.register("mixture", papers=(HUANG,))
@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixture(Embedding):
    """Each id has, in each sequence and with probability p, a fresh random vector, else its learned one.

    Attributes:
      p: 0 becomes `table`, 1 `lexinvariant`.
    """

    p: float = 0.2

    def __post_init__(self):
        super().__post_init__()
        check(0 <= self.p <= 1, "p", self.p, "use a probability, 0 to 1.")

    def simplest(self) -> Embedding:
        if self.p == 0:
            return Table(vocab_size=self.vocab_size, width=self.width)
        return Lexinvariant(vocab_size=self.vocab_size, width=self.width) if self.p == 1 else self

    @property
    def drawn(self) -> bool:
        return True

    def declare(self) -> Any:
        return layers.declare_embedding(self.vocab_size, self.width)

    def rows(self, params: Params, ids: jax.Array, key: jax.Array) -> jax.Array:
        is_drawn = self._is_drawn(ids, key) & (ids != self.vocab_size - 1)
        return jnp.where(is_drawn[..., None], draw(key, ids, self.width), params[ids])

    def _is_drawn(self, ids: jax.Array, key: jax.Array) -> jax.Array:
        """Bool [N], or [B, N] with keys [B]."""
        if key.ndim:
            return jax.vmap(self._is_drawn, in_axes=(None, 0))(ids, key)
        coin = jax.random.fold_in(key, 0xFFFFFFFF)  # no id
        return jax.vmap(lambda i: jax.random.bernoulli(jax.random.fold_in(coin, i), self.p))(ids)
