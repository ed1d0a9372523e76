"""Small layers as pure functions: RMS norm, rotary positions, gated MLP.

Letters: `B` batch, `T` tokens, `D` width, `H` heads, `K` head width, `F` hidden width.
"""

import math

import jax
import jax.numpy as jnp

from tokjax.nn.param import Param, fan_in, ones
from tokjax.sharding import devices_along

ROWS = 8  # embedding tables have a multiple of so many rows


def declare_rms_norm(width: int) -> Param:
    """Declares the scale of an RMS norm over `width` channels."""
    return Param((width,), ("embed",), ones, decay=False)


def rms_norm(scale: jax.Array, x: jax.Array, epsilon: float = 1e-6) -> jax.Array:
    """Root-mean-square normalisation over the last axis, in float32 (Zhang & Sennrich 2019, eq. 4)."""
    x32 = x.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + epsilon)
    return (x32 * inverse * scale).astype(x.dtype)


def rotary_tables(positions: jax.Array, head_dim: int, theta: float = 10_000.0) -> tuple[jax.Array, jax.Array]:
    """Returns float32 (cos, sin) [..., T, K/2] of rotary positions (Su et al. 2021, eq. 34).

    Args:
      positions: int32 [..., T].
      head_dim: K, even.
      theta: base of the geometric frequencies.
    """
    frequencies = theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    angles = positions[..., None].astype(jnp.float32) * frequencies
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: jax.Array, tables: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Applies rotary positions to `x` [B, T, H, K], pairing channel i with channel i + K/2."""
    cos, sin = (table[..., None, :] for table in tables)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


@jax.custom_vjp
def linear(x: jax.Array, weight: jax.Array) -> jax.Array:
    """Returns `x` [..., D] times `weight` [D, E].

    The gradient is the textbook one. Written by hand, the weight's comes out as x^T dy rather than the transpose of
    dy^T x, which costs a CPU two copies of dy and a fifth of a training step.
    """
    return x @ weight


def _linear_forward(x: jax.Array, weight: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return x @ weight, (x, weight)


def _linear_backward(saved: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, weight = saved
    rows, drows = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    return jnp.einsum("...e,de->...d", dy, weight), jnp.einsum("nd,ne->de", rows, drows)


linear.defvjp(_linear_forward, _linear_backward)


def project(x: jax.Array, weight: jax.Array, inputs: int = 1) -> jax.Array:
    """`linear` over the last `inputs` dimensions of `x` and the first of `weight`; the others of `weight` remain."""
    if devices_along("mlp") > 1:  # joined to another, a dimension that devices split would have to be gathered
        dimensions = tuple(range(x.ndim - inputs, x.ndim)), tuple(range(inputs))
        return jax.lax.dot_general(x, weight.astype(x.dtype), (dimensions, ((), ())))
    lead, contracted, out = x.shape[: x.ndim - inputs], weight.shape[:inputs], weight.shape[inputs:]
    matrix = weight.astype(x.dtype).reshape(math.prod(contracted), math.prod(out))
    return linear(x.reshape(*lead, -1), matrix).reshape(*lead, *out)


def declare_gated_mlp(width: int, hidden: int, depth: int = 1) -> dict[str, Param]:
    """Declares a SwiGLU MLP. `depth` (number of residual branches) scales the output matrix down."""
    return {
        "gate_up": Param((width, 2, hidden), ("embed", None, "mlp"), fan_in(width)),
        "down": Param((hidden, width), ("mlp", "embed"), fan_in(hidden * 2 * depth)),
    }


@jax.checkpoint  # elementwise and cheap: keep its two inputs rather than four intermediates
def _gate(gate: jax.Array, up: jax.Array) -> jax.Array:
    return jax.nn.silu(gate) * up


def gated_mlp(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """SwiGLU: (silu(x W_gate) * x W_up) W_down (Shazeer 2020, eq. 6). `x` and the result are [B, T, D]."""
    gate_up = project(x, params["gate_up"])
    return project(_gate(gate_up[..., 0, :], gate_up[..., 1, :]), params["down"])


def declare_embedding(vocab_size: int, width: int) -> Param:
    """Declares a table of `vocab_size` vectors, padded to a multiple of `ROWS` so that devices can split it."""
    return Param((-(-vocab_size // ROWS) * ROWS, width), ("vocab", "embed"), fan_in(width), decay=False)


def embed(table: jax.Array, ids: jax.Array, dtype: str = "float32") -> jax.Array:
    """Looks `ids` [B, T] up in `table` [V, D] and scales to unit variance; returns [B, T, D]."""
    return table[ids].astype(dtype) * math.sqrt(table.shape[-1])


def readout(table: jax.Array, hidden: jax.Array, vocab_size: int) -> jax.Array:
    """Returns float32 logits [B, T, V] of `hidden` [B, T, D] against the first V rows of `table`."""
    if hidden.dtype == jnp.float32:
        return project(hidden, table[:vocab_size].T)
    weights = table[:vocab_size].astype(hidden.dtype)
    return jnp.einsum("btd,vd->btv", hidden, weights, preferred_element_type=jnp.float32)
