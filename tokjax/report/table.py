"""One table of a comparison, for the terminal, Markdown and HTML."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from tokjax.measure.statistics import MISSING, summary, verdict, with_interval
from tokjax.report.sentences import headline
from tokjax.report.units import fixed, prefix, significant, time_unit, typical

if TYPE_CHECKING:
    import rich.table

BEST_MARK = "*"


class Column(NamedTuple):
    """A column of the table.

    Attributes:
      heading: its name.
      meaning: one line for the legend.
      key: which entry of a `summary` dict.
      kind: how to write it. 'si' and 'time' choose one prefix or unit for the whole column, so that cells compare.
      unit: behind the prefix.
      decimals: of an interval.
    """

    heading: str
    meaning: str
    key: str
    kind: Literal["text", "interval", "ratio", "percent", "si", "time"]
    unit: str = ""
    decimals: int = 3

    @property
    def numeric(self) -> bool:
        """Whether cells are numbers, set flush right."""
        return self.kind != "text"


COLUMNS = (
    Column("system", "the model and the way of tokenizing, as named on the command line", "system", "text"),
    Column("tokenizer", "its name and number of symbols, the end of a document included", "tokenizer", "text"),
    Column("bits/byte", "on the test text, lower is better: mean over seeds ± half width of the 95 % interval",
           "bits_per_byte", "interval"),
    Column("bytes/token", "of the test text; ends of words are tokens of `words`", "bytes_per_token", "ratio"),
    Column("next word", "words of the test text predicted entirely right, given the true text before",
           "next_word_accuracy", "percent", "%"),
    Column("params", "numbers that training adjusts", "params", "si"),
    Column("train", "floating-point operations of training, forward and backward", "train_flops", "si", "FLOP"),
    Column("forward", "floating-point operations to predict one byte of text", "flops_per_byte", "si", "FLOP/B"),
    Column("read", "text read during training, repeats included", "train_bytes", "si", "B"),
    Column("time", "spent on training steps", "seconds", "time"),
)  # fmt: skip


class Cells(NamedTuple):
    """The text of a table.

    Attributes:
      units: of each column, prefix included; empty where there is none.
      rows: cells, systems in the order given, columns as in `COLUMNS`.
      best: index of the row with the fewest bits per byte; None when no system has a number.
    """

    units: list[str]
    rows: list[list[str]]
    best: int | None


def cells(results: Mapping[str, Any]) -> Cells:
    """Returns the table of `results` as text."""
    entries = summary(results)
    for entry in entries:
        entry["tokenizer"] = f"{entry['tokenizer'] or MISSING} {entry['vocab_size'] or 0:,}"
    found = verdict(results)
    names = [entry["system"] for entry in entries]
    return fill(COLUMNS, entries, best=names.index(found.best) if found else None)


def fill(columns: Sequence[Column], entries: Sequence[Mapping[str, Any]], *, best: int | None = None) -> Cells:
    """Returns the table of `entries` as text, a row each; entries hold texts and `Estimate`s by key."""
    units, texts = zip(*(_column(column, entries) for column in columns), strict=True)
    return Cells(list(units), [list(row) for row in zip(*texts, strict=True)], best)


def _column(column: Column, entries: Sequence[Mapping[str, Any]]) -> tuple[str, list[str]]:
    """Returns the unit and the cells of one column."""
    if column.kind == "text":
        return "", [str(entry[column.key]) for entry in entries]
    if column.kind == "interval":
        return column.unit, [with_interval(entry[column.key], f".{column.decimals}f") for entry in entries]
    means = [entry[column.key].mean for entry in entries]
    if column.kind == "ratio":
        return column.unit, [fixed(mean, 2) for mean in means]
    if column.kind == "percent":
        return column.unit, [fixed(mean if mean is None else 100 * mean, 1) for mean in means]
    # Twice: 0.999 and 1.00 TFLOP rather than 999 and 1,000 GFLOP.
    factor, unit = prefix(2 * typical(means)) if column.kind == "si" else time_unit(typical(means))
    return unit + column.unit, [significant(mean if mean is None else mean / factor) for mean in means]


def terminal_table(results: Mapping[str, Any]) -> "rich.table.Table":
    """Returns the comparison as a rich table, the system with the fewest bits per byte marked, the headline below."""
    found = cells(results)
    caption = headline(results)
    return grid(COLUMNS, found, f"{BEST_MARK} {caption}" if found.best is not None else caption)


def grid(columns: Sequence[Column], cells: Cells, caption: str) -> "rich.table.Table":
    """Returns a table for the terminal, the best row marked, `caption` below."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    units, rows, best = cells
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0, caption_justify="left", caption=Text(caption))
    for column, unit in zip(columns, units, strict=True):
        heading = column.heading.replace(" ", "\n").replace("/", "/\n")
        if unit:
            heading += f" {unit}" if "\n" in heading else f"\n{unit}"
        table.add_column(heading, justify="right" if column.numeric else "left", overflow="fold")
    for index, (name, *others) in enumerate(rows):
        is_best = index == best
        # Text objects, because a name in square brackets is not markup.
        marked = f"{name} {BEST_MARK}" if is_best else name
        table.add_row(*map(Text, (marked, *others)), style="bold green" if is_best else "")
    return table


def markdown_table(results: Mapping[str, Any]) -> str:
    """Returns the comparison as a Markdown table, the row with the fewest bits per byte in bold."""
    units, rows, best = cells(results)
    headings = [f"{c.heading} ({unit})" if unit else c.heading for c, unit in zip(COLUMNS, units, strict=True)]
    body = [
        [f"**{_escape(cell)}**" if index == best else _escape(cell) for cell in row] for index, row in enumerate(rows)
    ]
    lines = [headings, ["---:" if column.numeric else ":---" for column in COLUMNS], *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _escape(cell: str) -> str:
    for character in "\\|*_<`[":
        cell = cell.replace(character, f"\\{character}")
    return cell
