"""A picture of ciphers being read: what each letter is taken for, and how reading gets better along a text."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from tokjax.measure.decipher import Deciphered
from tokjax.report.plots import THEMES

if TYPE_CHECKING:
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


def cipher_figure(
    found: Sequence[Deciphered],
    names: Mapping[int, str],
    references: Mapping[str, float] | None = None,
    theme: Literal["light", "dark"] = "light",
) -> "Figure":
    """Draws the letters that keys confuse, and the share of symbols read right by position.

    Args:
      found: texts of equal length, deciphered.
      names: symbol -> what to call it, in the order in which they are shown.
      references: title -> share of symbols, drawn as lines.
      theme: colours.
    """
    from matplotlib.figure import Figure

    colors = THEMES[theme]
    figure = Figure(figsize=(11, 5), facecolor=colors.paper, layout="constrained")
    letters, curve = figure.subplots(1, 2)
    shares = confusion(found, np.array(list(names)))
    image = letters.imshow(shares, vmin=0, vmax=1, cmap="Blues" if theme == "light" else "viridis")
    places = range(len(names))
    letters.set_xticks(places, list(names.values()), fontsize=8)
    letters.set_yticks(places, list(names.values()), fontsize=8)
    letters.set(xlabel="read as", ylabel="plain text")
    letters.set_title("what keys take each letter for", loc="left", fontsize=10, color=colors.text)
    figure.colorbar(image, ax=letters, shrink=0.8, label="share of texts")

    right = right_by_position(found)
    smooth = np.convolve(right, np.ones(_SPAN) / _SPAN, mode="valid")
    curve.plot(np.arange(len(smooth)) + _SPAN, smooth, color=colors.systems[0], label="each position by itself")
    whole = float(np.mean([text.right for text in found]))
    for style, (title, share) in zip(
        ("--", ":", "-."), {"with the whole key": whole, **(references or {})}.items(), strict=False
    ):
        curve.axhline(share, linestyle=style, color=colors.text, linewidth=1, label=f"{title}: {share:.0%}")
    curve.set(
        xlabel=f"symbols read (mean over {_SPAN})", ylabel="share read right", ylim=(0, 1), facecolor=colors.paper
    )
    curve.set_title("how reading gets better along a text", loc="left", fontsize=10, color=colors.text)
    curve.legend(frameon=False, fontsize=8, labelcolor=colors.text)
    for axes in (letters, curve):
        axes.tick_params(colors=colors.text)
        axes.xaxis.label.set_color(colors.text)
        axes.yaxis.label.set_color(colors.text)
    return figure
