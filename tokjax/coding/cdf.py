"""Probabilities as integer counts that sum to a power of two, every one at least 1, for an arithmetic coder.

Letters: `V` symbols.
"""

import jax
import jax.numpy as jnp
import numpy as np

PRECISION = 14  # bits; the smallest probability is 2**-14 (Lester et al. 2024, section 3.2)
FEWEST, MOST = 9, 15  # 256 symbols need more than 8 bits; products of 32 and 15 bits stay within two limbs


def quantise(probabilities: np.ndarray, precision: int = PRECISION) -> np.ndarray:
    """Returns counts uint32 [..., V], each at least 1, that sum to 2**precision.

    Each is floor(p (2**precision - V)) + 1; what is left goes to the most likely symbol, the first of equals.
    Only elementwise float operations are used, so that every machine gives the same counts.

    Args:
      probabilities: float64 [..., V] that sum to 1 up to rounding.
      precision: F, bits.
    """
    total = 1 << precision
    counts = np.floor(probabilities * (total - probabilities.shape[-1])).astype(np.int64) + 1
    best = np.argmax(counts, axis=-1)[..., None]
    residual = total - counts.sum(axis=-1, keepdims=True)
    np.put_along_axis(counts, best, np.take_along_axis(counts, best, axis=-1) + residual, axis=-1)
    return counts.astype(np.uint32)


def quantise_logits(logits: jax.Array, precision: int = PRECISION) -> jax.Array:
    """Returns the counts of softmax(logits [..., V]), as `quantise`, traced. The softmax is in float32.

    A logit of -inf gives the smallest count, 1.
    """
    total = 1 << precision
    probabilities = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
    counts = jnp.floor(probabilities * (total - logits.shape[-1])).astype(jnp.int32) + 1
    best = jnp.argmax(counts, axis=-1)[..., None]
    residual = total - counts.sum(axis=-1, keepdims=True)
    counts = counts + jnp.where(jnp.arange(logits.shape[-1]) == best, residual, 0)
    return counts.astype(jnp.uint32)


def cumulate(counts: np.ndarray) -> np.ndarray:
    """Returns the lower bound of every symbol and, last, the total: uint32 [..., V + 1]."""
    zero = np.zeros((*counts.shape[:-1], 1), np.uint32)
    return np.concatenate([zero, np.cumsum(counts, axis=-1, dtype=np.uint32)], axis=-1)
