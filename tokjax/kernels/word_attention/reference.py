"""Word attention as plain XLA: the oracle of the kernels, and what runs where there is none.

Letters: `B` batch, `S` slots, `H` query heads, `G` key heads, `K` head width.
"""

import jax
import jax.numpy as jnp

from tokjax.nn.attention import masked_attention

BLOCK = 128  # slots of a block: a tile of every accelerator's matrix unit


def word_attention_xla(
    q: jax.Array, k: jax.Array, v: jax.Array, query_ids: jax.Array, key_ids: jax.Array, *, causal: bool
) -> jax.Array:
    """Args and result are those of `api.word_attention`; every block is a row of its own. Any derivative exists."""

    def blocks(x: jax.Array) -> jax.Array:
        return x.reshape(-1, BLOCK, *x.shape[2:])

    seen = visible(blocks(query_ids), blocks(key_ids), causal)
    return masked_attention(blocks(q), blocks(k), blocks(v), mask=seen).reshape(q.shape)


def visible(query_ids: jax.Array, key_ids: jax.Array, causal: bool) -> jax.Array:
    """Returns which keys of its block each query sees: ids int32 [..., 128] to bool [..., 128, 128]."""
    seen = (query_ids[..., :, None] == key_ids[..., None, :]) & (query_ids[..., :, None] != 0)
    return seen & jnp.tri(BLOCK, dtype=bool) if causal else seen
