"""Nearest-code search in bounded memory: distances exist one tile at a time.

Letters: `N` vectors, `K` codes, `D` width.
"""

import jax
import jax.numpy as jnp

_TILE = {"cpu": (1024, 1024)}  # rows and codes whose distances exist at once: 4 MiB, which a core's cache about holds
_LARGE_TILE = (8192, 8192)  # 256 MiB, on accelerators


def nearest(
    x: jax.Array, codebook: jax.Array, *, valid: jax.Array | None = None, tile: tuple[int, int] | None = None
) -> jax.Array:
    """Returns the index of the code nearest to each vector, int32 [N]; the lowest of those equally near.

    Computed as argmin over e of |e|^2 / 2 - x.e, in float32 whatever the platform's default for products. The matrix
    [N, K] never exists, only tiles of it. A vector of which a channel is no number gets code 0.

    Args:
      x: [N, D].
      codebook: [K, D].
      valid: bool [K], codes that may be chosen; all by default. Code 0 where none may.
      tile: rows and codes whose distances exist at once; chosen by platform by default.
    """
    codebook = codebook.astype(jnp.float32)
    offset = 0.5 * jnp.sum(jnp.square(codebook), axis=-1)
    if valid is not None:
        offset = jnp.where(valid, offset, jnp.inf)
    return _least(x, codebook, offset, tile)


def largest_product(x: jax.Array, codebook: jax.Array, *, tile: tuple[int, int] | None = None) -> jax.Array:
    """Returns the index of the code of the largest dot product with each vector; otherwise as `nearest`."""
    return _least(x, codebook, jnp.zeros(len(codebook)), tile)


def _least(x: jax.Array, codebook: jax.Array, offset: jax.Array, tile: tuple[int, int] | None) -> jax.Array:
    """Returns argmin over e of offset(e) - x.e, int32 [N]."""
    x, codebook, offset = jax.lax.stop_gradient((x.astype(jnp.float32), codebook.astype(jnp.float32), offset))
    (N, D), K = x.shape, len(codebook)
    rows, codes = tile or _TILE.get(jax.default_backend(), _LARGE_TILE)
    rows, codes = max(1, min(rows, N)), min(codes, K)
    padding = -K % codes
    tiles = jnp.pad(codebook, ((0, padding), (0, 0))).reshape(-1, codes, D)
    offsets = jnp.pad(offset, (0, padding), constant_values=jnp.inf).reshape(-1, codes)
    starts = jnp.arange(0, K, codes, dtype=jnp.int32)

    def of_rows(x: jax.Array) -> jax.Array:
        def against(best: tuple[jax.Array, jax.Array], inputs: tuple[jax.Array, ...]) -> tuple:
            vectors, offset, start = inputs
            cost = offset - jnp.matmul(x, vectors.T, precision=jax.lax.Precision.HIGHEST)
            lowest = jnp.min(cost, axis=-1)
            # The first place of the minimum: two reductions that vectorise, where one argmin does not.
            places = jnp.where(cost == lowest[:, None], jnp.arange(codes, dtype=jnp.int32), codes)
            index = start + jnp.min(places, axis=-1)
            nearer = lowest < best[0]
            return (jnp.where(nearer, lowest, best[0]), jnp.where(nearer, index, best[1])), None

        start = (jnp.full(len(x), jnp.inf), jnp.zeros(len(x), jnp.int32))
        if len(tiles) == 1:
            return against(start, (tiles[0], offsets[0], starts[0]))[0][1]
        return jax.lax.scan(against, start, (tiles, offsets, starts))[0][1]

    if rows >= N:
        return of_rows(x)
    blocks = jnp.pad(x, ((0, -N % rows), (0, 0))).reshape(-1, rows, D)
    return jax.lax.map(of_rows, blocks).reshape(-1)[:N]
