"""Attention from vectors to a codebook in memory that does not grow with their product.

Letters: `N` vectors, `K` codes, `D` width, `E` width of values.
"""

import functools

import jax
import jax.numpy as jnp

_TILE = 1 << 22  # scores that exist at once


def _tiles(x: jax.Array, size: int) -> jax.Array:
    """Cuts `x` [M, ...] into [tiles, size, ...], the last one padded with zeros."""
    return jnp.pad(x, ((0, -len(x) % size), *((0, 0),) * (x.ndim - 1))).reshape(-1, size, *x.shape[1:])


def _sizes(z: jax.Array, keys: jax.Array) -> tuple[int, int]:
    """Rows and codes of a tile."""
    codes = min(len(keys), 4096)
    return max(1, min(len(z), _TILE // codes)), codes


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    """Matrix product in full float32: log normaliser and mean score nearly cancel in an entropy."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _scores(z: jax.Array, keys: jax.Array, exists: jax.Array, scale: float) -> jax.Array:
    return jnp.where(exists, scale * _product(z, keys.T), -jnp.inf)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def codebook_attention(z: jax.Array, keys: jax.Array, values: jax.Array, scale: float) -> tuple[jax.Array, jax.Array]:
    """Returns softmax(scale z keys^T) values, and the log of the softmax's normaliser.

    Scores exist one tile at a time, forward and backward, so memory is O(N + K) times the width.

    Args:
      z: float32 [N, D].
      keys: float32 [K, D].
      values: float32 [K, E].
      scale: factor of the products.

    Returns:
      (float32 [N, E], float32 [N]), with gradients to all three arrays.
    """
    return _forward(z, keys, values, scale)[0]


def _forward(z: jax.Array, keys: jax.Array, values: jax.Array, scale: float) -> tuple:
    (N, _), K = z.shape, len(keys)
    rows, codes = _sizes(z, keys)
    tiles = (_tiles(keys, codes), _tiles(values, codes), _tiles(jnp.ones(K, bool), codes))

    def of_rows(z: jax.Array) -> tuple[jax.Array, jax.Array]:
        def add(carry: tuple, tile: tuple) -> tuple[tuple, None]:
            top, total, weighted = carry
            keys, values, exists = tile
            scores = _scores(z, keys, exists, scale)
            new_top = jnp.maximum(top, jnp.max(scores, axis=-1))
            shrink, weights = jnp.exp(top - new_top), jnp.exp(scores - new_top[:, None])
            total = total * shrink + jnp.sum(weights, axis=-1)
            return (new_top, total, weighted * shrink[:, None] + _product(weights, values)), None

        start = (jnp.full(len(z), -jnp.inf), jnp.zeros(len(z)), jnp.zeros((len(z), values.shape[-1])))
        (top, total, weighted), _ = jax.lax.scan(add, start, tiles)
        return weighted / total[:, None], top + jnp.log(total)

    out, normaliser = jax.lax.map(of_rows, _tiles(z, rows))
    out, normaliser = out.reshape(-1, out.shape[-1])[:N], normaliser.reshape(-1)[:N]
    return (out, normaliser), (z, keys, values, out, normaliser)


def _backward(scale: float, saved: tuple, gradients: tuple[jax.Array, jax.Array]) -> tuple:
    z, keys, values, out, normaliser = saved
    d_out, d_normaliser = gradients
    (N, _), K = z.shape, len(keys)
    rows, codes = _sizes(z, keys)
    # The softmax's gradient needs, per row, d_out . out; the normaliser's own is the softmax.
    shift = d_normaliser - jnp.sum(d_out * out, axis=-1)
    row_tiles = tuple(_tiles(x, rows) for x in (z, normaliser, d_out, shift, jnp.ones(N, bool)))

    def of_codes(tile: tuple) -> tuple[jax.Array, jax.Array, jax.Array]:
        keys, values, exists = tile

        def of_rows(carry: tuple, row: tuple) -> tuple[tuple, jax.Array]:
            z, normaliser, d_out, shift, real = row
            weights = jnp.exp(_scores(z, keys, exists, scale) - normaliser[:, None]) * real[:, None]
            d_scores = scale * weights * (_product(d_out, values.T) + shift[:, None])
            d_keys, d_values = carry
            return (d_keys + _product(d_scores.T, z), d_values + _product(weights.T, d_out)), _product(d_scores, keys)

        start = (jnp.zeros_like(keys), jnp.zeros_like(values))
        (d_keys, d_values), d_z = jax.lax.scan(of_rows, start, row_tiles)
        return d_keys, d_values, d_z

    def add(d_z: jax.Array, tile: tuple) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        d_keys, d_values, of_tile = of_codes(tile)
        return d_z + of_tile, (d_keys, d_values)

    tiles = (_tiles(keys, codes), _tiles(values, codes), _tiles(jnp.ones(K, bool), codes))
    d_z, (d_keys, d_values) = jax.lax.scan(add, jnp.zeros_like(row_tiles[0]), tiles)
    flat = (d_z.reshape(-1, z.shape[-1])[:N], *(d.reshape(-1, d.shape[-1])[:K] for d in (d_keys, d_values)))
    return flat


codebook_attention.defvjp(_forward, _backward)


def mean_attention(z: jax.Array, keys: jax.Array, normaliser: jax.Array, mask: jax.Array, scale: float) -> jax.Array:
    """Returns the mean over vectors of softmax(scale z keys^T), [K], one tile of codes at a time.

    Args:
      z: float32 [N, D].
      keys: float32 [K, D].
      normaliser: float32 [N], as of `codebook_attention`.
      mask: bool [N], vectors that count.
      scale: factor of the products.
    """
    N, K = len(z), len(keys)
    codes = max(1, min(K, _TILE // N))
    weights = mask / jnp.maximum(jnp.sum(mask), 1)

    @jax.checkpoint
    def of_codes(keys: jax.Array) -> jax.Array:
        return _product(weights, jnp.exp(_scores(z, keys, jnp.ones((), bool), scale) - normaliser[:, None]))

    return jax.lax.map(of_codes, _tiles(keys, codes)).reshape(-1)[:K]
