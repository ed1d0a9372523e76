"""Heavy tails of counts: the discrete power law, the discrete lognormal, and which of the two fits better.

The values are how often each type occurs. A rank-frequency law with exponent s makes them a power law of 1 + 1/s.

Sources: Clauset, Shalizi & Newman 2009 (maximum likelihood, xmin by the Kolmogorov-Smirnov distance, bootstrap);
Vuong 1989, Econometrica 57 (the likelihood-ratio test).

Letters: `N` values, `U` different ones.
"""

import dataclasses
import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize
from scipy.special import erfc, log_ndtr, zeta

from tokjax.core.errors import SourceError
from tokjax.core.spec import check
from tokjax.measure.sequences import checked_counts

_STEEPEST = 20.0  # an exponent beyond this is no heavy tail, and its zeta function underflows
_SMALLEST_CURVATURE = 1e-6  # 1 / (2 sigma^2) of a lognormal that is a power law over any counts there are
_LARGEST = 1 << 50  # drawn values stop here, where float64 still tells neighbours apart


@dataclasses.dataclass(frozen=True)
class PowerLaw:
    """p(x) = x^-alpha / zeta(alpha, xmin) for integers x >= xmin.

    Attributes:
      alpha: the exponent.
      xmin: where the tail begins.
      standard_error: of alpha, from the curvature of the likelihood; xmin is taken as known.
      distance: Kolmogorov-Smirnov, between the values from xmin on and the law.
      tail: how many values are at least xmin.
    """

    alpha: float
    xmin: int
    standard_error: float
    distance: float
    tail: int

    def log_probabilities(self, values: np.ndarray) -> np.ndarray:
        """Returns nats, float64, of each of `values` >= xmin."""
        return -self.alpha * np.log(values) - math.log(zeta(self.alpha, self.xmin))


@dataclasses.dataclass(frozen=True)
class Lognormal:
    """A normal law of ln x, with mass at each integer x >= xmin from x - 1/2 to x + 1/2.

    Attributes:
      mu, sigma: of ln x before it is cut at xmin. A tail that is close to a power law leaves them loosely determined.
      xmin: where the tail begins.
      tail: how many values are at least xmin.
    """

    mu: float
    sigma: float
    xmin: int
    tail: int

    def log_probabilities(self, values: np.ndarray) -> np.ndarray:
        """Returns nats, float64, of each of `values` >= xmin."""
        return _lognormal_nats(self.mu, self.sigma, np.asarray(values), self.xmin)


@dataclasses.dataclass(frozen=True)
class Vuong:
    """Two laws on the same values.

    Attributes:
      ratio: the log-likelihood of the first less that of the second, nats.
      z: `ratio` in its standard deviations; positive speaks for the first.
      p_value: two-sided, of the two being equally close to the truth.
    """

    ratio: float
    z: float
    p_value: float


def fit_power_law(values: ArrayLike, xmin: int | None = None) -> PowerLaw:
    """Fits a power law to the values from `xmin` on; without it, from where the law is closest to them.

    Args:
      values: int [N], each at least 1, such as `type_counts`.
      xmin: the least value of the tail.

    Raises:
      SourceError: no or no two different values in the tail.
      TokenizerError: values that are not positive integers.
      SpecError: an impossible xmin.
    """
    found, counts = np.unique(checked_counts(values), return_counts=True)
    if xmin is not None:
        check(xmin >= 1, "xmin", xmin, "use an integer of at least 1.")
        found, counts = found[found >= xmin], counts[found >= xmin]
    if len(found) < 2:
        raise SourceError("A power law needs two different counts in its tail; take more tokens or a lower xmin.")
    if xmin is not None:
        return _power_law(found, counts, xmin)
    fits = (_power_law(found[first:], counts[first:], int(found[first])) for first in range(len(found) - 1))
    return min(fits, key=lambda fit: fit.distance)


def _power_law(found: np.ndarray, counts: np.ndarray, xmin: int) -> PowerLaw:
    """The law of maximum likelihood for values int [U] >= xmin with their counts [U]."""
    tail = int(counts.sum())
    mean_log = float(counts @ np.log(found)) / tail

    def cost(alpha: float) -> float:
        return alpha * mean_log + math.log(zeta(alpha, xmin))

    fit = optimize.minimize_scalar(cost, bounds=(1 + 1e-6, _STEEPEST), method="bounded", options={"xatol": 1e-7})
    alpha, step = float(fit.x), 1e-3 * (fit.x - 1)
    curvature = (cost(alpha + step) - 2 * cost(alpha) + cost(alpha - step)) / step**2
    whole, shares = zeta(alpha, xmin), np.cumsum(counts) / tail
    # Both are steps: the greatest difference is at a value or just before one.
    at = np.abs(shares - (1 - zeta(alpha, found + 1) / whole))
    before = np.abs(shares - counts / tail - (1 - zeta(alpha, found) / whole))
    distance = float(max(at.max(), before.max()))
    return PowerLaw(alpha, xmin, 1 / math.sqrt(tail * curvature), distance, tail)


def goodness_of_fit(law: PowerLaw, values: ArrayLike, *, draws: int = 100, seed: int = 0) -> float:
    """Returns the share of samples of `law` that lie further from their own fits: below 0.1 it is not plausible.

    Values below xmin are drawn from those there are; each sample has its own xmin. Source: Clauset et al., section 4.1.
    """
    check(draws >= 1, "draws", draws, "use at least 1; 2500 give the second decimal.")
    observed, generator = checked_counts(values), np.random.default_rng(seed)
    body, further = observed[observed < law.xmin], 0
    for _ in range(draws):
        tail = int(generator.binomial(len(observed), law.tail / len(observed)))
        rest = generator.choice(body, len(observed) - tail) if len(body) else np.zeros(0, np.int64)
        sample = np.concatenate([draw_power_law(law, tail, generator), rest])
        further += fit_power_law(sample).distance >= law.distance
    return further / draws


def draw_power_law(law: PowerLaw, count: int, generator: np.random.Generator) -> np.ndarray:
    """Returns `count` independent values of `law`, int64; those beyond 2**50 are 2**50."""
    above = (1 - generator.random(count)) * zeta(law.alpha, law.xmin)  # of the tail, in (0, 1]
    low, high = np.full(count, law.xmin), np.full(count, law.xmin)
    while (short := (zeta(law.alpha, high + 1) >= above) & (high < _LARGEST)).any():
        high[short] = np.minimum(2 * high[short], _LARGEST)
    while (low < high).any():
        middle = (low + high) // 2
        beyond = (zeta(law.alpha, middle + 1) >= above) & (low < high)
        low, high = np.where(beyond, middle + 1, low), np.where(beyond, high, middle)
    return low


def fit_lognormal(values: ArrayLike, xmin: int = 1) -> Lognormal:
    """Fits a discrete lognormal to the values from `xmin` on, by maximum likelihood.

    Args:
      values: int [N], each at least 1.
      xmin: the least value of the tail; that of the power law for a comparison.

    Raises:
      SourceError, TokenizerError, SpecError: as of `fit_power_law`.
    """
    check(xmin >= 1, "xmin", xmin, "use an integer of at least 1.")
    found, counts = np.unique(checked_counts(values), return_counts=True)
    found, counts = found[found >= xmin], counts[found >= xmin]
    if len(found) < 2:
        raise SourceError("A lognormal needs two different counts in its tail; take more tokens or a lower xmin.")
    tail, logs = int(counts.sum()), np.log(found)
    mean = float(counts @ logs) / tail
    variance = float(counts @ (logs - mean) ** 2) / tail

    # In the natural parameters mu / sigma^2 and 1 / (2 sigma^2) the valley towards the power law is not a curved one.
    def cost(natural: np.ndarray) -> float:
        mu, sigma = _from_natural(*natural)
        return -float(counts @ _lognormal_nats(mu, sigma, found, xmin)) / tail

    start = np.array([mean / variance, math.log(0.5 / variance)])
    bounds = [(-50.0, 50.0 + 2 * abs(start[0])), (math.log(_SMALLEST_CURVATURE), 12.0)]
    fit = optimize.minimize(cost, start, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-13, "gtol": 1e-8})
    fit = optimize.minimize(cost, fit.x, method="Nelder-Mead", bounds=bounds, options={"xatol": 1e-6, "fatol": 1e-12})
    return Lognormal(*_from_natural(*fit.x), xmin, tail)


def _from_natural(slope: float, log_curvature: float) -> tuple[float, float]:
    curvature = math.exp(log_curvature)
    return float(slope) / (2 * curvature), math.sqrt(0.5 / curvature)


def _lognormal_nats(mu: float, sigma: float, values: np.ndarray, xmin: int) -> np.ndarray:
    low, high = (np.log(values - 0.5) - mu) / sigma, (np.log(values + 0.5) - mu) / sigma
    # In the upper half, the difference of the two upper tails: those of the lower would both be 1.
    low, high = np.where(low > 0, -high, low), np.where(low > 0, -low, high)
    larger, smaller = log_ndtr(high), log_ndtr(low)
    with np.errstate(divide="ignore"):  # mass below the smallest float
        mass = larger + np.log(-np.expm1(smaller - larger))
    # The floor is of what is left after the cut: before it, a tail far from mu is that improbable as a whole.
    return np.maximum(mass - log_ndtr(-(math.log(xmin - 0.5) - mu) / sigma), -1e4)


def vuong(first: PowerLaw | Lognormal, second: PowerLaw | Lognormal, values: ArrayLike) -> Vuong:
    """Tests which of two laws, not nested, is closer to the values from their xmin on.

    Raises:
      SpecError: the laws begin at different values.
    """
    check(first.xmin == second.xmin, "xmin", (first.xmin, second.xmin), "fit both laws from the same value on.")
    tail = checked_counts(values)
    tail = tail[tail >= first.xmin]
    differences = first.log_probabilities(tail) - second.log_probabilities(tail)
    ratio, spread = float(differences.sum()), float(differences.std()) * math.sqrt(len(tail))
    if spread == 0:
        return Vuong(ratio, 0.0, 1.0)
    return Vuong(ratio, ratio / spread, float(erfc(abs(ratio / spread) / math.sqrt(2))))
