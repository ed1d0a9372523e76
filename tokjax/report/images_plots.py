"""Plots of a comparison of image tokenizers: bits of an image against what is lost of it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from tokjax.measure.statistics import Estimate
from tokjax.report.images_table import labels, points
from tokjax.report.plots import (
    ROUND_TICKS,
    THEMES,
    Theme,
    add_legend,
    dress,
    log_ticks,
    looks,
    note,
    style,
    sweep_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE_INCHES = (8.6, 4.2)
_RATES = {"nominal_bits": "bits per image, nominal", "coded_bits": "bits per image, entropy-coded"}


def figures(results: Mapping[str, Any], theme: Literal["light", "dark"] = "light") -> "dict[str, Figure]":
    """Returns the plots that `results` has data for, by file name without suffix."""
    drawn = {
        "psnr_bits": rate_figure(results, THEMES[theme], "psnr", "PSNR, dB"),
        "distance_bits": rate_figure(results, THEMES[theme], "frechet", labels(results)["frechet"]),
        "sweep": sweep_figure(results, THEMES[theme], "squared_error", legend=True),
    }
    return {name: figure for name, figure in drawn.items() if figure is not None}


def rate_figure(results: Mapping[str, Any], theme: Theme, field: str, label: str) -> "Figure | None":
    """Returns `field` against the bits of an image, nominal left and entropy-coded right; bars are intervals."""
    from matplotlib.figure import Figure

    curves = points(results)
    with style():
        figure = Figure(figsize=SIZE_INCHES, facecolor=theme.paper, layout="constrained")
        panels = figure.subplots(1, len(_RATES), sharey=True)
        for number, (axes, (rate, text)) in enumerate(zip(panels, _RATES.items(), strict=True)):
            dress(axes, theme, text, "" if number else label)
            for system, look in looks(results, theme).items():
                known = [e for e in curves[system] if e[field].mean is not None and (e[rate].mean or 0) > 0]
                if known:
                    x, y = ([entry[name] for entry in known] for name in (rate, field))
                    axes.errorbar(
                        [e.mean for e in x], [e.mean for e in y], xerr=_bars(x), yerr=_bars(y),
                        color=look.color, marker=look.marker, linestyle=look.linestyle, markersize=6, capsize=3,
                        linewidth=1.4,
                    )  # fmt: skip
            axes.set_xscale("log")
            axes.margins(x=0.08)
        if not any(axes.has_data() for axes in panels):
            return None
        _finish(panels, field, theme)
        add_legend(figure, looks(results, theme), theme)
    return figure


def _finish(panels: Any, field: str, theme: Theme) -> None:
    """Scales and ticks, once all is drawn."""
    axes: Axes
    for axes in panels:
        log_ticks(axes.xaxis, ROUND_TICKS)
    if field != "psnr":  # PSNR is a logarithm already
        panels[0].set_yscale("log", nonpositive="clip")
        log_ticks(panels[0].yaxis, ROUND_TICKS)
    note(panels[0], "points: test, mean and 95 % interval; lines join the lengths of ordered codes", theme)


def _bars(estimates: list[Estimate]) -> list[float]:
    return [estimate.half_width or 0.0 for estimate in estimates]
