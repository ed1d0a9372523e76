"""Scores of targets under a large vocabulary in memory that does not grow with its size.

Letters: `B` batch, `T` tokens, `D` width, `V` vocabulary, `C` ids of a chunk.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from tokjax.core.types import Batch, Scores
from tokjax.embed.base import scores
from tokjax.kernels import library
from tokjax.kernels.nearest_code.api import Precision, largest_product
from tokjax.sharding import over_mesh


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


def score_by_library(hidden: jax.Array, batch: Batch, table: jax.Array) -> Scores:
    """Scores every target as `score_logits` does, by a kernel of tokamax that never writes the logits.

    That kernel tells the cost alone. Whether a target is the likeliest id is found by `largest_product`, which reads
    the table once more and sends no gradient. Every device has the whole table.

    Args:
      hidden: [B, T, D].
      batch: the targets.
      table: [V, D].

    Raises:
      SpecError: tokamax is not installed.
    """
    loss = library.tokamax("cross_entropy").linear_softmax_cross_entropy_loss

    def of_part(hidden: jax.Array, targets: jax.Array, table: jax.Array) -> jax.Array:
        rows = hidden.reshape(-1, hidden.shape[-1])
        return loss(rows, targets.reshape(-1), table.T, reduction="none").reshape(targets.shape)

    places = ("batch", "length")
    table = table.astype(hidden.dtype)
    nll = over_mesh(of_part, ((*places, None), places, (None, None)), places)(hidden, batch.targets, table)
    precision: Precision = "bfloat16" if hidden.dtype == jnp.bfloat16 else "float32"
    best = largest_product(hidden.reshape(-1, hidden.shape[-1]), table, precision=precision)
    return Scores(
        nll=nll.astype(jnp.float32) * batch.loss_mask,
        correct=(best.reshape(batch.targets.shape) == batch.targets) * batch.loss_mask,
        overflow=jnp.zeros((), jnp.float32),
    )
