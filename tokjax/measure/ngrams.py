"""n-grams of token sequences: their counts, and a language model that interpolates them.

Sources: Kneser & Ney 1995; Chen & Goodman 1999 (interpolated, one discount for each order).

Letters: `N` n-grams, `T` tokens of a sequence, `V` vocabulary.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from tokjax.core.errors import SourceError, TokenizerError
from tokjax.core.spec import check
from tokjax.measure.sequences import Tokens, sequences

_LEAST, _MOST = 0.02, 0.98  # of a discount: with none, a token that is new in its context would be impossible


def ngrams(tokens: Tokens, n: int) -> np.ndarray:
    """Returns all n-grams that lie within a sequence, int64 [N, n], in order.

    Raises:
      SpecError: n below 1.
      SourceError, TokenizerError: as of `sequences`; or no sequence has n tokens.
    """
    check(n >= 1, "n", n, "use at least 1.")
    rows = [row for row in sequences(tokens) if len(row) >= n]
    if not rows:
        raise SourceError(f"No sequence has {n} tokens; take a smaller n or longer sequences.")
    return np.concatenate([np.lib.stride_tricks.sliding_window_view(row, n) for row in rows])


def ngram_counts(tokens: Tokens, n: int) -> np.ndarray:
    """Returns how often each n-gram that occurs does, int64, the most frequent first: its rank-frequency curve.

    Errors are those of `ngrams`.
    """
    return np.sort(np.bincount(row_labels(ngrams(tokens, n))))[::-1]


def row_labels(rows: np.ndarray) -> np.ndarray:
    """Returns a number for each of `rows` [N, n], the same for equal ones and from 0 without gaps, int64 [N]."""
    labels = np.zeros(len(rows), np.int64)
    for column in rows.T:
        values, ids = np.unique(column, return_inverse=True)
        # Labels are below N after each column, so that the product fits into 63 bits whatever n and V are.
        labels = np.unique(labels * len(values) + ids, return_inverse=True)[1]
    return labels


@dataclasses.dataclass(frozen=True, eq=False)
class _Order:
    """Of one length of contexts, which are numbered; an n-gram is the number of its context times V, plus its token.

    Attributes:
      contexts: int64, sorted: number of the context one shorter, times V + 1, plus the token before it.
      grams: int64 [G], sorted.
      counts: float64 [G], discounted.
      total: float64, before the discount, by number of context.
      kept: float64, what the discount leaves to the shorter context, by number of context.
    """

    contexts: np.ndarray
    grams: np.ndarray
    counts: np.ndarray
    total: np.ndarray
    kept: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class NgramModel:
    """Interpolated Kneser-Ney: p(w | c) = (max(n(c w) - d, 0) + d t(c) p(w | c without its first token)) / n(c).

    n counts occurrences for the longest contexts, and different tokens before the n-gram for all shorter ones; t is how
    many different tokens follow c; the last resort is uniform over V. A sequence starts with V as a token before it.

    Attributes:
      vocab_size: V.
      orders: contexts of 0, 1, ... tokens.
    """

    vocab_size: int
    orders: tuple[_Order, ...]

    def log_probabilities(self, sequence: np.ndarray) -> np.ndarray:
        """Returns the nats of each token of int [T] given those before it, float64 [T]."""
        return self._log_probabilities(self._nodes(sequence)[:, :-1], np.asarray(sequence))

    def next_probabilities(self, sequence: np.ndarray) -> np.ndarray:
        """Returns the probability of each token after int [T], which may be empty, float64 [V]."""
        nodes = np.repeat(self._nodes(sequence)[:, -1:], self.vocab_size, axis=1)
        return np.exp(self._log_probabilities(nodes, np.arange(self.vocab_size)))

    def _nodes(self, sequence: np.ndarray) -> np.ndarray:
        """Numbers of the contexts at T + 1 places, int64 [orders, T + 1], -1 for those that never were."""
        before = _previous([np.asarray(sequence, np.int64)], len(self.orders) - 1, self.vocab_size, after=1)
        nodes = [np.zeros(before.shape[1], np.int64)]
        for order, token in zip(self.orders[1:], before, strict=True):
            keys = nodes[-1] * (self.vocab_size + 1) + token
            nodes.append(np.where(nodes[-1] >= 0, _find(order.contexts, keys), -1))
        return np.stack(nodes)

    def _log_probabilities(self, nodes: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        probability = np.full(len(tokens), 1.0 / self.vocab_size)
        for order, node in zip(self.orders, nodes, strict=True):
            gram = _find(order.grams, node * self.vocab_size + tokens)
            count = np.where(gram >= 0, order.counts[gram], 0.0)
            mixed = (count + order.kept[node] * probability) / order.total[node]
            probability = np.where(node >= 0, mixed, probability)
        return np.log(probability)


def fit_ngram(tokens: Tokens, order: int, vocab_size: int) -> NgramModel:
    """Counts the n-grams of up to `order` tokens.

    The discount of each order is n1 / (n1 + 2 n2), of n-grams with the counts 1 and 2; here at least 0.02, for streams
    so regular that none occurs once.

    Args:
      tokens: the training sequences.
      order: n, the context and the token after it.
      vocab_size: V.

    Raises:
      SpecError: an order below 1.
      SourceError, TokenizerError: as of `sequences`.
    """
    check(order >= 1, "order", order, "use at least 1.")
    rows = sequences(tokens, vocab_size)
    token, before = np.concatenate(rows), _previous(rows, order - 1, vocab_size)
    contexts, nodes = [np.zeros(1, np.int64)], [np.zeros(len(token), np.int64)]
    for previous in before:
        keys, numbers = np.unique(nodes[-1] * (vocab_size + 1) + previous, return_inverse=True)
        contexts.append(keys)
        nodes.append(numbers)
    grams, counts = np.unique(nodes[-1] * vocab_size + token, return_counts=True)
    orders = [_discounted(contexts[-1], grams, counts, vocab_size)]
    for length in reversed(range(order - 1)):
        # Each n-gram that is one longer is a different token before this one.
        node, last = np.divmod(grams, vocab_size)
        shorter = contexts[length + 1][node] // (vocab_size + 1)
        grams, counts = np.unique(shorter * vocab_size + last, return_counts=True)
        orders.append(_discounted(contexts[length], grams, counts, vocab_size))
    return NgramModel(vocab_size, tuple(reversed(orders)))


def _discounted(contexts: np.ndarray, grams: np.ndarray, counts: np.ndarray, vocab_size: int) -> _Order:
    once, twice = int(np.sum(counts == 1)), int(np.sum(counts == 2))
    discount = min(max(once / max(once + 2 * twice, 1), _LEAST), _MOST)
    node = grams // vocab_size
    return _Order(contexts, grams, counts - discount, np.bincount(node, counts), discount * np.bincount(node))


def _previous(rows: Sequence[np.ndarray], length: int, start: int, *, after: int = 0) -> np.ndarray:
    """The tokens 1, 2, ... `length` before each place of each of `rows`, `start` before its first: int64 [length, T].

    `after`: places past the end of each row.
    """
    padded = [np.concatenate([np.full(length, start), row, np.zeros(after, np.int64)]) for row in rows]
    back = [[row[length - k : len(row) - k] for row in padded] for k in range(1, length + 1)]
    total = sum(map(len, rows)) + after * len(rows)
    return np.array([np.concatenate(parts) for parts in back], np.int64).reshape(length, total)


def _find(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Places of `wanted` in sorted `keys`, int64, -1 for those that are not there."""
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, place, -1)


def perplexity(model: NgramModel, tokens: Tokens) -> float:
    """Returns exp of the mean nats of a token under `model`; of sequences that it was not fitted on, to mean anything.

    Raises:
      SourceError, TokenizerError: as of `sequences`.
    """
    rows = sequences(tokens)
    largest = max(int(row.max()) for row in rows)
    if largest >= model.vocab_size:
        raise TokenizerError(f"Token id {largest} is not among the {model.vocab_size} of the model; fit it with more.")
    return math.exp(-np.mean(np.concatenate([model.log_probabilities(row) for row in rows])))
