"""Word attention on a TPU: a program reads some heads of one block, and a whole softmax row is in one tile.

Heads lie side by side in the lanes, [B, S, H K], as the projections before write them: nothing is padded or transposed
in memory. The backward pass computes the weights again from queries and keys.

Letters: `B` batch, `S` slots, `H` query heads, `G` key heads, `R` = H / G, `K` head width.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from tokjax.kernels.word_attention.reference import BLOCK
from tokjax.nn.attention import FLOOR, MASKED

_LANES = 128
_WIDE = 1024  # lanes of a program at most where heads can be split: what it holds stays a small part of VMEM


def unsupported(shape_q: tuple[int, ...], shape_k: tuple[int, ...], dtype: Any) -> str | None:
    """Returns why the kernel cannot take these shapes, or None."""
    del shape_q, shape_k
    if jnp.dtype(dtype) not in (jnp.dtype("float32"), jnp.dtype("bfloat16")):
        return f"the TPU kernel takes float32 or bfloat16, not {dtype}"
    return None


def forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    query_ids: jax.Array,
    key_ids: jax.Array,
    *,
    causal: bool,
    interpret: bool = False,
) -> jax.Array:
    """Returns what `api.word_attention` does."""
    return _call(_forward, (q, k, v), (q,), query_ids, key_ids, causal=causal, interpret=interpret)[0]


def backward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    query_ids: jax.Array,
    key_ids: jax.Array,
    d_out: jax.Array,
    *,
    causal: bool,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the gradients of queries, keys and values, given that of the result, [B, S, H, K]."""
    return _call(_backward, (q, k, v, d_out), (q, k, v), query_ids, key_ids, causal=causal, interpret=interpret)


def _call(
    kernel: Callable,
    inputs: tuple[jax.Array, ...],
    outputs: tuple[jax.Array, ...],
    query_ids: jax.Array,
    key_ids: jax.Array,
    *,
    causal: bool,
    interpret: bool,
) -> Any:
    """Runs `kernel` on every block and group of heads; `outputs` gives the shapes of what it writes."""
    B, S, H, K = inputs[0].shape
    G = inputs[1].shape[2]
    groups = _groups_of_a_program(G, H // G, K)

    def spec(x: jax.Array) -> pl.BlockSpec:
        return pl.BlockSpec((1, BLOCK, groups * x.shape[2] // G * K), lambda b, c, g: (b, c, g))

    ids = jnp.stack([query_ids, key_ids], axis=1)  # [B, 2, S]: rows of lanes, where [B, S, 1] would be padded to 128
    results = pl.pallas_call(
        functools.partial(kernel, head_dim=K, groups=groups, causal=causal),
        grid=(B, S // BLOCK, G // groups),
        in_specs=[pl.BlockSpec((1, 2, BLOCK), lambda b, c, g: (b, 0, c)), *map(spec, inputs)],
        out_specs=[spec(x) for x in outputs],
        out_shape=[jax.ShapeDtypeStruct((B, S, x.shape[2] * K), x.dtype) for x in outputs],
        interpret=interpret,
        name=f"word_attention{kernel.__name__}",
    )(ids, *(x.reshape(B, S, -1) for x in inputs))
    return tuple(result.reshape(x.shape) for result, x in zip(results, outputs, strict=True))


def _groups_of_a_program(groups: int, share: int, head_dim: int) -> int:
    """Returns how many key heads, each with its `share` of query heads, a program takes.

    As many as keep its lanes below `_WIDE`, in whole tiles of lanes; all of them where they do not split so.
    """
    whole = [n for n in range(1, groups) if groups % n == 0 and n * head_dim % _LANES == 0]
    fitting = [n for n in [*whole, groups] if n * share * head_dim <= _WIDE]
    return max(fitting) if fitting else min([*whole, groups])


def _heads(ids: Any, head_dim: int, groups: int, share: int, causal: bool) -> tuple[jax.Array, list]:
    """Returns which keys each query sees [128, 128], and the lanes of each (query head, key head)."""
    ids_of_queries = jnp.broadcast_to(ids[0, 0:1, :], (BLOCK, BLOCK)).T
    ids_of_keys = jnp.broadcast_to(ids[0, 1:2, :], (BLOCK, BLOCK))
    seen = (ids_of_queries == ids_of_keys) & (ids_of_queries != 0)
    if causal:
        slots = functools.partial(jax.lax.broadcasted_iota, jnp.int32, (BLOCK, BLOCK))
        seen &= slots(0) >= slots(1)
    lanes = [slice(h * head_dim, (h + 1) * head_dim) for h in range(groups * share)]
    return seen, [(lanes[h], lanes[h // share]) for h in range(groups * share)]


def _weights(q: jax.Array, k: jax.Array, seen: jax.Array) -> jax.Array:
    """Softmax of the scores of one head, float32 [128, 128]; a row that sees nothing is all zeros."""
    scores = jnp.where(seen, _product(q, k, 1, 1) * (1.0 / math.sqrt(q.shape[-1])), MASKED)
    weights = jnp.exp(scores - jnp.maximum(jnp.max(scores, axis=1, keepdims=True), FLOOR))
    sums = jnp.sum(weights, axis=1, keepdims=True)
    return weights / jnp.where(sums == 0.0, 1.0, sums)


def _product(x: jax.Array, y: jax.Array, x_axis: int, y_axis: int) -> jax.Array:
    """Contracts an axis of each of two matrices, in float32."""
    exact = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    dimensions = (((x_axis,), (y_axis,)), ((), ()))
    return jax.lax.dot_general(x, y, dimensions, precision=exact, preferred_element_type=jnp.float32)


def _forward(ids, q, k, v, out, *, head_dim: int, groups: int, causal: bool):
    share = q.shape[2] // k.shape[2]
    seen, heads = _heads(ids, head_dim, groups, share, causal)
    for of_query, of_key in heads:
        weights = _weights(q[0, :, of_query], k[0, :, of_key], seen)
        out[0, :, of_query] = _product(weights.astype(v.dtype), v[0, :, of_key], 1, 0).astype(out.dtype)


def _backward(ids, q, k, v, d_out, d_q, d_k, d_v, *, head_dim: int, groups: int, causal: bool):
    share = q.shape[2] // k.shape[2]
    seen, heads = _heads(ids, head_dim, groups, share, causal)
    scale = 1.0 / math.sqrt(head_dim)
    d_key = d_value = jnp.zeros((BLOCK, head_dim), jnp.float32)
    for head, (of_query, of_key) in enumerate(heads):
        queries, keys, gradient = q[0, :, of_query], k[0, :, of_key], d_out[0, :, of_query]
        weights = _weights(queries, keys, seen)
        d_weights = _product(gradient, v[0, :, of_key], 1, 1)
        d_scores = weights * (d_weights - jnp.sum(weights * d_weights, axis=1, keepdims=True))
        d_scores = (d_scores * scale).astype(queries.dtype)
        d_q[0, :, of_query] = _product(d_scores, keys, 1, 0).astype(d_q.dtype)
        # The query heads of a key head stand next to one another: their gradients are summed before they are rounded.
        first = head % share == 0
        d_key = _product(d_scores, queries, 0, 0) + (0.0 if first else d_key)
        d_value = _product(weights.astype(gradient.dtype), gradient, 0, 0) + (0.0 if first else d_value)
        if head % share == share - 1:
            d_k[0, :, of_key] = d_key.astype(d_k.dtype)
            d_v[0, :, of_key] = d_value.astype(d_v.dtype)
