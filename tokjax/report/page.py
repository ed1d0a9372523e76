"""One self-contained HTML page: headline, table, plots, a paragraph in tokens, and how it was measured."""

import html
from collections.abc import Mapping
from typing import Any

from tokjax.measure.statistics import interval, rows_by_system
from tokjax.report.html import document, measured, plots, runs, table
from tokjax.report.paragraph import paragraph_html
from tokjax.report.plots import figures
from tokjax.report.sentences import budget, certainty, lead
from tokjax.report.table import COLUMNS, cells
from tokjax.report.units import plural

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
        table("Comparison", COLUMNS, cells(results)),
        "<h2>Plots</h2>",
        *plots(CAPTIONS, figures(results, "light"), figures(results, "dark")),
        "<h2>One paragraph, every way</h2>" if paragraph else "",
        paragraph_html(paragraph, list(rows_by_system(results))) if paragraph else "",
        _measured(results),
        runs(results["rows"], RUN_COLUMNS),
    ]
    return document(title, "\n".join(filter(None, body)))


def _introduction(results: Mapping[str, Any]) -> str:
    settings = results["settings"]
    return (
        f"<p>Each system spent {html.escape(budget(results))} on <b>{html.escape(settings['source'])}</b>,"
        f" {plural(settings['seeds'], 'seed')} each, and is scored on the same whole test documents. Bits per byte is"
        " what the model would need, on average, to write down one byte of that text without loss; it does not depend"
        " on how the text was cut.</p>"
    )


def _measured(results: Mapping[str, Any]) -> str:
    settings = results["settings"]
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
    return measured(method, results)


def _overflow(results: Mapping[str, Any]) -> str:
    means = {
        system: interval([row.get("overflow") for row in rows]).mean for system, rows in rows_by_system(results).items()
    }
    over = [f"{system} {100 * mean:.2g} %" for system, mean in means.items() if mean]
    if not over:
        return "no target exceeded a fixed capacity"
    return f"targets beyond a fixed capacity, charged as a guess at random: {', '.join(over)}"
