"""One vector for a word, made of its bytes: the mean, or attention from queries to the bytes.

`latent_query` is the cross-attention of Byte2Word (Lee et al. 2022): learned queries attend to the bytes of the word,
and what they read is laid side by side and mapped linearly to the width of the model. As the queries depend on no input
and nothing nonlinear follows the weighted sum, key and value matrices would only multiply into the queries and the last
map; there are none. In `attention` the queries are linear in the mean of the word's bytes.

Letters: `L` bytes in a word, `D` width, `H` queries, `K` byte width.
"""

import math
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from tokjax.core.errors import SpecError, nearest
from tokjax.nn import layers
from tokjax.nn.param import Param, fan_in, normal

Kind = Literal["latent_query", "attention", "mean"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_MASKED = -1e30  # the score of a byte that is no part of the word


def declare_pooled_bytes(
    *, symbols: int, byte_width: int, cap: int, width: int, queries: int = 8, kind: Kind = "latent_query"
) -> dict[str, Any]:
    """Declares the byte table, the positions in a word, the queries and the map to the model's width.

    Args:
      symbols: bytes and special symbols; the table has a multiple of `layers.ROWS` rows.
      byte_width: K.
      cap: L, bytes of the longest word.
      width: D.
      queries: H; the mean has none, and one vector to map.
      kind: how bytes are pooled.

    Raises:
      SpecError: an unknown kind.
    """
    _check_kind(kind)
    pooled = 1 if kind == "mean" else queries
    tree = {
        "bytes": layers.declare_embedding(symbols, byte_width),
        "positions": Param((cap, byte_width), (None, "embed"), normal(1.0), decay=False),
        "to_word": Param((pooled, byte_width, width), (None, "embed", "mlp"), fan_in(pooled * byte_width)),
    }
    if kind == "latent_query":
        tree["queries"] = Param((queries, byte_width), (None, "embed"), normal(1.0), decay=False)
    elif kind == "attention":
        tree["queries"] = Param((byte_width, queries, byte_width), ("embed", None, "mlp"), fan_in(byte_width))
    return tree


def pooled_bytes(
    params: Any, word_bytes: jax.Array, lengths: jax.Array, kind: Kind = "latent_query", dtype: str = "float32"
) -> jax.Array:
    """Returns the vector of each word, [..., D]: a function of its own bytes alone, zero for a word without bytes.

    Args:
      params: arrays as declared by `declare_pooled_bytes` with the same kind.
      word_bytes: int32 [..., L], byte or special symbol; what follows a word's length has no influence.
      lengths: int32 [...].
      kind: how bytes are pooled.
      dtype: of the result; softmax is in float32.

    Raises:
      SpecError: an unknown kind, or more bytes than there are positions.
    """
    _check_kind(kind)
    L, cap = word_bytes.shape[-1], len(params["positions"])
    if cap < L:
        raise SpecError(f"word_bytes: words of {L} bytes, but positions for {cap}; cut words at {cap} bytes.")
    inside = jnp.arange(L) < lengths[..., None]
    x = layers.embed(params["bytes"], word_bytes, dtype) + params["positions"][:L].astype(dtype)
    mean = inside / jnp.maximum(lengths, 1)[..., None]
    if kind == "mean":
        weights = mean[..., None, :].astype(dtype)
    else:
        weights = _attention(_queries(params["queries"], x, mean, kind), x, inside)
    read = jnp.einsum("...hl,...lk->...hk", weights, x)
    return layers.project(read, params["to_word"], inputs=2)


def pooled_bytes_flops(
    words: int, *, byte_width: int, cap: int, width: int, queries: int = 8, kind: Kind = "latent_query"
) -> float:
    """Returns the forward FLOPs of the matrix products for `words` words, padding included."""
    pooled = 1 if kind == "mean" else queries
    sums = 0 if kind == "mean" else cap  # scores of every byte
    maps = pooled * byte_width**2 + cap * byte_width if kind == "attention" else 0
    return 2.0 * words * (pooled * byte_width * (sums + cap + width) + maps)


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise SpecError(f"kind: got {kind!r}.{nearest(kind, KINDS)}")


def _queries(params: jax.Array, x: jax.Array, mean: jax.Array, kind: Kind) -> jax.Array:
    """Queries [H, K], or [..., H, K] where they depend on the word."""
    if kind == "latent_query":
        return params.astype(x.dtype)
    return layers.project(jnp.einsum("...l,...lk->...k", mean.astype(x.dtype), x), params)


def _attention(queries: jax.Array, x: jax.Array, inside: jax.Array) -> jax.Array:
    """Softmax over the bytes of the word, [..., H, L]; zero where no byte is inside."""
    scores = jnp.einsum("...hk,...lk->...hl", queries, x, preferred_element_type=jnp.float32)
    scores = jnp.where(inside[..., None, :], scores / math.sqrt(x.shape[-1]), _MASKED)
    return (jax.nn.softmax(scores, axis=-1) * inside[..., None, :]).astype(x.dtype)
