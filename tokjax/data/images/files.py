"""Image files as records: each one an image, or cut into tiles. What splits are drawn by is the file."""

import bisect
import functools
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tokjax.data.files import read_file
from tokjax.data.images.base import Image
from tokjax.data.images.pixels import decode, to_square
from tokjax.data.splits import digest


class WholeFiles:
    """One image per file, decoded on access. A file is in the same split whatever the size of its image.

    Args:
      paths: the files.
      labels: of each file.
      size: height and width that centre squares are resized to; None to leave images as they are.
    """

    def __init__(self, paths: Sequence[Path], labels: Sequence[int], size: int | None):
        self._paths, self._labels, self._size = paths, labels, size

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Image:
        pixels, group = _decoded(self._paths[index])
        square = pixels if self._size is None else to_square(pixels, self._size)
        return Image(pixels=square, label=self._labels[index], group=group)


class Tiles:
    """Square tiles side by side in each file, row by row, decoded on access; all tiles of a file are in one split.

    What is left over at the right and at the bottom is not used.

    Args:
      paths: the files.
      size: height and width of a tile.
      labels: of each file.
      official: the split of each file, as of `Image`.

    Raises:
      SourceError: a file that cannot be decoded.
    """

    def __init__(self, paths: Sequence[Path], labels: Sequence[int], size: int, official: Sequence[str]):
        self._paths, self._labels, self._size, self._official = paths, labels, size, official
        # Neighbouring tiles are usually read one after the other: decode their file once for them all.
        self._decoded = functools.lru_cache(maxsize=1)(_decoded)
        shapes = [_decoded(path)[0].shape for path in paths]
        self._columns = [width // size for _, width, _ in shapes]
        self._ends = list(itertools.accumulate((height // size) * (width // size) for height, width, _ in shapes))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Image:
        file = bisect.bisect_right(self._ends, index)
        row, column = divmod(index - (self._ends[file - 1] if file else 0), self._columns[file])
        pixels, group = self._decoded(self._paths[file])
        top, left = row * self._size, column * self._size
        return Image(
            pixels=pixels[top : top + self._size, left : left + self._size],
            label=self._labels[file],
            group=group,
            official=self._official[file],
        )


def _decoded(path: Path) -> tuple[np.ndarray, str]:
    """Returns the pixels of a file and the digest of its bytes."""
    content = read_file(path)
    return decode(content, where=str(path)), digest(content).hex()
