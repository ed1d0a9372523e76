"""The rule by which every comparison and study chooses the learning rate of each of its models."""

import math
from collections.abc import Callable

from tokjax.core.errors import NumericsError

SWEEP_FRACTION = 0.25  # of the budget, per candidate
_STEP = math.sqrt(10.0)
_MOST = 5
LEARNING_RATE_RULE = (
    "from the recipe's rate, one step of sqrt(10) up and one down, each trained on a quarter of the budget with "
    f"seed 0; while the best is at an end, one step further (at most {_MOST} rates); best on the validation "
    "split"
)


def sweep_rates(name: str, base: float, attempt: Callable[[float], float]) -> list[tuple[float, float]]:
    """Tries learning rates by `LEARNING_RATE_RULE`.

    Args:
      name: of the model, for errors.
      base: the recipe's rate.
      attempt: trains with a rate; returns its cost on the validation split, or raises NumericsError where it diverges.

    Returns:
      (rate, cost) in ascending order of rates; inf where training diverged.

    Raises:
      NumericsError: it diverged at every rate.
    """
    tried: dict[int, tuple[float, float]] = {}

    def cost(exponent: int) -> float:
        return tried[exponent][1]

    def add(exponent: int) -> None:
        rate = base * _STEP**exponent
        try:
            tried[exponent] = rate, attempt(rate)
        except NumericsError:  # a rate that is too high is an answer
            tried[exponent] = rate, math.inf

    for exponent in (0, -1, 1):
        add(exponent)
    best = min(tried, key=cost)
    while len(tried) < _MOST and best in (min(tried), max(tried)):
        add(best - 1 if best == min(tried) else best + 1)
        best = min(tried, key=cost)
    if math.isinf(cost(best)):
        raise NumericsError(f"{name}: every learning rate from {base:.2e} on diverged; lower the recipe's.")
    return [tried[exponent] for exponent in sorted(tried)]


def best_rate(tried: list[tuple[float, float]]) -> float:
    """Returns the rate with the least cost of what `sweep_rates` returned."""
    return min(tried, key=lambda entry: entry[1])[0]
