"""Word attention as plain XLA: the oracle of the kernels, and what runs where there is none.

Letters: `B` batch, `S` slots, `H` query heads, `G` key heads, `R` = H / G, `K` head width, `C` blocks.
"""

import math

import jax
import jax.numpy as jnp

BLOCK = 128  # slots of a block: a tile of every accelerator's matrix unit
MASKED = -1e30  # the score of an unseen key
FLOOR = -1e20  # least row maximum: far above MASKED, so that a row that sees nothing has weights exp(-1e30) = 0


def word_attention_xla(
    q: jax.Array, k: jax.Array, v: jax.Array, query_ids: jax.Array, key_ids: jax.Array, *, causal: bool
) -> jax.Array:
    """Args and result are those of `api.word_attention`; differentiable by the usual rules."""
    B, S, H, K = q.shape
    G, C = k.shape[2], S // BLOCK
    scale = 1.0 / math.sqrt(K)
    queries = q.reshape(B, C, BLOCK, G, H // G, K)
    keys, values = (x.reshape(B, C, BLOCK, G, K) for x in (k, v))
    scores = jnp.einsum("bcqgrk,bcsgk->bcgrqs", queries, keys, preferred_element_type=jnp.float32) * scale
    seen = visible(query_ids.reshape(B, C, BLOCK), key_ids.reshape(B, C, BLOCK), causal)
    scores = jnp.where(seen[:, :, None, None], scores, MASKED)
    maxima = jax.lax.stop_gradient(jnp.maximum(scores.max(axis=-1, keepdims=True), FLOOR))
    weights = jnp.exp(scores - maxima)
    sums = weights.sum(axis=-1, keepdims=True)
    weights = (weights / jnp.where(sums == 0, 1.0, sums)).astype(v.dtype)
    out = jnp.einsum("bcgrqs,bcsgk->bcqgrk", weights, values, preferred_element_type=jnp.float32)
    return out.astype(q.dtype).reshape(B, S, H, K)


def visible(query_ids: jax.Array, key_ids: jax.Array, causal: bool) -> jax.Array:
    """Returns which keys of its block each query sees: ids int32 [..., 128] to bool [..., 128, 128]."""
    seen = (query_ids[..., :, None] == key_ids[..., None, :]) & (query_ids[..., :, None] != 0)
    return seen & jnp.tri(BLOCK, dtype=bool) if causal else seen
