"""Orders in which a grid of tokens is read as a stream, and back.

An n-gram along a line of a 2-D grid sees its neighbours in one direction only; which ones depends on the order.

Sources: Hilbert 1891; Červený 2019 (the curve for any rectangle, by halving it).

Letters: `H` rows, `W` columns of a grid.
"""

import functools

import numpy as np

from tokjax.core.errors import SourceError, UnknownNameError, nearest
from tokjax.core.spec import check

SCANS = ("raster", "boustrophedon", "column", "hilbert", "windows")


@functools.cache
def scan_order(order: str, height: int, width: int, *, window: int = 2) -> np.ndarray:
    """Returns the raster index of each step's cell, int64 [H W], a permutation; it cannot be written to.

    Args:
      order: `raster`, row by row; `boustrophedon`, every other row backwards; `column`, column by column; `hilbert`,
        from each cell to a neighbour, but for one diagonal step where the longer side is odd and the other even;
        `windows`, squares one after another, each row by row.
      height, width: H, W.
      window: side of the squares; those at the far edges are cut.

    Raises:
      UnknownNameError: no such order.
      SpecError: a side or window below 1.
    """
    check(height >= 1 and width >= 1, "grid", (height, width), "use sides of at least 1.")
    check(window >= 1, "window", window, "use a side of at least 1.")
    cells = np.arange(height * width).reshape(height, width)
    if order == "raster":
        found = cells.ravel()
    elif order == "boustrophedon":
        found = np.where(np.arange(height)[:, None] % 2, cells[:, ::-1], cells).ravel()
    elif order == "column":
        found = cells.T.ravel()
    elif order == "hilbert":
        along, across = _curve(max(height, width), min(height, width)).T
        found = cells[across, along] if width >= height else cells[along, across]
    elif order == "windows":
        rows, columns = np.divmod(cells.ravel(), width)
        found = np.lexsort((columns, rows, columns // window, rows // window))
    else:
        raise UnknownNameError(f"No scan is called {order!r}.{nearest(order, SCANS)}")
    found = found.copy()
    found.flags.writeable = False
    return found


@functools.cache
def _curve(length: int, breadth: int) -> np.ndarray:
    """Cells (along, across) of a path through a rectangle, int [length breadth, 2], from (0, 0) to (length - 1, 0).

    A long rectangle is two paths end to end. Else the path goes across half of the breadth and back at the other end,
    with a path along the other half between. Even halves let the parts meet.
    """
    if breadth == 1 or length == 1:
        line = np.arange(length * breadth)
        return np.stack([line, 0 * line] if breadth == 1 else [0 * line, line], axis=1)
    if 2 * length > 3 * breadth:
        half = _half(length)
        return np.concatenate([_curve(half, breadth), np.add(_curve(length - half, breadth), [half, 0])])
    near, half = _half(breadth), length // 2
    out = _curve(near, half)[:, ::-1]
    middle = np.add(_curve(length, breadth - near), [0, near])
    back = np.subtract([length - 1, near - 1], _curve(near, length - half)[:, ::-1])
    return np.concatenate([out, middle, back])


def _half(side: int) -> int:
    """Half of `side`, made even by one more where the side leaves room."""
    half = side // 2
    return half + 1 if half % 2 and side > 2 else half


def scan(grid: np.ndarray, order: str, *, window: int = 2) -> np.ndarray:
    """Returns the cells of `grid` [..., H, W] in `order`, [..., H W].

    Raises:
      SourceError: fewer than two dimensions.
      UnknownNameError, SpecError: as of `scan_order`.
    """
    grid = np.asarray(grid)
    if grid.ndim < 2:
        raise SourceError(f"A scan needs a grid [..., H, W], not an array of shape {grid.shape}; reshape it first.")
    height, width = grid.shape[-2:]
    return grid.reshape(*grid.shape[:-2], -1)[..., scan_order(order, height, width, window=window)]


def unscan(stream: np.ndarray, order: str, height: int, width: int, *, window: int = 2) -> np.ndarray:
    """The inverse of `scan`: the grid [..., H, W] of a stream [..., H W].

    Raises:
      SourceError: the stream has not as many tokens as the grid has cells.
      UnknownNameError, SpecError: as of `scan_order`.
    """
    stream = np.asarray(stream)
    if stream.ndim < 1 or stream.shape[-1] != height * width:
        raise SourceError(f"A grid of {height} by {width} needs {height * width} tokens, not shape {stream.shape}.")
    back = np.argsort(scan_order(order, height, width, window=window))
    return stream[..., back].reshape(*stream.shape[:-1], height, width)


def patches(grid: np.ndarray, height: int = 2, width: int = 2) -> np.ndarray:
    """Returns every window of `height` by `width` cells, [..., places, height width]: the n-grams of two dimensions.

    Raises:
      SourceError: a grid that is smaller than the window, or has fewer than two dimensions.
    """
    grid = np.asarray(grid)
    if grid.ndim < 2 or grid.shape[-2] < height or grid.shape[-1] < width:
        raise SourceError(f"No window of {height} by {width} fits into shape {grid.shape}; use [..., H, W] and less.")
    found = np.lib.stride_tricks.sliding_window_view(grid, (height, width), axis=(-2, -1))
    return found.reshape(*grid.shape[:-2], -1, height * width)
