"""One self-contained HTML page of a comparison of image tokenizers: table, curves, and reconstructions side by side."""

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tokjax.measure.statistics import rows_by_system
from tokjax.report.html import document, measured, plots, runs, table, wide
from tokjax.report.images_plots import figures
from tokjax.report.images_table import (
    cells,
    columns,
    decibels,
    frontier,
    labels,
    lead,
    length_cells,
    length_columns,
    points,
)
from tokjax.report.sentences import budget
from tokjax.report.units import fixed, plural

SHOWN_PIXELS = 80  # about the width at which an image is shown; small ones are magnified a whole number of times
RUN_COLUMNS = (
    "system", "seed", "psnr", "ssim", "frechet", "kernel", "nominal_bits", "coded_bits", "perplexity", "learning_rate",
    "steps", "train_flops", "train_images", "seconds", "peak_memory_bytes",
)  # fmt: skip


def page(results: Mapping[str, Any]) -> str:
    """Returns the page of `results` as HTML that loads nothing: style, script, plots and images are inside."""
    source = results["settings"]["source"]
    body = [
        '<p class="soft">tokjax compare</p>',
        f"<h1>{html.escape(lead(results))}</h1>",
        f"<p>{html.escape(frontier(results))}</p>",
        _introduction(results),
        table("Comparison", columns(results), cells(results)),
        "<h2>Rate and distortion</h2>",
        *plots(_captions(results), figures(results, "light"), figures(results, "dark")),
        "<h2>Reconstructions</h2>",
        _pictures(results),
        _lengths(results),
        measured(_method(results), results),
        runs(results["rows"], RUN_COLUMNS),
    ]
    title = f"{', '.join(rows_by_system(results))} on {source}: bits per image"
    return document(title, "\n".join(filter(None, body)))


def _introduction(results: Mapping[str, Any]) -> str:
    settings, data = results["settings"], results["data"]
    kind = "grey" if data["channels"] == 1 else "colour"
    return (
        f"<p>Each tokenizer spent {html.escape(budget(results))} on <b>{html.escape(settings['source'])}</b>,"
        f" {plural(settings['seeds'], 'seed')} each, and is measured on the same {data['test_images']:,} test images of"
        f" {data['size']} x {data['size']} pixels, {kind}. Nominal bits are what the codes of an image cost when all"
        " are equally likely; entropy-coded bits charge each code by how often it occurs. A tokenizer whose codes are"
        " ordered can stop early, and is measured at 1, 2, 4, ... of them.</p>"
    )


def _captions(results: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    distance, seeds = labels(results)["frechet"], "Mean over seeds with 95 % interval; horizontal axes are logarithmic."
    return {
        "psnr_bits": ("PSNR against bits per image", f"Test images; up and left is better. {seeds}"),
        "distance_bits": (
            f"{distance} against bits per image",
            f"Test images; down and left is better. {distance} is a Fréchet distance in the features named, not one of"
            f" Inception's, and compares with no published number. {seeds}",
        ),
        "sweep": (
            "Learning rates tried",
            "Validation images, one seed, each rate on a share of the budget. The ring is the rate used above; an x at"
            " the top is a run that diverged.",
        ),
    }


def _pictures(results: Mapping[str, Any]) -> str:
    """The grid of images: a row per test image; the original, then every tokenizer at each of its lengths."""
    examples, curves, size = results["examples"], points(results), results["data"]["size"]
    systems = {name: [_with_bits(shown, curves[name]) for shown in examples["systems"][name]] for name in curves}
    groups = "".join(
        f'<th scope="colgroup" class="first" colspan="{len(shown)}">{html.escape(name)}</th>'
        for name, shown in systems.items()
    )
    heads = "".join(_head(entry, first=entry is shown[0]) for shown in systems.values() for entry in shown)
    body = "".join(
        f'<tr><th scope="row">{_image(original, f"test image {number + 1}", size)}</th>'
        + "".join(
            _cell(entry, number, name, size, first=entry is shown[0])
            for name, shown in systems.items()
            for entry in shown
        )
        + "</tr>"
        for number, original in enumerate(examples["originals"])
    )
    grid = (
        f'<table class="pictures"><thead><tr><th rowspan="2" scope="col">original</th>{groups}</tr>'
        f"<tr>{heads}</tr></thead><tbody>{body}</tbody></table>"
    )
    return (
        '<p class="soft">Test images and what is left of them, seed 0. Below the number of codes: bits per image,'
        " nominal and entropy-coded (mean over test images). Below an image: its own PSNR.</p>"
        f"{wide('Reconstructions', grid)}"
    )


def _with_bits(shown: Mapping[str, Any], curve: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns a column of images with the bits that its number of codes costs."""
    point = next(point for point in curve if point["tokens"] == shown["tokens"])
    return {**shown, "coded_bits": point["coded_bits"].mean}


def _head(entry: Mapping[str, Any], *, first: bool) -> str:
    bits = f"<small>{fixed(entry['nominal_bits'], 0)} bits</small><small>{fixed(entry['coded_bits'], 1)} coded</small>"
    return f'<th scope="col"{_first(first)}>{plural(entry["tokens"], "code")}{bits}</th>'


def _cell(entry: Mapping[str, Any], number: int, name: str, size: int, *, first: bool) -> str:
    alt = f"test image {number + 1} by {name} with {plural(entry['tokens'], 'code')}"
    shown = _image(entry["images"][number], alt, size)
    return f"<td{_first(first)}>{shown}<small>{decibels(entry['psnr'][number])}</small></td>"


def _first(first: bool) -> str:
    """Marks the first column of a tokenizer."""
    return ' class="first"' if first else ""


def _image(png: str, alt: str, size: int) -> str:
    width = size * max(1, round(SHOWN_PIXELS / size))
    uri = f"data:image/png;base64,{html.escape(png)}"
    return f'<img src="{uri}" alt="{html.escape(alt)}" width="{width}" height="{width}">'


def _lengths(results: Mapping[str, Any]) -> str:
    """Every point of the curves, where there is more than the table of all codes shows."""
    if all(len(curve) == 1 for curve in points(results).values()):
        return ""
    return f"<h2>Every length</h2>{table('Every length', length_columns(results), length_cells(results))}"


def _method(results: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    settings = results["settings"]
    yield "budget", f"{settings['budget']} for each system and seed"
    yield "learning rate", f"{settings['learning_rate_rule']}, by the least squared error"
    yield "seeds", f"{settings['seeds']}; ± is half the width of Student's 95 % interval of the mean"
    yield "recipes", f"{settings['scale']}, where a system names no other"
    yield (
        "bits",
        (
            "nominal: log2 of the number of codes, per code; entropy-coded: a coder without context that learns how"
            " often each code occurs in the test images, starting from nothing, all its bits over all images"
        ),
    )
    yield "features", results["rows"][0]["features"]
