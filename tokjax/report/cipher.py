"""Pictures of ciphers being read: what each letter is taken for, and how reading gets better along a text."""

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from tokjax.measure.decipher import Deciphered
from tokjax.report.plots import THEMES, Theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SPAN = 16  # positions that a point of the curve is the mean over


def confusion(found: Sequence[Deciphered], symbols: np.ndarray) -> np.ndarray:
    """Returns how often keys take each of `symbols` int [S] for each of them, a share of its texts, float64 [S, S].

    Rows are what stands in the plain text; one that no text has is nan.
    """
    counts, taken = np.zeros(len(symbols)), np.zeros((len(symbols), len(symbols)))
    for text in found:
        plain, first = np.unique(text.plain, return_index=True)
        for symbol, read in zip(plain, text.read[first], strict=True):
            row = symbols == symbol
            counts += row
            taken += np.outer(row, symbols == read)
    with np.errstate(invalid="ignore"):
        return taken / counts[:, None]


def right_by_position(found: Sequence[Deciphered]) -> np.ndarray:
    """Returns the share of texts whose symbol is read right at each position by itself, float64 [T]."""
    return np.mean([text.guessed == text.plain for text in found], axis=0)


def key_figure(
    readings: Mapping[str, Sequence[Deciphered]], names: Mapping[int, str], theme: Literal["light", "dark"] = "light"
) -> "Figure":
    """Draws what keys take each letter for, side by side for several ways to find them.

    Args:
      readings: title -> texts, deciphered.
      names: symbol -> what to call it, in the order in which they are shown.
      theme: colours.
    """
    from matplotlib.figure import Figure

    colors = THEMES[theme]
    figure = Figure(figsize=(0.5 + 5 * len(readings), 4.8), facecolor=colors.paper, layout="constrained")
    panels = figure.subplots(1, len(readings), squeeze=False)[0]
    places = range(len(names))
    for axes, (title, found) in zip(panels, readings.items(), strict=True):
        shares = confusion(found, np.array(list(names)))
        image = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues" if theme == "light" else "viridis")
        axes.set_xticks(places, list(names.values()), fontsize=8)
        axes.set_yticks(places, list(names.values()), fontsize=8)
        axes.set(xlabel="read as", ylabel="plain text")
        _dress(axes, title, colors)
    bar = figure.colorbar(image, ax=panels, shrink=0.8)
    bar.set_label("share of texts", color=colors.text)
    bar.ax.tick_params(colors=colors.text)
    return figure


def position_figure(
    found: Sequence[Deciphered],
    references: Mapping[str, float] | None = None,
    theme: Literal["light", "dark"] = "light",
) -> "Figure":
    """Draws the share of symbols that are read right, by position.

    Args:
      found: texts of equal length, deciphered.
      references: title -> share of symbols, drawn as lines.
      theme: colours.
    """
    from matplotlib.figure import Figure

    colors = THEMES[theme]
    figure = Figure(figsize=(7, 4), facecolor=colors.paper, layout="constrained")
    curve = figure.subplots()
    smooth = np.convolve(right_by_position(found), np.ones(_SPAN) / _SPAN, mode="valid")
    curve.plot(np.arange(len(smooth)) + _SPAN, smooth, color=colors.systems[0], label="each position by itself")
    whole = float(np.mean([text.right for text in found]))
    lines = {"with the whole key": whole, **(references or {})}
    for style, (title, share) in zip(itertools.cycle(("--", ":", "-.")), lines.items(), strict=False):
        curve.axhline(share, linestyle=style, color=colors.text, linewidth=1, label=f"{title}: {share:.0%}")
    curve.set(
        xlabel=f"symbols read (mean over {_SPAN})", ylabel="share read right", ylim=(0, 1), facecolor=colors.paper
    )
    _dress(curve, "how reading gets better along a text", colors)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8, labelcolor=colors.text)
    return figure


def _dress(axes: "Axes", title: str, colors: Theme) -> None:
    axes.set_title(title, loc="left", fontsize=10, color=colors.text)
    axes.tick_params(colors=colors.text)
    axes.xaxis.label.set_color(colors.text)
    axes.yaxis.label.set_color(colors.text)
