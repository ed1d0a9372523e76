"""How a vocabulary grows and how rich it is: Heaps' law, new tokens, Yule, Simpson, Good-Turing, Yule-Simon.

Sources: Heaps 1978; Yule 1944 (K); Simpson 1949; Good 1953 (the unseen mass); Simon 1955 (the copying process).

Letters: `T` tokens, `V` types.
"""

import dataclasses
import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize
from scipy.special import betaln

from tokjax.core.errors import SourceError
from tokjax.core.spec import check
from tokjax.measure.exchangeable import history
from tokjax.measure.sequences import Tokens, checked_counts, flat
from tokjax.measure.statistics import Estimate, interval

_POINTS = 50  # of a curve that are fitted, evenly spaced in log T


@dataclasses.dataclass(frozen=True)
class Heaps:
    """V(t) = scale * t^beta types among the first t tokens.

    Attributes:
      beta: the exponent and the half width of its confidence interval.
      scale: types at t = 1, by the law.
    """

    beta: Estimate
    scale: float


def vocabulary_curve(tokens: Tokens) -> np.ndarray:
    """Returns how many types there are among the first 1, 2, ... T tokens, int64 [T]."""
    seen, kinds = history(flat(tokens))
    return kinds + (seen == 0)


def fit_heaps(tokens: Tokens, *, blocks: int = 10) -> Heaps:
    """Fits Heaps' law by least squares in logarithms, over all but the first hundredth of the stream.

    Points of one curve are not independent, so the interval is a jackknife's: the fit is repeated without each of
    `blocks` contiguous parts. On independent tokens of Zipf's laws, those of 95% hold for 90 to 93% of streams.

    Raises:
      SourceError, TokenizerError: as of `sequences`; or fewer than 10 tokens in a block.
      SpecError: fewer than two blocks.
    """
    check(blocks >= 2, "blocks", blocks, "use at least 2.")
    ids = flat(tokens)
    if len(ids) < 10 * blocks:
        raise SourceError(f"Heaps' law needs at least {10 * blocks} tokens for {blocks} blocks, not {len(ids)}.")
    beta, log_scale = _line(ids)
    parts = np.array_split(ids, blocks)
    rest = [np.concatenate(parts[:left] + parts[left + 1 :]) for left in range(blocks)]
    # Tukey's pseudo-values turn the jackknife into the interval of a mean.
    pseudo = [blocks * beta - (blocks - 1) * _line(part)[0] for part in rest]
    return Heaps(Estimate(beta, interval(pseudo).half_width), math.exp(log_scale))


def _line(ids: np.ndarray) -> tuple[float, float]:
    curve = vocabulary_curve(ids)
    places = np.unique(np.geomspace(max(len(ids) / 100, 1), len(ids), _POINTS).round().astype(int))
    beta, log_scale = np.polyfit(np.log(places), np.log(curve[places - 1]), 1)
    return float(beta), float(log_scale)


def innovation(tokens: Tokens, *, windows: int = 10) -> np.ndarray:
    """Returns the share of tokens never seen before, in each of `windows` equal parts of the stream, float64.

    Raises:
      SourceError, TokenizerError: as of `sequences`; or fewer tokens than windows.
    """
    seen, _ = history(flat(tokens))
    if not 1 <= windows <= len(seen):
        raise SourceError(f"{len(seen)} tokens do not make {windows} windows; take more tokens or fewer windows.")
    return np.array([np.mean(part == 0) for part in np.array_split(seen, windows)])


def yule_k(counts: ArrayLike) -> float:
    """Returns 10^4 (sum of n^2 - T) / T^2 over how often each type occurs; 10^4 / V where all are equally likely."""
    n = checked_counts(counts).astype(float)
    return float(1e4 * (n @ n - n.sum()) / n.sum() ** 2)


def simpson(counts: ArrayLike) -> float:
    """Returns the probability that two tokens drawn without replacement are of one type.

    Raises:
      SourceError: fewer than two tokens.
    """
    n = checked_counts(counts).astype(float)
    total = n.sum()
    if total < 2:
        raise SourceError("Simpson's index needs two tokens; take more.")
    return float(n @ (n - 1) / (total * (total - 1)))


def unseen_mass(counts: ArrayLike) -> float:
    """Returns Good and Turing's estimate of the probability that the next token is new: the share seen once."""
    n = checked_counts(counts)
    return float(np.count_nonzero(n == 1) / n.sum())


def fit_yule_simon(counts: ArrayLike) -> float:
    """Returns the shape rho of the Yule-Simon law of maximum likelihood, p(n) = rho B(n, rho + 1).

    Simon's process, in which a token is new at a constant rate and else repeats one of those before, has
    rate = 1 - 1 / rho and a power law of exponent 1 + rho.

    Raises:
      SourceError: no type occurs twice.
    """
    n, often = np.unique(checked_counts(counts), return_counts=True)
    if n[-1] == 1:
        raise SourceError("The Yule-Simon law needs a type that occurs twice; take more tokens.")

    def cost(log_rho: float) -> float:
        rho = math.exp(log_rho)
        return -float(often @ (log_rho + betaln(n, rho + 1))) / often.sum()

    return math.exp(optimize.minimize_scalar(cost, bounds=(-15.0, 15.0), method="bounded").x)
