"""Scaled dot-product attention: dense, in causal blocks, over local windows, and over a cache.

Letters: `B` batch, `T` query tokens, `S` key tokens, `H` query heads, `G` key heads, `K` head width.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp

from tokjax.core.errors import SpecError, nearest

Implementation = Literal["xla", "blocks", "cudnn"]
IMPLEMENTATIONS: tuple[Implementation, ...] = ("xla", "blocks", "cudnn")
QUERY_BLOCK = 128  # queries per static causal block; a larger block wastes more of the triangle, a smaller one the matmul
_MASKED = -0.7 * float(jnp.finfo(jnp.float32).max)  # finite: a row with every key masked has no NaN, forward or backward


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    segment_ids: jax.Array | None = None,
    causal: bool = True,
    implementation: Implementation | None = None,
) -> jax.Array:
    """Returns softmax(q k^T / sqrt(K)) v, [B, T, H, K] in q's dtype, with the softmax in float32."""
    _check_shapes(q, k, v)
    implementation = implementation or default_implementation(q.shape[1], causal)
    if implementation not in IMPLEMENTATIONS:
        raise SpecError(f"implementation: got {implementation!r}.{nearest(implementation, IMPLEMENTATIONS)}")
    if implementation == "blocks" and causal:
        return _causal_blocks(q, k, v, segment_ids)
    return _attend(q, k, v, visible(segment_ids, q.shape[1], causal))


def default_implementation(length: int, causal: bool) -> Implementation:
    """Returns the fastest implementation known for the default backend and this static shape."""
    on_cpu = jax.default_backend() == "cpu"
    return "blocks" if on_cpu and causal and length >= 2 * QUERY_BLOCK else "xla"


def visible(segment_ids: jax.Array | None, length: int, causal: bool) -> jax.Array | None:
    """Returns which keys each query sees, bool [B or 1, T, T], or None when all are seen."""
    mask = jnp.tri(length, dtype=bool)[None] if causal else None
    if segment_ids is None:
        return mask
    same = (segment_ids[:, :, None] == segment_ids[:, None, :]) & (segment_ids[:, :, None] != 0)
    return same if mask is None else same & mask


def cached_attention(q: jax.Array, k_cache: jax.Array, v_cache: jax.Array, *, mask: jax.Array) -> jax.Array:
    """Attends from new tokens to a cache: q [B, T, H, K], cache [B, S, G, K], mask bool [B, T, S] -> [B, T, H, K]."""
    _check_shapes(q, k_cache, v_cache)
    return _attend(q, k_cache, v_cache, mask)


def local_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, *, segment_ids: jax.Array, block: int, causal: bool
) -> jax.Array:
    """Attends within blocks of `block` positions and their neighbours, in time linear in T."""
    return _neighbour_blocks(q, k, v, segment_ids, block, causal, None)


def sliding_window_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, *, segment_ids: jax.Array, window: int
) -> jax.Array:
    """Attends from each position to the last `window` positions of its segment, itself included."""
    return _neighbour_blocks(q, k, v, segment_ids, window, True, window)


def attention_flops(batch: int, length: int, heads: int, head_dim: int, implementation: Implementation = "xla") -> float:
    """Returns the forward FLOPs that the two matmuls of `attention` execute (multiply and add are two)."""
    pairs = length * length
    if implementation == "blocks":
        stops = [*range(QUERY_BLOCK, length, QUERY_BLOCK), length]
        pairs = sum((stop - start) * stop for start, stop in zip([0, *stops], stops, strict=False))
    return 4.0 * batch * heads * head_dim * pairs


def _check_shapes(q: jax.Array, k: jax.Array, v: jax.Array) -> None:
    if k.shape != v.shape or q.ndim != 4 or k.ndim != 4 or q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
        raise SpecError(f"q {q.shape}, k {k.shape}, v {v.shape}: expected [B, T, H, K], [B, S, G, K], [B, S, G, K].")
    if q.shape[2] % k.shape[2]:
        raise SpecError(f"heads: {q.shape[2]} query heads cannot share {k.shape[2]} key heads; use a multiple.")


def _attend(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array | None) -> jax.Array:
    B, T, H, K = q.shape
    G = k.shape[2]
    grouped = (q * (1.0 / math.sqrt(K))).reshape(B, T, G, H // G, K)
    scores = jnp.einsum("btgrk,bsgk->bgrts", grouped, k, preferred_element_type=jnp.float32)
    if mask is not None:
        mask = mask[:, None, None]
        scores = jnp.where(mask, scores, _MASKED)
    weights = jax.nn.softmax(scores, axis=-1)
    if mask is not None:
        weights = jnp.where(mask, weights, 0.0)
    return jnp.einsum("bgrts,bsgk->btgrk", weights.astype(v.dtype), v).reshape(B, T, H, K)


def _causal_blocks(q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array | None) -> jax.Array:
    T = q.shape[1]
    mask = visible(segment_ids, T, causal=True)
    outputs = []
    for start in range(0, T, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, T)
        outputs.append(_attend(q[:, start:stop], k[:, :stop], v[:, :stop], mask[:, start:stop, :stop]))
    return jnp.concatenate(outputs, axis=1)


def _neighbour_blocks(q, k, v, segment_ids, block, causal, window):
    B, T, H, K = q.shape
    pad = -T % block
    q, k, v = (jnp.pad(x, ((0, 0), (0, pad), (0, 0), (0, 0))) for x in (q, k, v))
    segment_ids = jnp.pad(segment_ids, ((0, 0), (0, pad)))
    count = (T + pad) // block
    offsets = (-1, 0) if causal else (-1, 0, 1)

    def neighbours(x):
        blocks = x.reshape(B, count, block, *x.shape[2:])
        edge = jnp.zeros_like(blocks[:, :1])
        padded = jnp.concatenate([edge, blocks, edge], axis=1)
        return jnp.concatenate([padded[:, 1 + o : 1 + o + count] for o in offsets], axis=2)

    query_at = jnp.arange(block)[:, None]
    key_at = jnp.arange(len(offsets) * block)[None, :] - block
    near = jnp.ones((block, len(offsets) * block), bool)
    if causal:
        near &= key_at <= query_at
    if window is not None:
        near &= query_at - key_at < window
    own = segment_ids.reshape(B, count, block)
    seen = neighbours(segment_ids)
    mask = (own[..., :, None] == seen[..., None, :]) & (own[..., :, None] != 0) & near
    span = len(offsets) * block
    out = _attend(
        q.reshape(B * count, block, H, K),
        neighbours(k).reshape(B * count, span, *k.shape[2:]),
        neighbours(v).reshape(B * count, span, *v.shape[2:]),
        mask.reshape(B * count, block, span),
    )
    return out.reshape(B, T + pad, H, K)[:, :T]
