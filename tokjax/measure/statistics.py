"""Means, confidence intervals and the comparison of the two best systems, over seeds."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

CONFIDENCE = 0.95
MISSING = "–"

# Numeric columns of a row, in the order they are shown.
NUMERIC = (
    "bits_per_byte", "bytes_per_token", "next_word_accuracy", "params", "train_flops", "flops_per_byte", "train_bytes",
    "seconds", "peak_memory_bytes", "steps", "learning_rate", "overflow",
)  # fmt: skip


class Estimate(NamedTuple):
    """A mean and the half width of its confidence interval; None where it cannot be known."""

    mean: float | None
    half_width: float | None


class Verdict(NamedTuple):
    """The system with the fewest bits per byte against the next one.

    Attributes:
      best, second: names of the systems; `second` is None when there is no other.
      difference: mean bits per byte of `second` less that of `best`, with its confidence interval.
      p_value: of Welch's two-sided t-test; None where a system has a single seed.
    """

    best: str
    second: str | None
    difference: Estimate
    p_value: float | None

    @property
    def significant(self) -> bool | None:
        """Whether the interval of the difference excludes 0; None where there is no interval."""
        mean, half_width = self.difference
        return None if mean is None or half_width is None else mean > half_width


def is_number(value: Any) -> bool:
    """Whether `value` is a finite number: not None, NaN or infinite."""
    return isinstance(value, (int, float)) and math.isfinite(value)


def interval(values: Iterable[float | None], confidence: float = CONFIDENCE) -> Estimate:
    """Returns the mean of `values` and the half width of its Student t interval.

    A single value has no interval. One value that is missing or not finite leaves no mean either: the mean of the seeds
    that happened to work would flatter the system.
    """
    values = list(values)
    if not values or not all(map(is_number, values)):
        return Estimate(None, None)
    mean = statistics.fmean(values)  # type: ignore[type-var, arg-type]
    if len(values) == 1:
        return Estimate(mean, None)
    error = _squared_error(values)  # type: ignore[arg-type]
    return Estimate(mean, _quantile(len(values) - 1, confidence) * math.sqrt(error))


def with_interval(estimate: Estimate, form: str = ".3f") -> str:
    """Returns 'mean ± half width' in a number format, or the mean alone where there is no interval."""
    mean, half_width = estimate
    if mean is None:
        return MISSING
    return f"{mean:{form}}" if half_width is None else f"{mean:{form}} ± {half_width:{form.lstrip('+')}}"


def welch(a: Sequence[float], b: Sequence[float], confidence: float = CONFIDENCE) -> tuple[Estimate, float | None]:
    """Compares the means of two samples whose variances may differ (Welch 1947, Biometrika 34).

    Returns:
      mean(b) - mean(a) with its confidence interval, and the two-sided p-value of the difference being 0.
    """
    from scipy.special import stdtr

    difference = statistics.fmean(b) - statistics.fmean(a)
    if min(len(a), len(b)) < 2:
        return Estimate(difference, None), None
    errors = _squared_error(a), _squared_error(b)
    total = sum(errors)
    if total == 0:
        return Estimate(difference, 0.0), float(difference == 0)
    # Welch-Satterthwaite, on shares of the error so that tiny variances do not underflow.
    degrees = 1 / sum((e / total) ** 2 / (len(x) - 1) for e, x in zip(errors, (a, b), strict=True))
    p_value = 2 * float(stdtr(degrees, -abs(difference) / math.sqrt(total)))
    return Estimate(difference, _quantile(degrees, confidence) * math.sqrt(total)), p_value


def _squared_error(values: Sequence[float]) -> float:
    """The squared standard error of the mean."""
    return statistics.variance(values) / len(values)


def _quantile(degrees: float, confidence: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + confidence) / 2))


def rows_by_system(results: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """Returns the rows of each system, systems in the order in which they first appear."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in results["rows"]:
        groups.setdefault(row["system"], []).append(row)
    return groups


def summary(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns one dict per system: its names, `seeds` (how many), and an `Estimate` for every column in `NUMERIC`."""
    return [
        {
            "system": system,
            **{name: rows[0].get(name) for name in ("model", "tokenizer", "vocab_size")},
            "seeds": len(rows),
            **{name: interval([row.get(name) for row in rows]) for name in NUMERIC},
        }
        for system, rows in rows_by_system(results).items()
    ]


def verdict(results: Mapping[str, Any]) -> Verdict | None:
    """Returns how the system with the fewest bits per byte compares with the next; None when no system has a number.

    A system with a seed that is not finite is not ranked. Best and second are picked after the fact; with more than two
    systems that makes the test conservative, because neighbours in rank are closer than a random pair.
    """
    scores = {name: [row["bits_per_byte"] for row in rows] for name, rows in rows_by_system(results).items()}
    ranked = sorted(
        (name for name, values in scores.items() if all(map(is_number, values))),
        key=lambda name: statistics.fmean(scores[name]),
    )
    if len(ranked) < 2:
        return Verdict(ranked[0], None, Estimate(None, None), None) if ranked else None
    best, second = ranked[:2]
    return Verdict(best, second, *welch(scores[best], scores[second]))
