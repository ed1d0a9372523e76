"""Batches of images: for training shuffled and augmented, for evaluation each image once and as it is.

Letters: `B` batch, `H` height and `W` width in pixels, `C` channels, `S` size of the square images of a batch.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Self

import flax.struct
import jax
import numpy as np

from tokjax.core.spec import check
from tokjax.data.images.base import Images
from tokjax.data.images.pixels import resize, to_channels, to_float, to_square
from tokjax.data.order import epoch_order, random_fractions, rows_of_host

_AUGMENT_STREAM = 1 << 63  # keeps the random bits of augmentation apart from those of the order of images
_LONGEST = 4 / 3  # width over height, or its inverse, of the boxes of a random resized crop (Szegedy et al. 2015)


@flax.struct.dataclass
class ImageBatch:
    """Square images and their labels.

    Attributes:
      pixels: float32 [B, S, S, C], from -1 (black) to 1.
      labels: int32 [B], index into the classes of the source; -1 where there is none.
      mask: float32 [B], 1 where the row is an image, 0 where it pads the last batch of an evaluation.
    """

    pixels: jax.Array
    labels: jax.Array
    mask: jax.Array


@flax.struct.dataclass
class ProxyBatch(ImageBatch):
    """Images beside the codes that another tokenizer gives them: targets of one that learns from it.

    Attributes:
      codes: int32 [B, T].
    """

    codes: jax.Array

    @classmethod
    def of(cls, batch: ImageBatch, codes: jax.Array) -> Self:
        """Returns `batch` with the codes of its images, int32 [B, T]."""
        return cls(pixels=batch.pixels, labels=batch.labels, mask=batch.mask, codes=codes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentSpec:
    """What the images of a batch look like, and how those of training vary.

    Attributes:
      size: height and width in pixels, S. Other images are cut to their centre square and resized.
      channels: 1 (grey) or 3 (RGB); images of the other kind are converted.
      pad: pixels that a shifted crop may lie outside the image at each side, where the border pixels repeat.
      flip: probability of a mirror image, left to right. Leave it 0 where direction has a meaning: digits, letters.
      scale: smallest and largest share of the area that a random box of the image takes, which is then resized to the
        square; None to use the centre square.
    """

    size: int
    channels: int = 3
    pad: int = 0
    flip: float = 0.0
    scale: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        check(self.size > 0, "size", self.size, "use a positive number of pixels")
        check(self.channels in (1, 3), "channels", self.channels, "use 1 for grey or 3 for RGB")
        check(self.pad >= 0, "pad", self.pad, "use a number of pixels, or 0")
        check(0 <= self.flip <= 1, "flip", self.flip, "use a probability")
        if self.scale is not None:
            within = len(self.scale) == 2 and 0 < self.scale[0] <= self.scale[1] <= 1
            check(within, "scale", self.scale, "use two shares of the area, 0 < smallest <= largest <= 1")


def train_images(
    images: Images, step: int, *, seed: int, batch_size: int, augment: AugmentSpec, host: int = 0, hosts: int = 1
) -> ImageBatch:
    """Returns the rows of one host for one step: a pure function of the arguments.

    Every epoch visits each image once in random order; batches run on from one epoch into the next.

    Args:
      images: the images.
      step: which batch, from 0.
      seed: which order and variations, from 0 to 2**64 - 1.
      batch_size: rows of all hosts together, B.
      augment: the size of the images and how they vary, anew for each row of each step.
      host: which of the hosts asks; its rows are B / hosts consecutive rows of the batch.
      hosts: how many there are.

    Returns:
      A batch of NumPy arrays [B / hosts, ...].

    Raises:
      SpecError: a number outside its range, or hosts that do not divide the batch.
      SourceError: there are no images, or one has changed since the source was opened.
    """
    images.require_images()
    rows = rows_of_host(step, seed=seed, batch_size=batch_size, host=host, hosts=hosts)
    chosen = []
    for row in rows:
        epoch, place = divmod(row, len(images))
        chosen.append(int(epoch_order(seed, epoch, len(images))[place]))
    draws = np.stack([random_fractions(seed, _AUGMENT_STREAM + row, 7) for row in rows])
    if augment.scale is None:
        pixels = _squares(images, chosen, augment)
    else:
        whole = map(images.pixels_of, chosen)
        squares = (_random_square(*pair, augment) for pair in zip(whole, draws[:, :4], strict=True))
        pixels = np.stack([to_channels(square, augment.channels) for square in squares])
    shifts = (draws[:, 4:6] * (2 * augment.pad + 1)).astype(np.int64) - augment.pad
    pixels = shift_and_flip(pixels, shifts, draws[:, 6] < augment.flip)
    return _batch(pixels, images.labels[chosen], len(rows))


def eval_images(
    images: Images, *, batch_size: int, augment: AugmentSpec, limit: int | None = None
) -> Iterator[ImageBatch]:
    """Yields batches that hold every image once, in order and not varied; the last is padded.

    Args:
      images: the images.
      batch_size: rows of each batch, B.
      augment: the size and channels of the images; the rest does not matter.
      limit: at most so many images, drawn in a fixed random order; all when None.

    Raises:
      SpecError: a number outside its range.
      SourceError: there are no images, or one has changed since the source was opened.
    """
    check(batch_size > 0, "batch_size", batch_size, "use a positive number of rows")
    check(limit is None or limit > 0, "limit", limit, "use a positive number of images, or None")
    images.require_images()
    chosen = np.sort(epoch_order(0, 0, len(images))[:limit])
    starts = range(0, len(chosen), batch_size)
    parts = (chosen[start : start + batch_size] for start in starts)
    return (_batch(_squares(images, part.tolist(), augment), images.labels[part], batch_size) for part in parts)


def shift_and_flip(pixels: np.ndarray, shifts: np.ndarray, flipped: np.ndarray) -> np.ndarray:
    """Returns images moved, with border pixels repeated where nothing was, and then mirrored where asked.

    Args:
      pixels: uint8 [B, H, W, C].
      shifts: int64 [B, 2], which row and column of the image comes first.
      flipped: bool [B], whether left and right change places.

    Returns:
      uint8 [B, H, W, C].
    """
    if not shifts.any() and not flipped.any():
        return pixels
    B, H, W, _ = pixels.shape
    rows = np.clip(np.arange(H) + shifts[:, :1], 0, H - 1)
    columns = np.clip(np.arange(W) + shifts[:, 1:], 0, W - 1)
    columns = np.where(flipped[:, None], columns[:, ::-1], columns)
    return pixels[np.arange(B)[:, None, None], rows[:, :, None], columns[:, None, :]]


def random_box(
    height: int, width: int, scale: tuple[float, float], draws: np.ndarray
) -> tuple[float, float, float, float]:
    """Returns a box inside an image for a random resized crop: top, left, bottom, right in pixels.

    Its share of the area is uniform in `scale`, the logarithm of its aspect uniform. A side that the image is too
    small for is cut to the image, where Szegedy et al. draw again: one draw per row is enough.

    Args:
      height: of the image, as the next.
      width: in pixels.
      scale: smallest and largest share of the area.
      draws: float64 [4] in [0, 1).
    """
    area = height * width * (scale[0] + draws[0] * (scale[1] - scale[0]))
    aspect = math.exp((2 * draws[1] - 1) * math.log(_LONGEST))
    tall, wide = min(height, math.sqrt(area / aspect)), min(width, math.sqrt(area * aspect))
    top, left = draws[2] * (height - tall), draws[3] * (width - wide)
    return top, left, min(top + tall, height), min(left + wide, width)


def _random_square(pixels: np.ndarray, draws: np.ndarray, augment: AugmentSpec) -> np.ndarray:
    """Returns a random box of an image as uint8 [S, S, C]."""
    assert augment.scale is not None
    height, width, _ = pixels.shape
    return resize(pixels, augment.size, augment.size, random_box(height, width, augment.scale, draws))


def _squares(images: Images, chosen: Sequence[int], augment: AugmentSpec) -> np.ndarray:
    """Returns the images as they are, at the size of a batch: uint8 [rows, S, S, C]."""
    if images.pixels is not None and images.pixels.shape[1:3] == (augment.size, augment.size):
        return to_channels(images.pixels[images.indices[chosen]], augment.channels)
    squares = (to_square(images.pixels_of(index), augment.size) for index in chosen)
    return np.stack([to_channels(square, augment.channels) for square in squares])


def _batch(pixels: np.ndarray, labels: np.ndarray, batch_size: int) -> ImageBatch:
    padding = batch_size - len(pixels)
    return ImageBatch(
        pixels=np.pad(to_float(pixels), [(0, padding), (0, 0), (0, 0), (0, 0)]),  # type: ignore[arg-type]
        labels=np.pad(labels, (0, padding), constant_values=-1),  # type: ignore[arg-type]
        mask=np.pad(np.ones(len(labels), np.float32), (0, padding)),  # type: ignore[arg-type]
    )
