"""Scaled dot-product attention: dense, in causal blocks, over local windows, and over a cache.

Letters: `B` batch, `T` query tokens, `S` key tokens, `H` query heads, `G` key heads, `R` = H / G, `K` head width.
In every function a query that sees no key (padding) returns zeros and sends no gradient.
"""

import functools
import math
from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from tokjax.core import platform
from tokjax.core.errors import SpecError, nearest
from tokjax.kernels import library
from tokjax.sharding import devices_along, over_mesh

Implementation = Literal["xla", "blocks", "cudnn", "tokamax"]
IMPLEMENTATIONS: tuple[Implementation, ...] = get_args(Implementation)
QUERY_BLOCK = 128  # queries per causal block: smaller wastes less of the triangle but makes the matmuls slower
LONG = 2048  # positions from which the scores of a row, length x length, are too many to keep on an accelerator
MASKED = -1e30  # the score of an unseen key
FLOOR = -1e20  # least row maximum: far above MASKED, so that a row that sees nothing has weights exp(-1e30) = 0

_dot = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    segment_ids: jax.Array | None = None,
    causal: bool = True,
    implementation: str | None = None,
) -> jax.Array:
    """Attends over whole rows: softmax(q k^T / sqrt(K)) v (Vaswani et al. 2017, eq. 1), softmax in float32.

    Args:
      q: [B, T, H, K].
      k: [B, T, G, K] with H a multiple of G; consecutive query heads share a key head (Ainslie et al. 2023).
      v: [B, T, G, K].
      segment_ids: int32 [B, T] or None. Positions of different segments never see one another; 0 is padding.
      causal: whether a position sees only itself and what comes before.
      implementation: 'xla' is dense; 'blocks' skips the blocks above the diagonal and rebuilds the softmax in the
        backward pass (it is dense when not causal); 'cudnn' needs an NVIDIA GPU and 16-bit inputs; 'tokamax' is a flash
        kernel for TPUs and NVIDIA GPUs (extra `tokamax`, Python 3.12), and plain XLA where it has none. None chooses by
        platform and shape: 'blocks' on a CPU; on others 'tokamax' for rows of 2,048 and more, where it is installed.
        'blocks' has no forward-mode derivative.

    Returns:
      [B, T, H, K] in q's dtype.

    Raises:
      SpecError: shapes that do not fit, or an implementation that is unknown or cannot run here.
    """
    _check_shapes(q, k, v)
    chosen = implementation or default_implementation(q.shape[1], causal)
    if chosen not in IMPLEMENTATIONS:
        raise SpecError(f"implementation: got {chosen!r}.{nearest(chosen, IMPLEMENTATIONS)}")
    if chosen == "cudnn":
        return _cudnn(q, k, v, segment_ids, causal)
    if chosen == "tokamax":
        return _tokamax(q, k, v, segment_ids, causal)
    if chosen == "blocks" and causal:
        return _causal_blocks(q, k, v, segment_ids)
    return _attend(q, k, v, _visible(segment_ids, q.shape[1], causal))


def default_implementation(length: int, causal: bool) -> Implementation:
    """Returns the implementation that `attention` uses for rows of `length` on the platform at hand."""
    where = platform.target()
    if where == "cpu":
        return "blocks" if causal and length >= 2 * QUERY_BLOCK else "xla"
    # The library looks at the machine at hand to know what it can run, and takes rows whole.
    fits = length >= LONG and where == jax.default_backend() and devices_along("length") == 1
    return "tokamax" if fits and library.has_tokamax() else "xla"


def masked_attention(q: jax.Array, k: jax.Array, v: jax.Array, *, mask: jax.Array) -> jax.Array:
    """Attends to the keys that a mask allows: of a cache, of a block, of what comes before in some order.

    Args:
      q: [B, T, H, K], of whole rows or of new tokens alone.
      k: [B, S, G, K], all slots of a cache, filled or not.
      v: [B, S, G, K].
      mask: bool [B or 1, T, S], the slots that each token sees.

    Returns:
      [B, T, H, K] in q's dtype.

    Raises:
      SpecError: shapes that do not fit.
    """
    _check_shapes(q, k, v)
    return _attend(q, k, v, mask)


def local_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, *, segment_ids: jax.Array, block: int, causal: bool
) -> jax.Array:
    """Attends within aligned blocks and their neighbours, in time linear in T.

    Exact attention within segments when every segment is contiguous and at most `block` long (words of bytes).

    Args:
      q: [B, T, H, K].
      k: [B, T, G, K].
      v: [B, T, G, K].
      segment_ids: int32 [B, T]; 0 is padding.
      block: positions per block. Each position sees its own block and the one before, and when not causal the one
        after. T is padded to a multiple inside.
      causal: whether a position sees only itself and what comes before.

    Returns:
      [B, T, H, K] in q's dtype.

    Raises:
      SpecError: shapes that do not fit, or `block` below 1.
    """
    return _neighbour_blocks(q, k, v, segment_ids, block, causal=causal, window=None)


def sliding_window_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, *, segment_ids: jax.Array, window: int
) -> jax.Array:
    """Attends from each position to the last `window` positions of its segment, itself included (Beltagy et al. 2020).

    Args and result are those of `local_attention`, with blocks of `window` positions.
    """
    return _neighbour_blocks(q, k, v, segment_ids, window, causal=True, window=window)


def attention_flops(batch: int, length: int, heads: int, head_dim: int, implementation: str = "xla") -> float:
    """Returns the forward FLOPs (multiply and add are two) that the two matmuls of causal `attention` execute.

    'blocks' executes only blocks on and below the diagonal. 'cudnn' and 'tokamax' do not say what they skip and are
    counted dense.
    """
    pairs = length * length
    if implementation == "blocks":
        pairs = sum((stop - start) * stop for start, stop in _block_ranges(length))
    return 4.0 * batch * heads * head_dim * pairs


def _check_shapes(q: jax.Array, k: jax.Array, v: jax.Array) -> None:
    if k.shape != v.shape or q.ndim != 4 or k.ndim != 4 or q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
        raise SpecError(f"q {q.shape}, k {k.shape}, v {v.shape}: expected [B, T, H, K], [B, S, G, K], [B, S, G, K].")
    if q.shape[2] % k.shape[2]:
        raise SpecError(f"heads: {q.shape[2]} query heads cannot share {k.shape[2]} key heads; use a multiple.")


def _visible(segment_ids: jax.Array | None, length: int, causal: bool) -> jax.Array | None:
    """Returns which keys each query sees, bool [B or 1, T, T], or None when it is all of them."""
    mask = jnp.tri(length, dtype=bool)[None] if causal else None
    if segment_ids is None:
        return mask
    same = _same_segment(segment_ids, segment_ids)
    return same if mask is None else same & mask


def _same_segment(queries: jax.Array, keys: jax.Array) -> jax.Array:
    """Segment ids [..., T] and [..., S] to bool [..., T, S]; padding sees nothing and is not seen."""
    return (queries[..., :, None] == keys[..., None, :]) & (queries[..., :, None] != 0)


def _grouped_queries(q: jax.Array, groups: int) -> jax.Array:
    """Scales q [B, T, H, K] by 1 / sqrt(K) and splits its heads: [B, G, R, T, K]."""
    B, T, H, K = q.shape
    scaled = (q * (1.0 / math.sqrt(K))).astype(q.dtype)
    return scaled.reshape(B, T, groups, H // groups, K).transpose(0, 2, 3, 1, 4)


def _merge_heads(out: jax.Array) -> jax.Array:
    """[B, G, R, T, K] to [B, T, H, K]."""
    B, G, R, T, K = out.shape
    return out.transpose(0, 3, 1, 2, 4).reshape(B, T, G * R, K)


def _softmax_parts(scores: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns (maxima, exp(scores - maxima), their sums) over the last axis; a row with no key has weights 0, sum 1."""
    maxima = jax.lax.stop_gradient(jnp.maximum(scores.max(axis=-1, keepdims=True), FLOOR))
    weights = jnp.exp(scores - maxima)
    sums = weights.sum(axis=-1, keepdims=True)
    return maxima, weights, jnp.where(sums == 0, 1.0, sums)


def _attend(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Dense attention; `mask` is bool [B or 1, T, S]."""
    scores = _dot("bgrtk,bsgk->bgrts", _grouped_queries(q, k.shape[2]), k)
    if mask is not None:
        scores = jnp.where(mask[:, None, None], scores, MASKED)
    _, weights, sums = _softmax_parts(scores)
    out = _dot("bgrts,bsgk->bgrtk", weights.astype(v.dtype), v) / sums
    return _merge_heads(out.astype(q.dtype))


def _cudnn(q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array | None, causal: bool) -> jax.Array:
    if platform.target() != "gpu" or q.dtype not in (jnp.bfloat16, jnp.float16):
        raise SpecError(
            f"implementation: 'cudnn' needs an NVIDIA GPU and bfloat16 or float16 inputs, got {q.dtype} on "
            f"{platform.target()}; use 'xla', or None to choose by platform."
        )
    attend = functools.partial(jax.nn.dot_product_attention, implementation="cudnn")
    return _of_library(attend, q, k, v, segment_ids, causal)


def _tokamax(q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array | None, causal: bool) -> jax.Array:
    tokamax = library.tokamax()
    heads = ("batch", None, "kv_heads", None)
    attend = functools.partial(_of_library, tokamax.dot_product_attention, causal=causal)
    if segment_ids is None:
        return over_mesh(functools.partial(attend, segment_ids=None), (heads, heads, heads), heads)(q, k, v)
    return over_mesh(attend, (heads, heads, heads, ("batch", None)), heads)(q, k, v, segment_ids)


def _of_library(
    attend: Callable[..., jax.Array],
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segment_ids: jax.Array | None,
    causal: bool,
) -> jax.Array:
    """Attention by a function with the arguments of `jax.nn.dot_product_attention`."""
    if segment_ids is None:
        return attend(q, k, v, is_causal=causal)
    # Padding sees itself, so that no row of the kernel's softmax is empty, and is blanked afterwards.
    mask = _same_segment(segment_ids, segment_ids) | jnp.eye(q.shape[1], dtype=bool)
    return jnp.where((segment_ids != 0)[..., None, None], attend(q, k, v, mask=mask[:, None], is_causal=causal), 0)


def _block_ranges(length: int) -> list[tuple[int, int]]:
    return [(start, min(start + QUERY_BLOCK, length)) for start in range(0, length, QUERY_BLOCK)]


def _causal_blocks(q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array | None) -> jax.Array:
    keys, values = k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)
    return _merge_heads(_blockwise(_grouped_queries(q, k.shape[2]), keys, values, segment_ids))


@jax.custom_vjp
def _blockwise(q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array | None) -> jax.Array:
    """Causal attention, block of queries by block of queries: scaled q [B, G, R, T, K], k and v [B, G, T, K].

    The backward pass rebuilds the weights from the row log-sum-exp (Dao et al. 2022, algorithm 4) rather than keep
    them for every layer: a CPU pays more for touching fresh memory than for an exponential.
    """
    return _blockwise_forward(q, k, v, segment_ids)[0]


def _block_scores(q: jax.Array, k: jax.Array, segment_ids: jax.Array | None, start: int, stop: int) -> jax.Array:
    """Masked scores [B, G, R, stop - start, stop] of the queries of one block."""
    scores = _dot("bgrtk,bgsk->bgrts", q[..., start:stop, :], k[..., :stop, :])
    seen = jnp.arange(start, stop)[:, None] >= jnp.arange(stop)
    if segment_ids is not None:
        seen = seen & _same_segment(segment_ids[:, start:stop], segment_ids[:, :stop])[:, None, None]
    return jnp.where(seen, scores, MASKED)


def _blockwise_forward(q, k, v, segment_ids):
    outputs, log_sums = [], []
    for start, stop in _block_ranges(q.shape[-2]):
        maxima, weights, sums = _softmax_parts(_block_scores(q, k, segment_ids, start, stop))
        out = _dot("bgrts,bgsk->bgrtk", weights.astype(v.dtype), v[..., :stop, :]) / sums
        outputs.append(out.astype(q.dtype))
        log_sums.append(maxima + jnp.log(sums))
    out = jnp.concatenate(outputs, axis=-2)
    return out, (q, k, v, segment_ids, out, log_sums)


def _blockwise_backward(residuals, d_out):
    q, k, v, segment_ids, out, log_sums = residuals
    # sum over keys of weight x its gradient, which the softmax subtracts, equals this inner product
    inner = jnp.sum(d_out.astype(jnp.float32) * out.astype(jnp.float32), axis=-1, keepdims=True)
    length = q.shape[-2]
    d_q = []
    d_k = jnp.zeros(k.shape, jnp.float32)
    d_v = jnp.zeros(v.shape, jnp.float32)
    for (start, stop), log_sum in zip(_block_ranges(length), log_sums, strict=True):
        rows = slice(start, stop)
        to_length = ((0, 0), (0, 0), (0, length - stop), (0, 0))
        weights = jnp.exp(_block_scores(q, k, segment_ids, start, stop) - log_sum)
        d_weights = _dot("bgrtk,bgsk->bgrts", d_out[..., rows, :], v[..., :stop, :])
        d_scores = (weights * (d_weights - inner[..., rows, :])).astype(q.dtype)
        d_q.append(_dot("bgrts,bgsk->bgrtk", d_scores, k[..., :stop, :]))
        d_k += jnp.pad(_dot("bgrts,bgrtk->bgsk", d_scores, q[..., rows, :]), to_length)
        d_v += jnp.pad(_dot("bgrts,bgrtk->bgsk", weights.astype(v.dtype), d_out[..., rows, :]), to_length)
    return jnp.concatenate(d_q, axis=-2).astype(q.dtype), d_k.astype(k.dtype), d_v.astype(v.dtype), None


_blockwise.defvjp(_blockwise_forward, _blockwise_backward)


def _neighbour_blocks(q, k, v, segment_ids, block: int, *, causal: bool, window: int | None) -> jax.Array:
    _check_shapes(q, k, v)
    if block < 1:
        raise SpecError(f"block or window: got {block}; it must be at least 1.")
    B, T, H, K = q.shape
    pad = -T % block
    count = (T + pad) // block
    offsets = (-1, 0) if causal else (-1, 0, 1)
    span = len(offsets) * block
    q, k, v, segment_ids = (jnp.pad(x, ((0, 0), (0, pad), *((0, 0),) * (x.ndim - 2))) for x in (q, k, v, segment_ids))

    def neighbours(x: jax.Array) -> jax.Array:
        """[B, count * block, ...] to [B * count, span, ...]: each block with those around it, zeros at the ends."""
        blocks = x.reshape(B, count, block, *x.shape[2:])
        around = jnp.pad(blocks, ((0, 0), (1, 1), *((0, 0),) * (blocks.ndim - 2)))
        joined = jnp.concatenate([around[:, 1 + o : 1 + o + count] for o in offsets], axis=2)
        return joined.reshape(B * count, span, *x.shape[2:])

    distance = jnp.arange(block)[:, None] - (jnp.arange(span) - block)  # from a key to the query after it
    near = jnp.ones_like(distance, dtype=bool)
    if causal:
        near &= distance >= 0
    if window is not None:
        near &= distance < window
    mask = _same_segment(segment_ids.reshape(B * count, block), neighbours(segment_ids)) & near
    out = _attend(q.reshape(B * count, block, H, K), neighbours(k), neighbours(v), mask)
    return out.reshape(B, T + pad, H, K)[:, :T]
