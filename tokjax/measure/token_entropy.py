"""How many bits a token carries: entropies, and what codes of several kinds spend.

Sources: Miller 1955 (the bias of the entropy); Huffman 1952; Krichevsky & Trofimov 1981; Ziv & Lempel 1977.

Letters: `T` tokens, `V` vocabulary.
"""

import heapq
import lzma
import math
import zlib
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import gammaln

from tokjax.coding import cdf, host
from tokjax.core.errors import UnknownNameError, nearest
from tokjax.core.spec import check
from tokjax.measure.ngrams import ngrams, row_labels
from tokjax.measure.sequences import Tokens, checked_counts, flat

_PRECISION = 30  # bits of the static model's probabilities; the coder's widths have 32


def entropy(counts: ArrayLike) -> float:
    """Returns the entropy of the frequencies themselves, bits; low where there are few tokens for each type."""
    n = checked_counts(counts)
    p = n / n.sum()
    return float(-(p @ np.log2(p))) + 0.0  # 0.0, not -0.0, for a single type


def miller_madow(counts: ArrayLike) -> float:
    """Returns the entropy with the first-order correction of its bias, (types - 1) / (2 T) nats, in bits."""
    n = checked_counts(counts)
    return entropy(n) + (len(n) - 1) / (2 * math.log(2) * int(n.sum()))


def block_entropy(tokens: Tokens, n: int) -> float:
    """Returns the entropy of the frequencies of n-grams, bits for each n-gram.

    Errors are those of `ngrams`.
    """
    return entropy(np.bincount(row_labels(ngrams(tokens, n))))


def conditional_entropy(tokens: Tokens, n: int) -> float:
    """Returns the entropy of a token given the n - 1 before it, bits; not below 0.

    From the frequencies of n-grams and of what they begin with, which falls short of the truth, the more so the rarer
    n-grams recur. A shuffled stream shows by how much; `fit_ngram` bounds it from above.

    Errors are those of `ngrams`.
    """
    found = ngrams(tokens, n)
    begin = entropy(np.bincount(row_labels(found[:, :-1])))
    return max(entropy(np.bincount(row_labels(found))) - begin, 0.0)


def huffman_lengths(counts: ArrayLike) -> np.ndarray:
    """Returns the bits of each type's codeword in a Huffman code of these frequencies, int64; 0 for a single type."""
    n = checked_counts(counts)
    heap = [(count, node) for node, count in enumerate(n.tolist())]
    heapq.heapify(heap)
    parent = np.zeros(2 * len(n) - 1, np.int64)
    for node in range(len(n), len(parent)):
        (a, left), (b, right) = heapq.heappop(heap), heapq.heappop(heap)
        parent[[left, right]] = node
        heapq.heappush(heap, (a + b, node))
    depth = np.zeros(len(parent), np.int64)
    for node in range(len(parent) - 2, -1, -1):
        depth[node] = depth[parent[node]] + 1
    return depth[: len(n)]


def huffman_bits(counts: ArrayLike) -> float:
    """Returns the mean bits of a token in a Huffman code of these frequencies, in [entropy, entropy + 1)."""
    n = checked_counts(counts)
    return float(n @ huffman_lengths(n) / n.sum())


def adaptive_bits(counts: ArrayLike, vocab_size: int) -> float:
    """Returns the bits of a whole stream for an arithmetic coder that learns its frequencies on the way.

    The next token has probability (n + 1/2) / (t + V/2) after t tokens, n of them the same (Krichevsky & Trofimov), in
    whatever order they come. A code is at most 2 bits longer, for the whole stream.

    Raises:
      SpecError: more types than `vocab_size`.
    """
    n = checked_counts(counts)
    check(len(n) <= vocab_size, "vocab_size", vocab_size, f"there are {len(n)} types; pass the full size.")
    each = np.sum(gammaln(n + 0.5) - gammaln(0.5))
    whole = gammaln(n.sum() + vocab_size / 2) - gammaln(vocab_size / 2)
    return float((whole - each) / math.log(2))


def static_bits(tokens: Tokens) -> int:
    """Returns the length of the arithmetic code of a stream under its own frequencies, which both sides know, bits.

    The code is made, by the coder of `tokjax.coding`; the time is quadratic in the stream.

    Raises:
      SourceError, TokenizerError: as of `sequences`.
    """
    _, ids, counts = np.unique(flat(tokens), return_inverse=True, return_counts=True)
    bounds = cdf.cumulate(cdf.quantise(counts / counts.sum(), _PRECISION)).tolist()
    return host.encode([(bounds[i], bounds[i + 1]) for i in ids.tolist()], _PRECISION)[1]


def lempel_ziv_bits(tokens: Tokens, vocab_size: int, *, method: str = "lzma") -> int:
    """Returns the bits of a whole stream after a general compressor, `lzma` or `zlib`, with the fewest bytes for an id.

    Tokens and their repetitions stay whole bytes. A vocabulary that fills them not is left to the compressor.

    Raises:
      UnknownNameError: no such method.
      SourceError, TokenizerError: as of `sequences`.
    """
    if method not in _COMPRESSORS:
        raise UnknownNameError(f"No compressor is called {method!r}.{nearest(method, _COMPRESSORS)}")
    ids = flat(tokens, vocab_size)
    log_width = 0 if vocab_size <= 1 << 8 else 1 if vocab_size <= 1 << 16 else 2
    packed = ids.astype(f"<u{1 << log_width}").tobytes()
    return 8 * len(_COMPRESSORS[method](packed, log_width))


def _lzma(packed: bytes, log_width: int) -> bytes:
    # Told how wide an id is, it learns the bytes at each place of it apart.
    chain = [{"id": lzma.FILTER_LZMA2, "preset": 9, "lc": 4 - max(log_width, 1), "lp": log_width, "pb": log_width}]
    return lzma.compress(packed, format=lzma.FORMAT_RAW, filters=chain)


def _zlib(packed: bytes, log_width: int) -> bytes:
    del log_width
    return zlib.compress(packed, 9)


_COMPRESSORS: dict[str, Callable[[bytes, int], bytes]] = {"lzma": _lzma, "zlib": _zlib}
