"""What a study found, its claims and its tables, for the terminal and Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tokjax.measure.statistics import interval, with_interval
from tokjax.report.units import plural
from tokjax.studies.result import Claim, Result, Rows, Table

if TYPE_CHECKING:
    from rich.console import Group

LEGEND = (
    "A difference between means is *reproduced*, or *contradicted*, only where its 95% interval over seeds leaves no "
    "doubt; else it is *within noise*, or *undecided* with one seed. Any other claim holds or is *not reproduced*, by "
    "the rule of its study. *measured* marks a number that no claim is judged by."
)


def cells(rows: Rows, table: Table) -> list[list[str]]:
    """Returns the lines of a table: what tells them apart, then means over seeds with 95% intervals."""
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["part"] == table.part:
            names = (str(row[field]) for field in table.keys.values())
            groups.setdefault(tuple(table.labels.get(name, name) for name in names), []).append(row)
    return [
        [*key, *(_mean([row.get(field) for row in group]) for field in table.columns.values())]
        for key, group in groups.items()
    ]


def _mean(values: Sequence[Any]) -> str:
    if any(value is None for value in values):
        return ""
    if all(isinstance(value, int) for value in values):
        return f"{round(sum(values) / len(values)):,}"
    return with_interval(interval(values))


def terminal_study(result: Result, tables: Iterable[Table]) -> "Group":
    """Returns tables and claims for a terminal, the claims last, where they are seen."""
    from rich import box
    from rich.console import Group
    from rich.table import Table as Grid
    from rich.text import Text

    shown: list[Grid | Text] = []
    for table in tables:
        grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
        for heading in table.keys:
            grid.add_column(heading, overflow="fold")
        for heading in table.columns:
            grid.add_column(heading, justify="right")
        lines = cells(result.rows, table)
        for line in lines:
            grid.add_row(*map(Text, line))  # Text objects, because a name in square brackets is not markup
        if lines:
            shown.append(grid)
    claims = Grid.grid(padding=(0, 2, 1, 0), collapse_padding=False)
    for claim in result.claims:
        text = f"{claim.claim}\npaper: {claim.paper}\nours: {claim.ours}"
        claims.add_row(Text(claim.outcome, "bold"), Text(text))
    return Group(*shown, Text(f"Means of {measured(result)}, with 95% intervals.\n"), claims)


def markdown_claims(claims: Iterable[Claim]) -> str:
    """Returns the claims as a Markdown table."""
    lines = [[claim.claim, claim.paper, claim.ours, claim.outcome] for claim in claims]
    return _markdown(["claim", "paper", "ours", "outcome"], ["---"] * 4, lines)


def markdown_tables(rows: Rows, tables: Iterable[Table]) -> str:
    """Returns the tables that have rows, in Markdown."""
    return "\n".join(
        _markdown([*table.keys, *table.columns], ["---"] * len(table.keys) + ["---:"] * len(table.columns), lines)
        for table in tables
        if (lines := cells(rows, table))
    )


def _markdown(head: Sequence[str], rule: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, rule, *lines))


def measured(result: Result) -> str:
    """Returns "3 seeds on 2 CPU cores", versions and date."""
    seeds = plural(len({row["seed"] for row in result.rows if "seed" in row}), "seed")  # timed rows have none
    return f"{seeds} on {machine(result.environment)}"


def machine(environment: Mapping[str, Any]) -> str:
    """Returns where and when something was measured: device, versions, date."""
    cores, devices = plural(environment["cpus"], "CPU core"), f"{environment['devices']} x {environment['device']}"
    device = cores if environment["platform"] == "cpu" else devices
    return f"{device}, Python {environment['python']}, jax {environment['versions']['jax']}, {environment['date']}"
