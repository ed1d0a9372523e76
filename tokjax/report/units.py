"""Numbers as people read them."""

import math
import statistics
from collections.abc import Sequence

from tokjax.measure.statistics import MISSING

_PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z", "Y")


def significant(value: float | None, digits: int = 3) -> str:
    """Returns `value` to so many significant digits, trailing zeros kept, never with an exponent."""
    if value is None:
        return MISSING
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits - 1}e}")
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    return f"{rounded:,.{decimals}f}"


def prefix(value: float) -> tuple[float, str]:
    """Returns the decimal prefix for `value`, and what it multiplies: prefix(3.4e12) is (1e12, 'T')."""
    rounded = abs(float(f"{value:.2e}"))
    step = min(int(math.log10(rounded) // 3), len(_PREFIXES) - 1) if rounded >= 1 else 0
    return 1000.0**step, _PREFIXES[step]


def time_unit(seconds: float) -> tuple[float, str]:
    """Returns the unit to give a duration in, and its seconds."""
    if seconds < 120:
        return 1.0, "s"
    return (60.0, "min") if seconds < 7200 else (3600.0, "h")


def typical(values: Sequence[float | None]) -> float:
    """Returns the middle of the values that are there, from which a column takes its unit; 0 when none is."""
    present = [value for value in values if value is not None]
    return statistics.median_low(present) if present else 0.0


def si(value: float | None, unit: str = "") -> str:
    """Returns `value` to three significant digits with a decimal prefix: si(3.4e12, 'FLOP') is '3.4 TFLOP'."""
    if value is None:
        return MISSING
    factor, name = prefix(value)
    digits = f"{float(f'{value / factor:.2e}'):g}"
    return f"{digits} {name}{unit}" if unit else f"{digits}{name}"


def duration(seconds: float) -> str:
    """Returns seconds below two minutes, minutes below two hours, else hours."""
    factor, unit = time_unit(seconds)
    return f"{seconds / factor:.3g} {unit}"


def fixed(value: float | None, decimals: int) -> str:
    """Returns `value` with so many decimals."""
    return MISSING if value is None else f"{value:.{decimals}f}"


def plural(count: int, noun: str) -> str:
    """Returns '1 seed' or '3 seeds'."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
