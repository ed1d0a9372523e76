"""How a codebook is used and what its codes cost, all from counts, which batches and hosts add up to.

Letters: `N` images (or other records), `T` tokens of each, `K` codes.
"""

import dataclasses
import math

import numpy as np

from tokjax.core.errors import SourceError
from tokjax.measure import token_entropy


def count_codes(codes: np.ndarray, size: int) -> np.ndarray:
    """Counts how often each code is used, int64 [K]. Add the counts of batches and hosts.

    Args:
      codes: integers of any shape, 0 to `size` - 1.
      size: K.

    Raises:
      SourceError: codes that are no integers or out of range.
    """
    return np.bincount(_checked(codes, size).ravel(), minlength=size).astype(np.int64)


def code_histograms(codes: np.ndarray, size: int) -> np.ndarray:
    """Returns the share of each code in each record, float32 [N, K], of `codes` int [N, T].

    These are features of tokens for `measure.probe.fit_probe` to read; they say nothing of order.

    Raises:
      SourceError: as of `count_codes`.
    """
    codes = _checked(codes, size)
    N, T = codes.shape
    counts = np.bincount((np.arange(N)[:, None] * size + codes).ravel(), minlength=N * size).reshape(N, size)
    return (counts / max(T, 1)).astype(np.float32)


def usage(counts: np.ndarray) -> float:
    """Returns the share of the codes that occur in `counts` [K], distinct / K.

    It grows with the number of tokens seen, so that two numbers compare only at the same.
    """
    return np.count_nonzero(counts) / len(counts)


def entropy(counts: np.ndarray, *, corrected: bool = False) -> float:
    """Returns the entropy of the codes of `counts` [K], bits a token, 0 to log2 K.

    Args:
      counts: how often each code occurs.
      corrected: whether to add what a sample's entropy lacks to first order, (distinct - 1) / (2 tokens) nats (Miller
        1955).

    Raises:
      SourceError: no tokens.
    """
    occurring = np.asarray(counts)[np.asarray(counts) > 0]
    if corrected:
        return min(token_entropy.miller_madow(occurring), math.log2(len(counts)))
    return token_entropy.entropy(occurring)


def perplexity(counts: np.ndarray) -> float:
    """Returns exp of the entropy in nats: how many equally frequent codes have the entropy of `counts` [K], 1 to K."""
    return 2.0 ** entropy(counts)


def nominal_bits(counts: np.ndarray) -> float:
    """Returns tokens x log2 K, bits: what the codes of `counts` [K] cost at a fixed length each."""
    return int(np.sum(counts)) * math.log2(len(counts))


def static_bits(counts: np.ndarray) -> float:
    """Returns tokens x entropy, bits: the least that a coder needs without context, told the very frequencies.

    Telling them is not counted, so this flatters large codebooks on few images; `adaptive_bits` does not.
    """
    return int(np.sum(counts)) * entropy(counts)


def adaptive_bits(counts: np.ndarray) -> float:
    """Returns the bits that a coder needs without context which learns the frequencies as it goes, from nothing.

    A decoder does the same, so that nothing but the codes is sent: the honest size. As of
    `token_entropy.adaptive_bits`, the order of the codes does not matter.
    """
    occurring = np.asarray(counts)[np.asarray(counts) > 0]
    return token_entropy.adaptive_bits(occurring, len(counts))


@dataclasses.dataclass(frozen=True)
class CodeStatistics:
    """Of one codebook on one set of images.

    Attributes:
      size: K.
      tokens: how many were counted.
      usage, dead_fraction: shares of the codes that occur and that never do.
      perplexity: exp of the entropy in nats, as counted.
      entropy: bits a token, corrected.
      nominal_bits_per_pixel: at log2 K bits a token.
      static_bits_per_pixel: with the frequencies known, a lower bound.
      adaptive_bits_per_pixel: with the frequencies learnt from the codes before.
    """

    size: int
    tokens: int
    usage: float
    dead_fraction: float
    perplexity: float
    entropy: float
    nominal_bits_per_pixel: float
    static_bits_per_pixel: float
    adaptive_bits_per_pixel: float


def code_statistics(counts: np.ndarray, pixels: int) -> CodeStatistics:
    """Sums up `counts` [K] of the codes of images of `pixels` pixels in all (height x width; channels do not count).

    Raises:
      SourceError: no tokens or no pixels.
    """
    if pixels <= 0:
        raise SourceError(f"pixels: got {pixels}; give height x width of all images together.")
    used = usage(counts)
    return CodeStatistics(
        size=len(counts),
        tokens=int(np.sum(counts)),
        usage=used,
        dead_fraction=1 - used,
        perplexity=perplexity(counts),
        entropy=entropy(counts, corrected=True),
        nominal_bits_per_pixel=nominal_bits(counts) / pixels,
        static_bits_per_pixel=static_bits(counts) / pixels,
        adaptive_bits_per_pixel=adaptive_bits(counts) / pixels,
    )


def _checked(codes: np.ndarray, size: int) -> np.ndarray:
    codes = np.asarray(codes)
    if not np.issubdtype(codes.dtype, np.integer):
        raise SourceError(f"codes: got {codes.dtype}; give integers.")
    if codes.size and (codes.min() < 0 or codes.max() >= size):
        raise SourceError(f"codes: values in [{codes.min()}, {codes.max()}], outside a codebook of {size}.")
    return codes
