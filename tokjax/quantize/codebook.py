"""A codebook's health: how it starts, how averages move it, and what becomes of codes that nothing chooses.

Letters: `N` vectors, `K` codes, `D` width.
"""

import jax
import jax.numpy as jnp

from tokjax.core import platform
from tokjax.kernels.nearest_code.api import nearest
from tokjax.quantize.base import count_codes
from tokjax.quantize.gradients import unit

_SMOOTHING = 1e-5  # of counts, so that no code is divided by 0
_PERTURB = 0.1  # share by which the copy of a split code differs


def sum_by_code(z: jax.Array, codes: jax.Array, mask: jax.Array, size: int) -> jax.Array:
    """Returns the sum of the vectors `z` [N, D] that chose each code, [size, D].

    A sum by index, but on TPUs a product with one-hot codes: there the matrix unit is faster than scattered additions,
    and the one-hot matrix is fused away, which would take N K numbers of a GPU's memory.
    """
    if platform.target() == "tpu":
        chosen = jax.nn.one_hot(codes, size, dtype=jnp.float32)
        vectors = jnp.where(mask[:, None], z, 0.0).astype(jnp.float32)
        return jnp.einsum("nk,nd->kd", chosen, vectors, precision=jax.lax.Precision.HIGHEST)
    return jnp.zeros((size, z.shape[-1]), jnp.float32).at[codes].add(jnp.where(mask[:, None], z, 0.0))


def smooth(counts: jax.Array) -> jax.Array:
    """Returns `counts` [K] with a little added to each, of the same total (Laplace smoothing)."""
    total = jnp.sum(counts)
    return (counts + _SMOOTHING) / (total + len(counts) * _SMOOTHING) * total


def sample_vectors(z: jax.Array, mask: jax.Array, count: int, key: jax.Array) -> jax.Array:
    """Returns `count` of the vectors of `mask` [count, D], drawn without replacement, then all over again."""
    order = jnp.argsort(jnp.where(mask, jax.random.uniform(key, mask.shape), jnp.inf))
    return z[order[jnp.arange(count) % jnp.maximum(jnp.sum(mask), 1)]]


def kmeans(
    z: jax.Array, mask: jax.Array, size: int, key: jax.Array, *, cosine: bool = False, iterations: int = 10
) -> tuple[jax.Array, jax.Array]:
    """Runs Lloyd's algorithm from vectors drawn at random; a mean that nothing is nearest to stays.

    Args:
      z: [N, D].
      mask: bool [N], vectors that count.
      size: K.
      key: of the draw.
      cosine: vectors and means have unit length.
      iterations: steps, each of which moves every mean.

    Returns:
      (means [K, D], how many vectors each was made of [K]).
    """

    def step(carry: tuple[jax.Array, jax.Array], _: None) -> tuple[tuple[jax.Array, jax.Array], None]:
        means = carry[0]
        codes = nearest(z, means)
        counts = count_codes(codes, mask, size)
        moved = sum_by_code(z, codes, mask, size) / jnp.maximum(counts, 1.0)[:, None]
        moved = unit(moved) if cosine else moved
        return (jnp.where(counts[:, None] > 0, moved, means), counts), None

    z = jax.lax.stop_gradient(z)
    start = (sample_vectors(z, mask, size, key), jnp.zeros(size, jnp.float32))
    return jax.lax.scan(step, start, length=iterations)[0]


def revive(
    codebook: jax.Array, counts: jax.Array, z: jax.Array, mask: jax.Array, key: jax.Array, threshold: float
) -> tuple[jax.Array, jax.Array]:
    """Replaces codes of a count below `threshold` by vectors of the batch, which get the count `threshold`.

    Args:
      codebook: [K, D].
      counts: [K], average number of vectors of a batch that choose each code.
      z: [N, D].
      mask: bool [N], vectors that count; with none, nothing is replaced.
      key: of the draw.
      threshold: least count of a code in use.
    """
    dead = (counts < threshold) & jnp.any(mask)
    drawn = sample_vectors(z, mask, len(counts), key)[jnp.maximum(jnp.cumsum(dead) - 1, 0)]
    return jnp.where(dead[:, None], drawn, codebook), jnp.where(dead, threshold, counts)


def split(codebook: jax.Array, counts: jax.Array, key: jax.Array, threshold: float) -> tuple[jax.Array, jax.Array]:
    """Replaces codes of a count below `threshold` by perturbed copies of the most used code, which shares its count.

    One after another, as long as some code is so common that its half is no dead code itself (Kolesnikov et al. 2022,
    UViM, whose trainer does so inside its step).

    Args:
      codebook: [K, D].
      counts: [K], average number of vectors of a batch that choose each code.
      key: of the perturbations.
      threshold: least count of a code in use.
    """

    def needed(carry: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        _, counts, _ = carry
        return (jnp.min(counts) < threshold) & (jnp.max(counts) >= 2 * threshold)

    def once(carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        codebook, counts, step = carry
        dead, most = jnp.argmin(counts), jnp.argmax(counts)
        noise = jax.random.uniform(jax.random.fold_in(key, step), codebook.shape[1:], minval=-1.0, maxval=1.0)
        codebook = codebook.at[dead].set(codebook[most] * (1.0 + _PERTURB * noise))
        half = 0.5 * counts[most]
        return codebook, counts.at[dead].set(half).at[most].set(half), step + 1

    return jax.lax.while_loop(needed, once, (codebook, counts, jnp.zeros((), jnp.int32)))[:2]


def anchor(
    codebook: jax.Array, usage: jax.Array, z: jax.Array, mask: jax.Array, decay: float
) -> tuple[jax.Array, jax.Array]:
    """Moves each code towards the vector nearest to it: all the way where it is never used, hardly where it is.

    The clustering update of Zheng & Vedaldi 2023 (CVQ), with alpha = exp(-10 K usage / (1 - decay) - 1e-3).

    Args:
      codebook: [K, D].
      usage: [K], average share of a batch that chooses each code.
      z: [N, D].
      mask: bool [N], vectors that count; with none, nothing moves.
      decay: of the average `usage`.

    Returns:
      (the codebook, alpha [K]).
    """
    alpha = jnp.exp(-10.0 * len(codebook) * usage / (1.0 - decay) - 1e-3) * jnp.any(mask)
    closest = z[nearest(codebook, z, valid=mask)]
    return codebook + alpha[:, None] * (closest - codebook), alpha
