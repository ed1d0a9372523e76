"""Rectified flow: straight lines from data to noise, and the velocity along them as what a network learns.

Time runs from 0, data, to 1, noise (Liu et al. 2022; Lipman et al. 2022).

Letters: `B` batch.
"""

import jax
from jax.scipy.special import ndtri


def draw_times(key: jax.Array, count: int, *, stratified: bool = False) -> jax.Array:
    """Returns float32 times [count] from 0 to 1 whose logits are standard normal (Esser et al. 2024, section 3.1).

    Args:
      key: of the draws.
      count: B.
      stratified: draw one time from each of B parts of equal probability, in random order.
    """
    if not stratified:
        return jax.nn.sigmoid(jax.random.normal(key, (count,)))
    order, within = jax.random.split(key)
    parts = jax.random.permutation(order, count) + jax.random.uniform(within, (count,))
    return jax.nn.sigmoid(ndtri(parts / count))


def interpolate(x: jax.Array, noise: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns (t noise + (1 - t) x, noise - x): where the line from x to the noise is at time t, and its velocity.

    Args:
      x: [B, ...].
      noise: [B, ...], standard normal.
      t: [B], from 0 to 1.
    """
    t = t.reshape(-1, *(1,) * (x.ndim - 1))
    return t * noise + (1.0 - t) * x, noise - x
