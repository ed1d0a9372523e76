"""One vector for a word, made of its bytes: the mean, or attention from queries to the bytes.

`latent_query` is the cross-attention of Byte2Word (Lee et al. 2022): learned queries attend to the bytes of the word,
and what they read is laid side by side and mapped linearly to the width of the model. As the queries depend on no input
and nothing nonlinear follows the weighted sum, key and value matrices would only multiply into the queries and the last
map; there are none. In `attention` the queries are linear in the mean of the word's bytes.

Letters: `B` batch, `T` words, `L` bytes in a word, `D` width, `H` queries, `K` byte width.
"""

import dataclasses
import math
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from tokjax.core.errors import SpecError
from tokjax.core.registry import Paper, embeddings
from tokjax.core.spec import check
from tokjax.core.types import Params
from tokjax.embed.base import Embedding
from tokjax.nn import layers
from tokjax.nn.param import Param, fan_in, normal

LEE = Paper(
    title="Word-Level Representation From Bytes For Language Modeling",
    authors="Lee, Guo, Qiu",
    year=2022,
    url="https://arxiv.org/abs/2211.12677",
)
PAD = -1  # in place of a byte that a word does not have
Kind = Literal["latent_query", "attention", "mean"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_MASKED = -1e30  # the score of a byte that is no part of the word


@embeddings.register("pooled_bytes", papers=(LEE,))
@dataclasses.dataclass(frozen=True, kw_only=True)
class PooledBytes(Embedding):
    """One vector for a word, made of its bytes; for models that read words.

    `ids` are int32 [B, T, L], the bytes of each word and then `PAD`. A vector is a function of its word alone, zero for
    a word without bytes.

    Attributes:
      vocab_size: bytes and special symbols.
      kind: how bytes are pooled.
      byte_width: K.
      queries: H; the mean has none, and one vector to map.
      cap: the most that L may be.
    """

    kind: Kind = "latent_query"
    byte_width: int = 64
    queries: int = 8
    cap: int = 20

    def __post_init__(self):
        super().__post_init__()
        check(self.kind in KINDS, "kind", self.kind, f"use one of {', '.join(KINDS)}.")
        for field in ("byte_width", "queries", "cap"):
            check(getattr(self, field) >= 1, field, getattr(self, field), "must be at least 1.")

    @property
    def _pooled(self) -> int:
        """Vectors of a word that the last map reads."""
        return 1 if self.kind == "mean" else self.queries

    def declare(self) -> Any:
        K = self.byte_width
        tree = {
            "bytes": layers.declare_embedding(self.vocab_size, K),
            "positions": Param((self.cap, K), (None, "embed"), normal(1.0), decay=False),
            "to_word": Param((self._pooled, K, self.width), (None, "embed", "mlp"), fan_in(self._pooled * K)),
        }
        if self.kind == "latent_query":
            tree["queries"] = Param((self.queries, K), (None, "embed"), normal(1.0), decay=False)
        elif self.kind == "attention":
            tree["queries"] = Param((K, self.queries, K), ("embed", None, "mlp"), fan_in(K))
        return tree

    def rows(self, params: Params, ids: jax.Array, key: jax.Array) -> jax.Array:
        raise SpecError("pooled_bytes: words are no ids to score; give the model an output table, as byte2word has.")

    def vectors(self, params: Params, ids: jax.Array, segment_ids: jax.Array, key: jax.Array) -> jax.Array:
        del segment_ids, key
        L = ids.shape[-1]
        check(self.cap >= L, "cap", self.cap, f"a word has room for {L} bytes; cut words, or use cap={L}.")
        inside = ids >= 0
        x = layers.embed(params["bytes"], jnp.maximum(ids, 0)) + params["positions"][:L]
        weights = inside[..., None, :] / jnp.maximum(jnp.sum(inside, axis=-1), 1)[..., None, None]  # the mean's
        if self.kind == "latent_query":
            weights = _attention(params["queries"], x, inside)
        elif self.kind == "attention":
            mean = jnp.einsum("...hl,...lk->...k", weights, x)
            weights = _attention(layers.project(mean, params["queries"]), x, inside)
        return layers.project(jnp.einsum("...hl,...lk->...hk", weights, x), params["to_word"], inputs=2)

    def flops(self, count: int) -> float:
        K = self.byte_width
        total = self._pooled * K * (self.cap + self.width)  # what is read, and its map
        if self.kind != "mean":
            total += self.queries * K * self.cap  # scores
        if self.kind == "attention":
            total += K * self.cap + self.queries * K**2  # queries
        return 2.0 * count * total


def _attention(queries: jax.Array, x: jax.Array, inside: jax.Array) -> jax.Array:
    """Softmax over the bytes of the word, [..., H, L]; zero where no byte is inside."""
    scores = jnp.einsum("...hk,...lk->...hl", queries, x)
    scores = jnp.where(inside[..., None, :], scores / math.sqrt(x.shape[-1]), _MASKED)
    return jax.nn.softmax(scores, axis=-1) * inside[..., None, :]
