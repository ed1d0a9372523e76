"""What a quantizer passes back: gradients of vectors through the choice of a code, each a named function."""

from typing import Literal

import jax
import jax.numpy as jnp

Gradient = Literal["straight_through", "rotation"]
GRADIENTS: tuple[Gradient, ...] = ("straight_through", "rotation")
_TINY = 1e-12


def straight_through(x: jax.Array, quantized: jax.Array) -> jax.Array:
    """Returns `quantized`, bit for bit; its gradient goes to `x` unchanged (Bengio et al. 2013)."""
    return jax.lax.stop_gradient(quantized) + (x - jax.lax.stop_gradient(x))


def rotation(x: jax.Array, quantized: jax.Array) -> jax.Array:
    """Returns `quantized`, bit for bit, as a rotated and scaled `x` (Fifty et al. 2024, section 4.2).

    With x and q = `quantized` of unit directions u and v, and w = (u + v) / |u + v|, it is |q| / |x| (x - 2 w (w.x)
    + 2 v (u.x)), whose rotation and scale are constants of the gradient. Directions of zero vectors are zero; x and q
    that point in opposite directions have no w, and x is then reflected.

    Args:
      x: [..., D].
      quantized: [..., D].
    """
    fixed, q = jax.lax.stop_gradient((x, quantized))
    u, v = unit(fixed), unit(q)
    w = unit(u + v)

    def along(direction: jax.Array) -> jax.Array:
        return jnp.sum(x * direction, axis=-1, keepdims=True)

    scale = length(q) / jnp.maximum(length(fixed), _TINY)
    rotated = scale * (x - 2.0 * along(w) * w + 2.0 * along(u) * v)
    return straight_through(rotated, q)


def directional(x: jax.Array, quantized: jax.Array, noise: jax.Array) -> jax.Array:
    """Returns `x` moved by the length of the way to `quantized`, nearly in its direction (Vali et al. 2025, DiVeQ).

    x + |q - x| sg(d / |d|), d = q - x + noise: the length has a gradient to both, so that codes are trained by the loss
    of what is done with the vectors, and need no loss of their own.

    Args:
      x: [..., D].
      quantized: [..., D].
      noise: [..., D]; the smaller, the closer the result to `quantized`.
    """
    way = quantized - x
    return x + length(way) * unit(jax.lax.stop_gradient(way + noise))


def pass_gradient(kind: Gradient, x: jax.Array, quantized: jax.Array) -> jax.Array:
    """Returns `quantized` with the gradient to `x` that `kind` names."""
    return rotation(x, quantized) if kind == "rotation" else straight_through(x, quantized)


def length(x: jax.Array) -> jax.Array:
    """Returns the Euclidean length [..., 1] of `x` [..., D]; its gradient at 0 is 0."""
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


def unit(x: jax.Array) -> jax.Array:
    """Returns `x` [..., D] divided by its length; 0 stays 0."""
    return x / jnp.maximum(length(x), _TINY)
