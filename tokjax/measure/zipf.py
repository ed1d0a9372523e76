"""Zipf's law: how the frequency of a token falls with its rank.

Sources: Mandelbrot 1953 (the shifted law); Piantadosi 2014 (ranks from one half of a text, counts from the other).

Letters: `R` ranks.
"""

import dataclasses
import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize

from tokjax.core.errors import SourceError, TokenizerError
from tokjax.measure.sequences import Tokens, flat


@dataclasses.dataclass(frozen=True)
class ZipfMandelbrot:
    """p(r) = (r + shift)^-exponent / sum over the ranks 1 to R of the same.

    Attributes:
      exponent: Zipf's, near 1 in words of a language; 0 is uniform.
      shift: above -1; 0 is Zipf's law proper.
      ranks: R.
      log_likelihood: mean per token, nats.
    """

    exponent: float
    shift: float
    ranks: int
    log_likelihood: float

    def probabilities(self) -> np.ndarray:
        """Returns float64 [R], which sum to 1."""
        logs = -self.exponent * np.log(np.arange(1, self.ranks + 1) + self.shift)
        weights = np.exp(logs - logs.max())
        return weights / weights.sum()


def rank_counts(tokens: Tokens, seed: int) -> np.ndarray:
    """Returns how often the token of each rank occurs, int64 [R], with errors of the ranks apart from those of counts.

    A random half of the tokens gives the ranks and the other half the counts. Sorting the counts themselves makes any
    noise a falling curve.

    Raises:
      SourceError, TokenizerError: as of `sequences`; or fewer than two types in the first half.
    """
    _, ids = np.unique(flat(tokens), return_inverse=True)
    first = np.random.default_rng(seed).random(len(ids)) < 0.5
    ranking, counted = (np.bincount(part, minlength=int(ids.max()) + 1) for part in (ids[first], ids[~first]))
    order = np.argsort(-ranking, kind="stable")
    counts = counted[order[: np.count_nonzero(ranking)]]
    if len(counts) < 2 or not counts.sum():
        raise SourceError("Ranks need two types of tokens in each half of the stream; take more tokens.")
    return counts


def fit_zipf_mandelbrot(counts: ArrayLike, *, shift: float | None = None) -> ZipfMandelbrot:
    """Fits the law to how often the token of each rank occurs, by maximum likelihood.

    Args:
      counts: int [R], by rank, from `rank_counts`; zeros and a rise may be among them.
      shift: fixed to this value, such as 0 for Zipf's law proper; fitted without it.

    Raises:
      SourceError: fewer than two ranks, or no token.
      TokenizerError: counts that are negative or not integers.
    """
    counts = np.asarray(counts)
    if counts.ndim != 1 or len(counts) < 2 or not counts.any():
        raise SourceError("Zipf's law needs the counts of at least two ranks; take more tokens.")
    if counts.dtype.kind not in "iu" or counts.min() < 0:
        raise TokenizerError("Counts of ranks must be integers of at least 0.")
    shares = counts / counts.sum()
    above_first = np.arange(len(counts))

    # The shift is exp(t) - 1, so that r + shift = (r - 1) + exp(t) is positive for every t.
    def cost(point: np.ndarray) -> tuple[float, np.ndarray]:
        exponent, t = point
        shifted = above_first + math.exp(t)
        logs = np.log(shifted)
        weights = np.exp(-exponent * (logs - logs[0]))
        total = weights.sum()
        excess = shares - weights / total  # of the data over the law
        nats = exponent * shares @ logs + math.log(total) - exponent * logs[0]
        return float(nats), np.array([excess @ logs, exponent * (excess @ (math.exp(t) / shifted))])

    fixed = None if shift is None else math.log1p(shift)
    bounds = [(0.0, 30.0), (-10.0, math.log(10.0 * len(counts))) if fixed is None else (fixed, fixed)]
    starts = [np.array([s, t if fixed is None else fixed]) for s, t in ((1.0, 0.0), (2.0, 0.5 * math.log(len(counts))))]
    options = {"ftol": 1e-14, "gtol": 1e-9, "maxiter": 2000}
    fits = [optimize.minimize(cost, s, jac=True, method="L-BFGS-B", bounds=bounds, options=options) for s in starts]
    best = min(fits, key=lambda fit: fit.fun)
    return ZipfMandelbrot(float(best.x[0]), math.expm1(best.x[1]), len(counts), -float(best.fun))
