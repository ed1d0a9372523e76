"""What can be predicted of a text whose alphabet is unknown, from the counts of its symbols alone.

A reference for lexinvariant models: it knows how often new symbols come and old ones come back, and nothing of their
order. Source: Pitman & Yor 1997; the prediction rule of the two-parameter Chinese restaurant.

Letters: `T` symbols of a text, `V` vocabulary.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from tokjax.core.spec import check

_DISCOUNTS = np.arange(0.0, 1.0, 0.1)
_STRENGTHS = 2.0 ** np.arange(-3, 8)


@dataclasses.dataclass(frozen=True)
class Restaurant:
    """The prediction rule, with V symbols of which none is special.

    After t symbols of K kinds, n of them x: P(x) = (n - d) / (t + s) for a kind seen before, and every other symbol
    has an equal share of (s + d K) / (t + s). When all V are seen, nothing is left for others.

    Attributes:
      discount: d, in [0, 1).
      strength: s, above -d.
    """

    discount: float
    strength: float

    def __post_init__(self):
        check(0 <= self.discount < 1, "discount", self.discount, "use a number in [0, 1).")
        check(self.strength > -self.discount, "strength", self.strength, f"use more than {-self.discount}.")

    def nll(self, ids: np.ndarray, vocab_size: int) -> np.ndarray:
        """Returns what each of `ids` int [T] costs given those before it, float64 [T] nats."""
        seen, kinds = history(ids)
        before = np.arange(len(ids))
        new = np.where(kinds < vocab_size, self.strength + self.discount * kinds, 0.0)
        total = np.sum([before - self.discount * kinds, new], axis=0)
        share = new / np.maximum(vocab_size - kinds, 1)
        return -np.log(np.where(seen > 0, seen - self.discount, share) / total)


def fit_restaurant(texts: Sequence[np.ndarray], vocab_size: int) -> Restaurant:
    """Returns the rule, of a grid, under which `texts` cost the least."""
    rules = [Restaurant(float(d), float(s)) for d, s in itertools.product(_DISCOUNTS, _STRENGTHS)]
    return min(rules, key=lambda rule: sum(rule.nll(ids, vocab_size).sum() for ids in texts))


def history(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns how often each of `ids` int [T] came before, int [T], and how many kinds had come before it, int [T]."""
    order = np.argsort(ids, kind="stable")
    run = np.arange(len(ids))
    grouped = ids[order]
    begins = np.append(True, grouped[1:] != grouped[:-1])[: len(ids)]
    seen = np.empty(len(ids), np.int64)
    seen[order] = run - np.maximum.accumulate(np.where(begins, run, 0))
    new = seen == 0
    return seen, np.cumsum(new) - new
