"""The cheapest code of each vector as plain XLA: the oracle of the kernels, and what runs where there is none.

Letters: `N` vectors, `K` codes, `D` width.
"""

import jax
import jax.numpy as jnp

from tokjax.core import platform

# Rows and codes whose costs exist at once: on a CPU 4 MiB, which a core's cache about holds; on a GPU 256 MiB.
_TILES = {"cpu": (1024, 1024), "gpu": (8192, 8192)}


def least_xla(
    x: jax.Array, codebook: jax.Array, offset: jax.Array, *, tile: tuple[int, int] | None = None
) -> tuple[jax.Array, jax.Array]:
    """Returns argmin over codes e of offset(e) - x.e, the lowest of equals, and that minimum: int32 and float32 [N].

    The matrix [N, K] never exists, only tiles of it. TPUs get one tile of it all, as their compiler fuses the product
    with the minimum. Products are summed in float32, without rounding float32 inputs first.

    Args:
      x: [N, D], float32 or bfloat16.
      codebook: [K, D], of the same type.
      offset: float32 [K], infinite where a code may not be chosen; code 0 where none may.
      tile: rows and codes at once; by platform by default.
    """
    (N, D), K = x.shape, len(codebook)
    rows, codes = tile or _TILES.get(platform.target(), (N, K))
    rows, codes = max(1, min(rows, N)), min(codes, K)
    if tile is None and (rows, codes) == (N, K) and platform.target() == "tpu":
        cost = offset - _products(x, codebook)
        return jnp.argmin(cost, axis=-1).astype(jnp.int32), jnp.min(cost, axis=-1)
    padding = -K % codes
    tiles = jnp.pad(codebook, ((0, padding), (0, 0))).reshape(-1, codes, D)
    offsets = jnp.pad(offset, (0, padding), constant_values=jnp.inf).reshape(-1, codes)
    starts = jnp.arange(0, K, codes, dtype=jnp.int32)

    def of_rows(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        def against(best: tuple[jax.Array, jax.Array], inputs: tuple[jax.Array, ...]) -> tuple:
            vectors, offset, start = inputs
            cost = offset - _products(x, vectors)
            lowest = jnp.min(cost, axis=-1)
            # The first place of the minimum: two reductions that vectorise, where one argmin does not.
            places = jnp.where(cost == lowest[:, None], jnp.arange(codes, dtype=jnp.int32), codes)
            index = start + jnp.min(places, axis=-1)
            nearer = lowest < best[1]
            return (jnp.where(nearer, index, best[0]), jnp.where(nearer, lowest, best[1])), None

        best = (jnp.zeros(len(x), jnp.int32), jnp.full(len(x), jnp.inf))
        if len(tiles) == 1:
            return against(best, (tiles[0], offsets[0], starts[0]))[0]
        return jax.lax.scan(against, best, (tiles, offsets, starts))[0]

    if rows >= N:
        return of_rows(x)
    blocks = jnp.pad(x, ((0, -N % rows), (0, 0))).reshape(-1, rows, D)
    index, cost = jax.lax.map(of_rows, blocks)
    return index.reshape(-1)[:N], cost.reshape(-1)[:N]


def _products(x: jax.Array, vectors: jax.Array) -> jax.Array:
    return jnp.einsum("nd,kd->nk", x, vectors, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32)
