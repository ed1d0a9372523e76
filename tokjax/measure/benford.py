"""Benford's law: do the leading digits of counts fall as log10(1 + 1/d)?

Sources: Benford 1938; Nigrini 2012 (the mean absolute deviation).
"""

import dataclasses

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import chi2

from tokjax.core.spec import check
from tokjax.measure.sequences import checked_counts

LAW = np.log10(1 + 1 / np.arange(1, 10))  # of the digits 1 to 9
_POWERS = 10 ** np.arange(19)


@dataclasses.dataclass(frozen=True)
class Benford:
    """The leading digits of some counts against the law.

    Attributes:
      shares: of the digits 1 to 9.
      chi_squared: Pearson's, with 8 degrees of freedom.
      p_value: of `chi_squared` or more under the law.
      deviation: mean absolute difference of shares; Nigrini calls up to 0.006 close and above 0.015 nonconforming.
    """

    shares: tuple[float, ...]
    chi_squared: float
    p_value: float
    deviation: float


def leading_digits(counts: ArrayLike) -> np.ndarray:
    """Returns the first decimal digit of each of `counts` >= 1, int64."""
    n = checked_counts(counts)
    return n // _POWERS[np.searchsorted(_POWERS, n, side="right") - 1]


def benford(counts: ArrayLike, *, draws: int = 0, seed: int = 0) -> Benford:
    """Compares how often each type occurs with Benford's law.

    Args:
      counts: int [V], each at least 1.
      draws: 0 takes the p-value from the chi-squared law, which needs about 110 counts (5 expected of the digit 9);
        else from this many samples of as many digits, exact in that it is valid for any number of either.
      seed: of the draws.
    """
    check(draws >= 0, "draws", draws, "use 0 for the chi-squared law, or 999 and more.")
    observed = np.bincount(leading_digits(counts), minlength=10)[1:]
    statistic = float(_chi_squared(observed))
    if draws:
        sampled = _chi_squared(np.random.default_rng(seed).multinomial(observed.sum(), LAW, draws))
        # Sums of the same numbers in another order differ in the last bits.
        p_value = float((1 + np.count_nonzero(sampled >= statistic * (1 - 1e-12))) / (1 + draws))
    else:
        p_value = float(chi2.sf(statistic, len(LAW) - 1))
    shares = observed / observed.sum()
    return Benford(tuple(shares.tolist()), statistic, p_value, float(np.abs(shares - LAW).mean()))


def _chi_squared(observed: np.ndarray) -> np.ndarray:
    expected = observed.sum(axis=-1, keepdims=True) * LAW
    return ((observed - expected) ** 2 / expected).sum(axis=-1)
