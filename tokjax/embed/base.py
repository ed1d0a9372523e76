"""The one signature of embeddings: (ids, params, key) -> vectors, and (vectors, params, key) -> logits of ids.

Letters: `B` batch, `T` tokens, `L` bytes in a word, `D` width, `V` vocabulary, `N` ids.
"""

import abc
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from tokjax.core.keys import named
from tokjax.core.registry import embeddings
from tokjax.core.spec import build, check, read_named
from tokjax.core.types import Params
from tokjax.nn import layers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Embedding(abc.ABC):
    """Base of embedding specs. The last id is the end of a document; words of bytes have no such id.

    A key, where vectors are drawn and not learned, is one for all rows of a batch, or [B], one for each.

    Attributes:
      vocab_size: V.
      width: D.
    """

    vocab_size: int
    width: int

    def __post_init__(self):
        check(self.vocab_size >= 2, "vocab_size", self.vocab_size, "a model needs at least two symbols.")

    def simplest(self) -> "Embedding":
        """Returns the simplest embedding that is the same as this one."""
        return self

    @property
    def drawn(self) -> bool:
        """Whether vectors depend on the key."""
        return False

    @property
    def context(self) -> int:
        """Ids before it that the vector of an id depends on."""
        return 0

    @property
    def cap(self) -> int:
        """Bytes of the longest word, where ids are the bytes of words, which have no logits; 0 where they are not."""
        return 0

    @abc.abstractmethod
    def declare(self) -> Any:
        """Returns the declarations of what is learned."""

    @abc.abstractmethod
    def rows(self, params: Params, ids: jax.Array, key: jax.Array) -> jax.Array:
        """Returns the vectors of `ids` int32 [N] that logits are products with, of variance 1 / D.

        They are float32 [N, D]; [B, N, D] where they differ from row to row, as drawn vectors do with keys [B].
        """

    def vectors(self, params: Params, ids: jax.Array, segment_ids: jax.Array, key: jax.Array) -> jax.Array:
        """Returns what the model reads in place of `ids`: float32 [B, T, D] of about unit variance.

        Args:
          params: arrays as declared.
          ids: int32 [B, T]; [B, T, L] where they are the bytes of words.
          segment_ids: int32 [B, T], which document each position belongs to; no vector depends on another one's ids.
          key: one, or [B].
        """
        del segment_ids
        each = jax.vmap(self.rows, in_axes=(None, 0, 0 if key.ndim else None))
        return each(params, ids, key) * math.sqrt(self.width)

    def logits(self, params: Params, hidden: jax.Array, key: jax.Array) -> jax.Array:
        """Returns float32 logits [B, T, V] of `hidden` [B, T, D]."""
        rows = self.rows(params, jnp.arange(self.vocab_size, dtype=jnp.int32), key)
        return scores(hidden, rows)

    def flops(self, count: int) -> float:
        """Returns the forward FLOPs of the matrix products that make `count` vectors; a look-up has none."""
        del count
        return 0.0


def scores(hidden: jax.Array, rows: jax.Array) -> jax.Array:
    """Returns float32 products [B, T, N] of `hidden` [B, T, D] with `rows` [N, D] or [B, N, D]."""
    if rows.ndim == 2:
        return layers.readout(rows, hidden, len(rows))
    return jnp.einsum("btd,bnd->btn", hidden, rows.astype(hidden.dtype), preferred_element_type=jnp.float32)


def evaluation_key(draw: int) -> jax.Array:
    """The key of draw number `draw` in evaluation and generation."""
    return jax.random.fold_in(named(jax.random.key(0), "embedding"), draw)


def embedding(text: str, *, vocab_size: int, width: int) -> Embedding:
    """Returns the embedding `NAME` or `NAME:field=value:...`, as in `mixture:p=0.2` or `pooled_bytes:kind=mean`.

    Raises:
      UnknownNameError, SpecError: no such embedding, no such field, or an impossible value.
    """
    name, fields = read_named(text, where="embedding")
    sized = {**fields, "vocab_size": vocab_size, "width": width}
    return build(embeddings[name], sized, where="embedding").simplest()
