"""One self-contained HTML page: headline, table, plots, a paragraph in tokens, and how it was measured."""

import base64
import hashlib
import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tokjax.measure.statistics import interval, rows_by_system
from tokjax.report.paragraph import paragraph_html
from tokjax.report.plots import figures, render
from tokjax.report.sentences import budget, certainty, lead
from tokjax.report.style import SCRIPT, STYLE
from tokjax.report.table import COLUMNS, cells
from tokjax.report.units import MISSING, plural, si, significant

CAPTIONS = {
    "bits_per_byte_flops": (
        "Bits per byte against training compute",
        "Thin lines: validation text during training, one per seed. Points: test text after training, mean over seeds"
        " with 95 % interval. Both axes are logarithmic.",
    ),
    "bits_per_byte_position": (
        "Bits per byte by position in the document",
        "Test text, by the byte of its document at which a token starts. Ranges double; a label is the first byte of"
        " its range. Band: 95 % interval over seeds.",
    ),
    "sweep": (
        "Learning rates tried",
        "Validation text, one seed, each rate on a share of the budget. The ring is the rate used above; an x at the"
        " top is a run that diverged.",
    ),
}
RUN_COLUMNS = (
    "system", "seed", "bits_per_byte", "next_word_accuracy", "learning_rate", "steps", "train_flops", "train_bytes",
    "seconds", "peak_memory_bytes", "overflow", "tokenizer_hash",
)  # fmt: skip


def page(results: Mapping[str, Any]) -> str:
    """Returns the page of `results` as HTML that loads nothing: style, script and plots are inside."""
    settings = results["settings"]
    title = f"{', '.join(rows_by_system(results))} on {settings['source']}: bits per byte"
    paragraph = results.get("paragraph")
    body = [
        '<p class="soft">tokjax compare</p>',
        f"<h1>{html.escape(lead(results))}</h1>",
        f"<p>{html.escape(certainty(results))}</p>",
        _introduction(results),
        _table(results),
        "<h2>Plots</h2>",
        *_plots(results),
        "<h2>One paragraph, every way</h2>" if paragraph else "",
        paragraph_html(paragraph, list(rows_by_system(results))) if paragraph else "",
        _measured(results),
        _runs(results["rows"]),
    ]
    return _document(title, "\n".join(filter(None, body)))


def _document(title: str, body: str) -> str:
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


def _introduction(results: Mapping[str, Any]) -> str:
    settings = results["settings"]
    return (
        f"<p>Each system spent {html.escape(budget(results))} on <b>{html.escape(settings['source'])}</b>,"
        f" {plural(settings['seeds'], 'seed')} each, and is scored on the same whole test documents. Bits per byte is"
        " what the model would need, on average, to write down one byte of that text without loss; it does not depend"
        " on how the text was cut.</p>"
    )


def _table(results: Mapping[str, Any]) -> str:
    units, rows, best = cells(results)
    heads = "".join(
        f'<th scope="col"{_number(column.numeric)} title="{html.escape(column.meaning)}">{column.heading}'
        f"<small>{html.escape(unit)}</small></th>"
        for column, unit in zip(COLUMNS, units, strict=True)
    )
    body = "".join(
        f'<tr{" class=best" if index == best else ""}><th scope="row">{html.escape(row[0])}</th>'
        + "".join(
            f"<td{_number(column.numeric)}>{html.escape(cell)}</td>"
            for column, cell in zip(COLUMNS[1:], row[1:], strict=True)
        )
        + "</tr>"
        for index, row in enumerate(rows)
    )
    meanings = _definitions((column.heading, column.meaning) for column in COLUMNS)
    return (
        f"{_wide('Comparison', f'<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>')}"
        f"<details><summary>What the columns mean</summary>{meanings}</details>"
    )


def _plots(results: Mapping[str, Any]) -> Iterable[str]:
    light, dark = figures(results, "light"), figures(results, "dark")
    for name, (title, caption) in CAPTIONS.items():
        if name in light:
            yield (
                f'<figure><picture><source media="(prefers-color-scheme: dark)" srcset="{_data_uri(dark[name])}">'
                f'<img src="{_data_uri(light[name])}" alt="{title}"></picture>'
                f"<figcaption><b>{title}.</b> {caption}</figcaption></figure>"
            )


def _data_uri(figure: Any) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(render(figure, "svg")).decode()


def _measured(results: Mapping[str, Any]) -> str:
    settings, data, environment = results["settings"], results["data"], results["environment"]
    method = [
        ("budget", f"{settings['budget']} for each system and seed"),
        ("learning rate", settings["learning_rate_rule"]),
        ("seeds", f"{settings['seeds']}; ± is half the width of Student's 95 % interval of the mean"),
        ("context", f"rows that hold about {settings['context_bytes']} bytes for every system"),
        ("recipes", settings["scale"]),
        ("bits per byte", "sum of -log2 p over all targets of whole test documents, ends of words and of documents"
                          " included, over the bytes of those documents"),
        ("overflow", _overflow(results)),
    ]  # fmt: skip
    return (
        f"<h2>How this was measured</h2>{_definitions(method)}"
        f"<h3>Data</h3>{_definitions(_flat(data))}<h3>Environment</h3>{_definitions(_flat(environment))}"
    )


def _overflow(results: Mapping[str, Any]) -> str:
    means = {
        system: interval([row.get("overflow") for row in rows]).mean for system, rows in rows_by_system(results).items()
    }
    over = [f"{system} {100 * mean:.2g} %" for system, mean in means.items() if mean]
    if not over:
        return "no target exceeded a fixed capacity"
    return f"targets beyond a fixed capacity, charged as a guess at random: {', '.join(over)}"


def _runs(rows: Sequence[Mapping[str, Any]]) -> str:
    """Every run behind the means, folded away."""
    heads = "".join(f'<th scope="col">{name.replace("_", " ")}</th>' for name in RUN_COLUMNS)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(_value(row.get(name)))}</td>" for name in RUN_COLUMNS) + "</tr>"
        for row in rows
    )
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"
    return (
        f"<h2>Every run</h2><details><summary>{plural(len(rows), 'run')}</summary>{_wide('Every run', table)}</details>"
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


def _definitions(pairs: Iterable[tuple[str, str]]) -> str:
    items = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>" for name, text in pairs)
    return f"<dl>{items}</dl>"


def _wide(label: str, content: str) -> str:
    """A box that scrolls sideways on narrow screens, by keyboard too."""
    return f'<div class="wide" role="region" aria-label="{label}" tabindex="0">{content}</div>'


def _number(numeric: bool) -> str:
    return ' class="number"' if numeric else ""
