"""Pieces of the pages: the frame, tables, plots, definitions. All text is escaped here; nothing is loaded."""

import base64
import hashlib
import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tokjax.report.plots import render
from tokjax.report.style import SCRIPT, STYLE
from tokjax.report.table import Cells, Column
from tokjax.report.units import MISSING, plural, si, significant

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def document(title: str, body: str) -> str:
    """Wraps `body`. The policy forbids every request, and every script but ours should any text slip through."""
    script = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{script}'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def table(label: str, columns: Sequence[Column], cells: Cells) -> str:
    """Returns a table, the best row marked, and the meanings of its columns, folded away."""
    units, rows, best = cells
    heads = "".join(
        f'<th scope="col"{_number(column.numeric)} title="{html.escape(column.meaning)}">'
        f"{html.escape(column.heading)}<small>{html.escape(unit)}</small></th>"
        for column, unit in zip(columns, units, strict=True)
    )
    body = "".join(
        f'<tr{" class=best" if index == best else ""}><th scope="row">{html.escape(row[0])}</th>'
        + "".join(
            f"<td{_number(column.numeric)}>{html.escape(cell)}</td>"
            for column, cell in zip(columns[1:], row[1:], strict=True)
        )
        + "</tr>"
        for index, row in enumerate(rows)
    )
    meanings = definitions((column.heading, column.meaning) for column in columns)
    return (
        f"{wide(label, f'<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>')}"
        f"<details><summary>What the columns mean</summary>{meanings}</details>"
    )


def plots(
    captions: Mapping[str, tuple[str, str]], light: "Mapping[str, Figure]", dark: "Mapping[str, Figure]"
) -> Iterable[str]:
    """Yields each of the plots that are there, in both colour schemes, with its title and caption."""
    for name, (title, caption) in captions.items():
        if name in light:
            yield (
                f'<figure><picture><source media="(prefers-color-scheme: dark)" srcset="{_data_uri(dark[name])}">'
                f'<img src="{_data_uri(light[name])}" alt="{html.escape(title)}"></picture>'
                f"<figcaption><b>{html.escape(title)}.</b> {html.escape(caption)}</figcaption></figure>"
            )


def _data_uri(figure: "Figure") -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(render(figure, "svg")).decode()


def runs(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Every run behind the means, folded away."""
    heads = "".join(f'<th scope="col">{name.replace("_", " ")}</th>' for name in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(_value(row.get(name)))}</td>" for name in columns) + "</tr>" for row in rows
    )
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"
    return (
        f"<h2>Every run</h2><details><summary>{plural(len(rows), 'run')}</summary>{wide('Every run', table)}</details>"
    )


def measured(method: Iterable[tuple[str, str]], results: Mapping[str, Any]) -> str:
    """How it was measured, on what data, and where."""
    return (
        f"<h2>How this was measured</h2>{definitions(method)}"
        f"<h3>Data</h3>{definitions(_flat(results['data']))}"
        f"<h3>Environment</h3>{definitions(_flat(results['environment']))}"
    )


def _value(value: Any) -> str:
    if value is None:
        return MISSING
    if isinstance(value, float) and math.isfinite(value):
        return si(value) if abs(value) >= 1e5 else significant(value, 4)
    return f"{value:,}" if isinstance(value, int) else str(value)


def _flat(values: Mapping[str, Any], above: str = "") -> Iterable[tuple[str, str]]:
    """Yields the leaves of nested dicts as (name, text)."""
    for key, value in values.items():
        name = f"{above}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name} ")
        else:
            yield name, _value(value)


def definitions(pairs: Iterable[tuple[str, str]]) -> str:
    """A list of names and what each of them is, in text."""
    items = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>" for name, text in pairs)
    return f"<dl>{items}</dl>"


def wide(label: str, content: str) -> str:
    """A box that scrolls sideways on narrow screens, by keyboard too."""
    return f'<div class="wide" role="region" aria-label="{label}" tabindex="0">{content}</div>'


def _number(numeric: bool) -> str:
    return ' class="number"' if numeric else ""
