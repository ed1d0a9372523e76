"""Plots of a comparison: bits per byte against training compute, byte position and learning rate.

A system keeps its colour, marker and dash in every plot. Colours are those of Okabe and Ito (2008), which people with
any common colour vision tell apart; the marker says the same again. Figures never touch matplotlib's global state, and
the same results give the same bytes.
"""

import contextlib
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from tokjax.measure.statistics import interval, is_number, rows_by_system
from tokjax.report.units import si

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

SIZE_INCHES = (6.2, 3.9)
PNG_DPI = 180
_LEGEND_CHARACTERS_PER_INCH = 13  # at the size of its font
_MARKERS = "osD^vPX"
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)))
ROUND_TICKS = tuple(digit * 10.0**power for power in range(-6, 31) for digit in (1, 2, 5))
_BITS_TICKS = (0.5, 0.7, 1, 1.2, 1.5, 1.7, 2, 2.3, 2.6, 3, 3.5, 4, 5, 6, 8, 12, 16, 24, 32)


class Theme(NamedTuple):
    """Colours of a figure: paper, text, grid, and one per system in turn."""

    paper: str
    text: str
    grid: str
    systems: tuple[str, ...]


THEMES = {
    "light": Theme("#ffffff", "#1f2328", "#d8dce2", ("#0072b2", "#d55e00", "#007f5f", "#b5568c", "#a87500", "#333333")),
    "dark": Theme("#15181d", "#e6e8eb", "#363c46", ("#56b4e9", "#f0803c", "#2bc397", "#d993bb", "#e69f00", "#dddddd")),
}


class Look(NamedTuple):
    """How one system is drawn."""

    color: str
    marker: str
    linestyle: Any


def looks(results: Mapping[str, Any], theme: Theme = THEMES["light"]) -> dict[str, Look]:
    """Returns the look of every system, by its place in the results; dashes change when the colours are used up."""
    count = len(theme.systems)
    return {
        system: Look(theme.systems[i % count], _MARKERS[i % len(_MARKERS)], _DASHES[i // count % len(_DASHES)])
        for i, system in enumerate(rows_by_system(results))
    }


def figures(results: Mapping[str, Any], theme: Literal["light", "dark"] = "light") -> "dict[str, Figure]":
    """Returns the plots that `results` has data for, by file name without suffix."""
    drawn = {
        "bits_per_byte_flops": flops_figure(results, THEMES[theme]),
        "bits_per_byte_position": position_figure(results, THEMES[theme]),
        "sweep": sweep_figure(results, THEMES[theme]),
    }
    return {name: figure for name, figure in drawn.items() if figure is not None}


def render(figure: "Figure", form: Literal["png", "svg"]) -> bytes:
    """Returns `figure` as a file. New figures of the same results give the same bytes; a second drawing may not."""
    file = io.BytesIO()
    with style():
        no_clock = {"Software": None} if form == "png" else {"Date": None, "Creator": None}
        figure.savefig(file, format=form, dpi=PNG_DPI, metadata=no_clock)
    return file.getvalue()


def flops_figure(results: Mapping[str, Any], theme: Theme) -> "Figure | None":
    """Bits per byte against training FLOPs: a thin line per seed (validation), the mean at the end (test)."""
    groups = rows_by_system(results)
    with framed(theme, "training FLOPs", "bits per byte") as (figure, axes):
        ends = []
        for system, look in looks(results, theme).items():
            for row in groups[system]:
                points = [(flops, bits) for flops, bits in row["curve"] if flops > 0 and is_number(bits)]
                if points:
                    axes.plot(*columns(points), color=look.color, linestyle=look.linestyle, linewidth=1.1, alpha=0.65)
            flops = interval([row["train_flops"] for row in groups[system]]).mean
            bits = interval([row["bits_per_byte"] for row in groups[system]])
            if flops is not None and bits.mean is not None:
                _point(axes, flops, bits.mean, bits.half_width, look)
                ends.append((bits.mean, f"{system}  {bits.mean:.3f}", look.color))
        if not axes.has_data():
            return None
        axes.set_xscale("log")
        axes.set_yscale("log")
        log_ticks(axes.xaxis, ROUND_TICKS)
        log_ticks(axes.yaxis, _BITS_TICKS)
        note(axes, "thin lines: validation, one per seed; points: test, mean and 95 % interval", theme)
        _label_ends(axes, ends)
    return figure


def position_figure(results: Mapping[str, Any], theme: Theme) -> "Figure | None":
    """Bits per byte against the byte position in the document, on ranges that double; band = confidence interval."""
    groups = rows_by_system(results)
    edges = sorted({edge for row in results["rows"] for edge, _ in row["by_position"]})
    if not edges:
        return None
    with framed(theme, "byte position in the document", "bits per byte") as (figure, axes):
        ends = []
        for system, look in looks(results, theme).items():
            by_edge = [dict(map(tuple, row["by_position"])) for row in groups[system]]
            estimates = [(i, interval([seed.get(edge) for seed in by_edge])) for i, edge in enumerate(edges)]
            known = [(i, mean, half_width or 0.0) for i, (mean, half_width) in estimates if mean is not None]
            if not known:
                continue
            x, mean, half_width = columns(known)
            axes.plot(x, mean, color=look.color, marker=look.marker, linestyle=look.linestyle, markersize=5)
            low = [m - h for m, h in zip(mean, half_width, strict=True)]
            high = [m + h for m, h in zip(mean, half_width, strict=True)]
            axes.fill_between(x, low, high, color=look.color, alpha=0.18, linewidth=0)
            ends.append((mean[-1], system, look.color))
        # Ranges double, so equal steps are a log2 axis that has room for the range that starts at 0.
        axes.set_xticks(range(len(edges)), [_binary(edge) for edge in edges])
        note(axes, "ranges by their first byte, ki = 1024; test, mean and 95 % interval", theme)
        _label_ends(axes, ends)
    return figure


def sweep_figure(
    results: Mapping[str, Any], theme: Theme, metric: str = "bits_per_byte", *, legend: bool = False
) -> "Figure | None":
    """Validation metric of the learning rates tried, the chosen one ringed, those that diverged at the top.

    Args:
      results: of a comparison.
      theme: colours.
      metric: what the rates were chosen by, lower is better.
      legend: names the systems in a legend, for names too long to stand at the ends of lines.
    """
    from matplotlib.ticker import LogLocator, NullLocator

    with framed(theme, "learning rate", f"{metric.replace('_', ' ')} (validation)") as (figure, axes):
        ends = []
        for system, look in looks(results, theme).items():
            tried = [
                (entry["learning_rate"], entry[metric])
                for entry in sorted(results.get("sweep") or (), key=lambda entry: entry["learning_rate"])
                if entry["system"] == system
            ]
            points = [(rate, bits) for rate, bits in tried if is_number(bits)]
            diverged = [rate for rate, bits in tried if not is_number(bits)]
            if diverged:
                top = axes.get_xaxis_transform()
                axes.plot(diverged, [0.97] * len(diverged), "x", color=look.color, transform=top)
            if points:
                x, y = columns(points)
                axes.plot(x, y, color=look.color, marker=look.marker, linestyle=look.linestyle, markersize=5)
                best = min(points, key=lambda point: point[1])
                axes.plot(*best, "o", markersize=12, markerfacecolor="none", markeredgecolor=look.color)
                ends.append((points[-1][1], system, look.color))
        if not axes.has_data():
            return None
        axes.set_xscale("log")
        axes.margins(x=0.06)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        note(axes, "ring: chosen rate; x at the top: diverged", theme)
        if legend:
            add_legend(figure, looks(results, theme), theme)
        else:
            _label_ends(axes, ends)
    return figure


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Matplotlib's defaults and ours, whatever the user's matplotlibrc says."""
    import matplotlib.style

    ours = {"font.size": 11, "svg.hashsalt": "tokjax", "svg.fonttype": "path", "path.simplify": False}
    with matplotlib.style.context(["default", ours]):
        yield


@contextlib.contextmanager
def framed(theme: Theme, x: str, y: str) -> "Iterator[tuple[Figure, Axes]]":
    """Yields a figure and its axes in the colours of `theme`, with labels."""
    from matplotlib.figure import Figure

    with style():
        figure = Figure(figsize=SIZE_INCHES, facecolor=theme.paper, layout="constrained")
        axes = figure.add_subplot()
        dress(axes, theme, x, y)
        yield figure, axes


def dress(axes: "Axes", theme: Theme, x: str, y: str) -> None:
    """Gives `axes` the colours of `theme`, and labels."""
    axes.set_facecolor(theme.paper)
    axes.set_xlabel(x, color=theme.text)
    axes.set_ylabel(y, color=theme.text)
    axes.tick_params(which="both", colors=theme.text, color=theme.grid)
    axes.grid(color=theme.grid, linewidth=0.7)
    axes.set_axisbelow(True)
    for name, spine in axes.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(theme.grid)


def _point(axes: "Axes", x: float, y: float, half_width: float | None, look: Look) -> None:
    axes.errorbar(
        x, y, yerr=half_width,
        color=look.color, marker=look.marker, markersize=7, capsize=4, linewidth=1.6, zorder=3,
    )  # fmt: skip


def log_ticks(axis: "Axis", candidates: Sequence[float]) -> None:
    """Sets ticks of a log axis at those of `candidates` in view, or at round numbers where there are too few."""
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

    low, high = axis.get_view_interval()
    in_view = [tick for tick in candidates if low <= tick <= high]
    axis.set_major_locator(FixedLocator(in_view) if len(in_view) > 1 else MaxNLocator(4))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, _: si(value))


def note(axes: "Axes", text: str, theme: Theme) -> None:
    """Writes how to read the plot above it."""
    axes.set_title(text, loc="left", fontsize=9, color=theme.text)


def add_legend(figure: "Figure", entries: Mapping[str, Look], theme: Theme) -> None:
    """Puts a legend of the systems below the axes, as many side by side as their names leave room for."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=look.color, marker=look.marker, linestyle=look.linestyle, label=name)
        for name, look in entries.items()
    ]
    width = figure.get_size_inches()[0] * _LEGEND_CHARACTERS_PER_INCH
    side_by_side = int(width // (max(map(len, entries)) + 6))
    figure.legend(
        handles=handles, loc="outside lower left", frameon=False, fontsize=9, labelcolor=theme.text,
        ncols=min(len(handles), max(1, side_by_side)),
    )  # fmt: skip


def _label_ends(axes: "Axes", ends: Sequence[tuple[float, str, str]], gap: float = 0.065) -> None:
    """Writes (y, text, colour) labels right of the axes, each at its height but at least `gap` of the axes apart."""
    axes.autoscale_view()
    to_axes = axes.transScale + axes.transLimits
    heights = sorted((float(to_axes.transform((axes.get_xlim()[1], y))[1]), text, color) for y, text, color in ends)
    for (_, text, color), height in zip(heights, spread([h for h, _, _ in heights], gap), strict=True):
        axes.annotate(
            text, (1, height), xycoords="axes fraction", xytext=(8, 0), textcoords="offset points",
            color=color, va="center", fontweight="bold", annotation_clip=False,
        )  # fmt: skip


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Moves ascending `heights` as little as keeps them `gap` apart: each cluster stays centred on its mean."""
    clusters: list[tuple[float, int]] = []  # (mean of height - place * gap, members)
    for index, height in enumerate(heights):
        center, count = height - index * gap, 1
        while clusters and clusters[-1][0] >= center:
            other, members = clusters.pop()
            center, count = (center * count + other * members) / (count + members), count + members
        clusters.append((center, count))
    centers = [center for center, count in clusters for _ in range(count)]
    return [center + index * gap for index, center in enumerate(centers)]


def columns(points: Sequence[Sequence[float]]) -> tuple[tuple[float, ...], ...]:
    """Returns the points of a line as one tuple per axis."""
    return tuple(zip(*points, strict=True))


def _binary(value: int) -> str:
    """Returns 1024 as 1ki, 2048 as 2ki."""
    step = int(math.log2(value) // 10) if value else 0
    return f"{value / 1024**step:g}{('', 'ki', 'Mi', 'Gi')[step]}"
