"""A picture of how tokenizers cut a text: bytes in a grid, each token a box, the information of each byte below it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from tokjax.coding.entropy import FittedEntropy
from tokjax.report.plots import THEMES, Theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 64  # bytes in a line
CELL_INCHES = (0.135, 0.42)
FULL = 8.0  # bits of information that fill the height of a bar


def information(model: FittedEntropy, text: bytes, units: Sequence[int]) -> np.ndarray:
    """Returns the bits of each byte of `text` given those before it in its token, float64 [bytes].

    Args:
      model: the entropy model, which starts anew at each token.
      text: what was cut.
      units: bytes of each token.
    """
    sizes = np.asarray(units, np.int64)
    starts: list[int] = np.repeat(np.cumsum(sizes) - sizes, sizes).tolist()
    probabilities = model.next_probabilities([text[start:place] for place, start in enumerate(starts)])
    return -np.log2(probabilities[np.arange(len(text)), np.frombuffer(text, np.uint8)])


def windows_figure(
    text: bytes,
    units: Mapping[str, Sequence[int]],
    model: FittedEntropy,
    theme: Literal["light", "dark"] = "light",
) -> "Figure":
    """Draws `text` once for each tokenizer, with a bar of up to 8 bits under each byte.

    Args:
      text: what is cut.
      units: by the tokenizer's title, the bytes of each of its tokens in order.
      model: says the information of each byte, as `information`.
      theme: colours.
    """
    from matplotlib.figure import Figure

    colors = THEMES[theme]
    lines = -(-len(text) // COLUMNS)
    width, height = CELL_INCHES[0] * COLUMNS + 0.4, (CELL_INCHES[1] * lines + 0.35) * len(units)
    figure = Figure(figsize=(width, height), facecolor=colors.paper, layout="constrained")
    for axes, (title, sizes) in zip(np.ravel(figure.subplots(len(units), 1)), units.items(), strict=True):
        bits = information(model, text, sizes)
        _draw(axes, text, sizes, bits, colors)
        each = f"{len(text) / len(sizes):.2f} bytes and {bits.sum() / len(sizes):.1f} bits each"
        axes.set_title(f"{title}: {len(sizes)} tokens, {each}", loc="left", fontsize=8, color=colors.text)
    return figure


def _draw(axes: "Axes", text: bytes, sizes: Sequence[int], bits: np.ndarray, theme: Theme) -> None:
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    place = np.arange(len(text))
    column, line = (place % COLUMNS).tolist(), (place // COLUMNS).tolist()
    token = np.repeat(np.arange(len(sizes)), sizes)
    tint = [theme.systems[0], theme.systems[1]]
    boxes = [Rectangle((c, r), 1, 0.62) for c, r in zip(column, line, strict=True)]
    shades = [tint[number % 2] for number in token]
    axes.add_collection(PatchCollection(boxes, facecolors=shades, edgecolors="none", alpha=0.22))
    heights = np.minimum(bits, FULL) / FULL * 0.3
    bars = [Rectangle((c + 0.15, r + 0.96 - h), 0.7, h) for c, r, h in zip(column, line, heights.tolist(), strict=True)]
    axes.add_collection(PatchCollection(bars, facecolors=shades, edgecolors="none"))
    for c, r, byte in zip(column, line, text, strict=True):
        shown = chr(byte) if 32 < byte < 127 else {32: " ", 10: "↵"}.get(byte, "·")
        axes.text(c + 0.5, r + 0.33, shown, ha="center", va="center", family="monospace", fontsize=7, color=theme.text)
    axes.set(xlim=(0, COLUMNS), ylim=(max(line, default=0) + 1, 0), facecolor=theme.paper)
    axes.set_axis_off()
