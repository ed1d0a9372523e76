"""Scores of targets under a large vocabulary, a chunk of it at a time: memory does not grow with its size.

Letters: `B` batch, `T` tokens, `D` width, `V` vocabulary, `C` ids of a chunk.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from tokjax.core.types import Batch, Scores
from tokjax.embed.base import scores


def score_in_chunks(
    hidden: jax.Array, batch: Batch, rows: Callable[[jax.Array], jax.Array], vocab_size: int, chunk: int
) -> Scores:
    """Scores every target as `score_logits` does, holding logits [B, T, C] at most, in the backward pass too.

    The sum over the vocabulary is a running one (Milakov & Gimelshein 2018), and its terms are computed again for the
    gradient.

    Args:
      hidden: [B, T, D].
      batch: the targets.
      rows: ids int32 [C] -> their vectors [C, D] or [B, C, D]; ids past the last are asked for too.
      vocab_size: V.
      chunk: C.
    """

    @jax.checkpoint
    def read(carry: tuple[jax.Array, ...], first: jax.Array) -> tuple[tuple[jax.Array, ...], None]:
        maximum, total, target, best = carry  # float32 [B, T] each, and the best id int32
        ids = first + jnp.arange(chunk, dtype=jnp.int32)
        logits = jnp.where(ids < vocab_size, scores(hidden, rows(jnp.minimum(ids, vocab_size - 1))), -jnp.inf)
        highest = jnp.max(logits, axis=-1)
        new = jnp.maximum(maximum, highest)
        weights = jnp.exp(logits - jax.lax.stop_gradient(new)[..., None])
        total = total * jnp.exp(maximum - jax.lax.stop_gradient(new)) + jnp.sum(weights, axis=-1)
        place = batch.targets - first
        here = (place >= 0) & (place < chunk)
        found = jnp.take_along_axis(logits, jnp.clip(place, 0, chunk - 1)[..., None], axis=-1)[..., 0]
        best = jnp.where(highest > maximum, first + jnp.argmax(logits, axis=-1).astype(jnp.int32), best)
        return (jax.lax.stop_gradient(new), total, jnp.where(here, found, target), best), None

    shape = batch.targets.shape
    start = (jnp.full(shape, -jnp.inf), jnp.zeros(shape), jnp.zeros(shape), jnp.zeros(shape, jnp.int32))
    firsts = jnp.arange(0, vocab_size, chunk, dtype=jnp.int32)
    (maximum, total, target, best), _ = jax.lax.scan(read, start, firsts)
    nll = jnp.log(total) + maximum - target
    return Scores(
        nll=nll * batch.loss_mask,
        correct=(best == batch.targets) * batch.loss_mask,
        overflow=jnp.zeros((), jnp.float32),
    )
