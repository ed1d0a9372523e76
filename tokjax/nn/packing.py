"""Between a packed row of symbols and the few of its positions that stand for words.

Letters: `B` batch, `T` symbols, `W` words, `D` width.
"""

import jax
import jax.numpy as jnp


def first_marked(marked: jax.Array, slots: int) -> tuple[jax.Array, jax.Array]:
    """Returns where the first `slots` marks of each row are.

    Args:
      marked: bool [B, T].
      slots: W; marks past it are left out.

    Returns:
      (int32 [B, W] positions, the last one where there are fewer marks; bool [B, W] whether the slot is filled).
    """
    last = marked.shape[1] - 1
    at = jax.vmap(lambda row: jnp.nonzero(row, size=slots, fill_value=last)[0])(marked)
    filled = jnp.arange(slots) < jnp.sum(marked, axis=1, keepdims=True)
    return at.astype(jnp.int32), filled


def take_positions(x: jax.Array, at: jax.Array) -> jax.Array:
    """Returns `x` [B, T] or [B, T, D] at the positions `at` [B, W] of each row."""
    return jnp.take_along_axis(x, at if x.ndim == 2 else at[..., None], axis=1)


def starts_of_segments(segment_ids: jax.Array) -> jax.Array:
    """Returns bool [B, T], True where `segment_ids` [B, T] differs from its left neighbour (0 before the row)."""
    return segment_ids != shift_right(segment_ids)


def shift_right(x: jax.Array) -> jax.Array:
    """Returns `x` [B, T] moved one position to the right, zero at the first."""
    return jnp.pad(x, ((0, 0), (1, 0)))[:, :-1]
