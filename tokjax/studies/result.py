"""What every study takes and returns, and how it judges."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from tokjax.core.errors import SpecError, nearest
from tokjax.core.files import read_json, write_text
from tokjax.measure.statistics import Estimate, interval, welch, with_interval

Rows = Sequence[Mapping[str, Any]]
Outcome = Literal[
    "reproduced",
    "not reproduced",  # does not hold for every seed or baseline that it speaks of
    "contradicted",  # the opposite holds without doubt
    "within noise",  # the interval holds both
    "undecided",  # one seed, or no finite number
    "measured",  # a number that no claim of the paper is judged by
    "not measured",
]


@dataclasses.dataclass(frozen=True)
class Claim:
    """What a paper claims, what it reports, what we measured, and how that compares."""

    claim: str
    paper: str
    ours: str
    outcome: Outcome


class Table(NamedTuple):
    """How one part of a study's rows is shown, as means over seeds.

    Attributes:
      part: of the rows.
      keys: heading -> field, of what tells lines apart.
      columns: heading -> field, of the numbers.
      labels: value of a key -> what to show for it.
    """

    part: str
    keys: Mapping[str, str]
    columns: Mapping[str, str]
    labels: Mapping[str, str] = MappingProxyType({})


@dataclasses.dataclass(frozen=True)
class Result:
    """The outcome of a study.

    Attributes:
      rows: one dict per part, system and seed, or finer.
      claims: of the paper, judged on `rows`.
      environment: versions, device, date.
    """

    rows: list[dict[str, Any]]
    claims: tuple[Claim, ...]
    environment: dict[str, Any]

    def write(self, directory: Path) -> None:
        """Writes `directory/result.json`."""
        write_text(directory / "result.json", json.dumps(dataclasses.asdict(self), indent=1))

    @classmethod
    def read(cls, path: Path) -> "Result":
        """Returns what `write` wrote."""
        stored = read_json(path, needs=("rows", "claims", "environment"))
        return cls(stored["rows"], tuple(Claim(**claim) for claim in stored["claims"]), stored["environment"])


def judged(difference: Estimate) -> Outcome:
    """Judges the claim that a difference is above 0: only where its 95% interval over seeds leaves no doubt."""
    mean, half_width = difference
    if mean is None or half_width is None or not math.isfinite(mean + half_width):
        return "undecided"
    if mean > half_width:
        return "reproduced"
    return "contradicted" if -mean > half_width else "within noise"


def below(lower: Sequence[float], higher: Sequence[float]) -> Outcome:
    """Judges the claim that the mean of `lower` is below that of `higher` (Welch)."""
    return judged(welch(lower, higher)[0])


def if_held(held: bool) -> Outcome:
    """Judges a claim that either holds for all that it speaks of or does not."""
    return "reproduced" if held else "not reproduced"


def values_by(rows: Rows, value: str, by: str = "system", **where: Any) -> dict[Any, list[Any]]:
    """Returns `value` of the rows with these fields, grouped by the field `by`, in the order of the rows."""
    found: dict[Any, list[Any]] = {}
    for row in rows:
        if all(row.get(name) == wanted for name, wanted in where.items()):
            found.setdefault(row[by], []).append(row[value])
    return found


def changes(before: Mapping[str, Sequence[float]], after: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Returns, for each name, `after` less `before`, seed by seed."""
    return {name: [b - a for a, b in zip(before[name], after[name], strict=True)] for name in before}


def shown(values: Sequence[float], form: str = ".3f") -> str:
    """Returns the mean over seeds with its interval."""
    return with_interval(interval(values), form)


def listed(
    values: Mapping[str, Sequence[float]], form: str = ".3f", labels: Mapping[str, str] = MappingProxyType({})
) -> str:
    """Returns "name mean ± half width" of each name."""
    return ", ".join(f"{labels.get(name, name)} {shown(seeds, form)}" for name, seeds in values.items())


def against(ours: Sequence[float], theirs: Sequence[float], form: str = ".3f") -> str:
    """Returns both means and their difference, ours less theirs, with intervals."""
    difference = with_interval(welch(theirs, ours)[0], f"+{form}")
    return f"{shown(ours, form)} against {shown(theirs, form)} (difference {difference})"


def choose_sources(given: Mapping[str, str], defaults: Mapping[str, str | None]) -> dict[str, str]:
    """Returns the source address of every role of a study.

    Args:
      given: role -> address, the user's.
      defaults: role -> address of every role that the study has; None where the user must give one.

    Raises:
      SpecError: a role that the study does not have, or one that must be given and is not.
    """
    for role in given:
        if role not in defaults:
            raise SpecError(f"--source {role}={given[role]}: no such role.{nearest(role, defaults)}")
    chosen = {role: given.get(role, address) for role, address in defaults.items()}
    for role, address in chosen.items():
        if address is None:
            raise SpecError(f"--source {role}: missing; give it as --source {role}=ADDRESS, as in {role}=file:*.txt.")
    return {role: str(address) for role, address in chosen.items()}
