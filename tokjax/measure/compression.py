"""What a tokenizer does before any model reads it: its ratio, and what a model of no context could learn of its ids.

Source: Lester et al. 2024, section 5 and tables 3 and 13.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from tokjax.text.fitted import Fitted


@dataclasses.dataclass(frozen=True)
class Compression:
    """Of one tokenizer on one text.

    Attributes:
      bytes_per_token: the ratio.
      uniform_bits_per_byte: the cost when every id is as likely as every other: log2(V) / ratio; V counts all ids,
        those that close a chunk too.
      unigram_bits_per_byte: the cost under the frequencies of ids in a training text; None without one.
    """

    bytes_per_token: float
    uniform_bits_per_byte: float
    unigram_bits_per_byte: float | None

    @property
    def unigram_gain(self) -> float | None:
        """Bits per byte that the frequencies of single ids save."""
        cost = self.unigram_bits_per_byte
        return None if cost is None else self.uniform_bits_per_byte - cost


def compression(fitted: Fitted, test: Sequence[bytes], train: Sequence[bytes] = ()) -> Compression:
    """Measures `fitted` on `test`; id frequencies are of `train`, interpolated with the uniform distribution."""
    total, used = sum(map(len, test)), _counts(fitted, test)
    tokens = int(used.sum())
    unigram = None
    if train:
        counts = _counts(fitted, train)
        distinct = np.count_nonzero(counts)
        bits = -np.log2((counts + distinct / fitted.size) / (counts.sum() + distinct))
        unigram = float((used * bits).sum()) / total
    return Compression(total / tokens, math.log2(fitted.size) * tokens / total, unigram)


def _counts(fitted: Fitted, documents: Sequence[bytes]) -> np.ndarray:
    """How often each id is used, int64 [V]."""
    counts = np.zeros(fitted.size, np.int64)
    for ids, _ in fitted.encode_many(documents):
        counts += np.bincount(ids, minlength=fitted.size)
    return counts


def flops_per_byte(parameters: float, bytes_per_token: float, entropy_parameters: float = 0.0) -> float:
    """Inference FLOPs per byte as the paper counts them: two per parameter a token, and two per byte for M1's.

    Args:
      parameters: of the model over tokens, embeddings left out.
      bytes_per_token: the ratio.
      entropy_parameters: of the model that the encoder runs at every byte; 0 for a table.
    """
    return 2.0 * parameters / bytes_per_token + 2.0 * entropy_parameters
