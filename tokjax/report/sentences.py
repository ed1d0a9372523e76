"""What the numbers say, in sentences."""

from collections.abc import Mapping
from typing import Any

from tokjax.measure.statistics import CONFIDENCE, summary, verdict, with_interval
from tokjax.report.units import duration, fixed, si


def budget(results: Mapping[str, Any]) -> str:
    """Returns what each system was allowed to spend, in words: '1 TFLOP of training'."""
    from tokjax.experiment.budget import Budget

    parsed = Budget.parse(results["settings"]["budget"], "images" if results.get("kind") == "images" else "bytes")
    if parsed.kind == "flops":
        return f"{si(parsed.amount, 'FLOP')} of training"
    if parsed.kind == "bytes":
        return f"{si(parsed.amount, 'B')} of training text"
    if parsed.kind == "images":
        return f"{si(parsed.amount)} training images"
    return f"{duration(parsed.amount)} of training"


def headline(results: Mapping[str, Any]) -> str:
    """Returns which system had the fewest bits per byte, and whether the seeds can tell it from the next."""
    return " ".join(filter(None, (lead(results), certainty(results))))


def lead(results: Mapping[str, Any]) -> str:
    """Returns the sentence that names the system with the fewest bits per byte."""
    found = verdict(results)
    if found is None:
        return "No system reached a finite number of bits per byte."
    return f"{found.best} has the fewest bits per byte after {budget(results)}: {_score(results, found.best)}."


def certainty(results: Mapping[str, Any]) -> str:
    """Returns the sentences that say how far the next system is behind, and whether that is more than chance."""
    found = verdict(results)
    if found is None:
        return ""
    if found.second is None:
        return "There is no other system with a number to compare it with."
    follower = f"{found.second} is next with {_score(results, found.second)}."
    difference = found.difference
    if found.significant is None or found.p_value is None:
        gap = f"The difference is {fixed(difference.mean, 3)}"
        return f"{follower} {gap}; one seed does not tell whether that is more than chance."
    size = f"{with_interval(difference)} ({CONFIDENCE:.0%} interval; Welch's t-test, p {_p_value(found.p_value)})"
    if found.significant:
        return f"{follower} The difference, {size}, is larger than the noise between seeds."
    return f"{follower} The difference, {size}, is within the noise between seeds: neither wins."


def _score(results: Mapping[str, Any], system: str) -> str:
    return next(with_interval(entry["bits_per_byte"]) for entry in summary(results) if entry["system"] == system)


def _p_value(p_value: float) -> str:
    return "< 0.0001" if p_value < 1e-4 else f"= {p_value:.2g}"
