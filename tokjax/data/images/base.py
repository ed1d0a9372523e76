"""Images: a source of distinct pictures, split by what they show, whatever it reads from."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from tokjax.core import registry
from tokjax.core.errors import SourceError, nearest
from tokjax.data.address import open_address
from tokjax.data.splits import DIGEST_BYTES, SPLITS, digest, empty_split, fingerprint, first_of_each, split_numbers

# Decoded pixels of a source whose images are of one size are kept up to this many bytes.
_IN_MEMORY = 2**31
_UNDECIDED = -1


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Image:
    """One picture and what is known of it.

    Attributes:
      pixels: uint8 [H, W, C], C is 1 (grey) or 3 (RGB).
      label: index into the source's `classes`; -1 where there is none.
      text: what it shows, in words; may be empty.
      group: images of the same group are in the same split; empty to let the pixels alone decide.
      official: the split it has in the published data set, 'valid' or 'test'; empty where the hash decides.
    """

    pixels: np.ndarray
    label: int = -1
    text: str = ""
    group: str = ""
    official: str = ""


class ImageRecords(Protocol):
    """Images in their stored order, decoded on access."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Image: ...


@dataclasses.dataclass(kw_only=True, eq=False)
class Images:
    """A finite random-access sequence of distinct images.

    Attributes:
      name: the address it was opened by; a split adds '/train', '/valid' or '/test'.
      records: where images are read from.
      classes: names of the labels; empty where images have none.
      indices: int64 [N], the place of each image in `records`.
      digests: uint8 [N, 16], BLAKE2b of each image's pixels and their shape.
      groups: uint8 [N, 16], digest of each image's group, or of its pixels where it has none.
      labels: int32 [N], -1 where there is none.
      parts: int8 [N], the position in `SPLITS` of each image's split.
      duplicates: how many images with the pixels of another were dropped when the source was opened.
      opened: images in the whole source, of which a split holds some.
      pixels: uint8 [R, H, W, C], the pixels of all R records where they are of one size and fit in memory, in colour if
        any is; else None.
      advice: what to do when there are too few images to split.
    """

    name: str
    records: ImageRecords
    classes: tuple[str, ...]
    indices: np.ndarray
    digests: np.ndarray
    groups: np.ndarray
    labels: np.ndarray
    parts: np.ndarray
    duplicates: int
    opened: int
    pixels: np.ndarray | None = None
    advice: str = "Add images"

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Image:
        self.require_images()
        image = self.records[int(self.indices[index])]
        if _digest(image.pixels) != self.digests[index].tobytes():
            raise SourceError(f"{self.name}: image {index} changed since the source was opened. Open it again.")
        return image

    def __iter__(self) -> Iterator[Image]:
        self.require_images()
        return (self[index] for index in range(len(self)))

    def split(self, name: str) -> "Images":
        """Returns the images of split `name`.

        Images of an official valid or test set are that split. The others are drawn by the hash of their group among
        the splits that have no official images, in proportion to 90 % train, 5 % valid and 5 % test. A group is
        therefore in one split, and in the same one in every source that has no official splits.

        Raises:
          SourceError: no split has that name. An empty split raises when it is read.
        """
        if name not in SPLITS:
            raise SourceError(f"{self.name}: no split {name!r}.{nearest(name, SPLITS)}")
        chosen = np.flatnonzero(self.parts == list(SPLITS).index(name))
        return dataclasses.replace(
            self,
            name=f"{self.name}/{name}",
            indices=self.indices[chosen],
            digests=self.digests[chosen],
            groups=self.groups[chosen],
            labels=self.labels[chosen],
            parts=self.parts[chosen],
        )

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the digests and labels of all images in order, 16 hex digits."""
        return fingerprint(self.digests, self.labels)

    def pixels_of(self, index: int) -> np.ndarray:
        """Returns the pixels of one image, uint8 [H, W, C], from memory where they are kept."""
        return self[index].pixels if self.pixels is None else self.pixels[self.indices[index]]

    def require_images(self) -> None:
        """Raises SourceError, saying what to do, if there are no images."""
        if not len(self):
            raise empty_split(self.name, self.opened, "image", self.advice)


def open_images(name: str, records: ImageRecords, *, classes: Sequence[str] = (), advice: str = "Add images") -> Images:
    """Reads every image once, drops those with the pixels of another and returns the `Images`.

    Of equal images one of an official test set is kept, else of an official valid set, else the first.

    Args:
      name: the address of the source, for messages.
      records: the images.
      classes: names of the labels.
      advice: imperative clause without full stop: how a user of this source gets more images.

    Raises:
      SourceError: there is no image, or one has a label without a class.
    """
    count = len(records)
    if not count:
        raise SourceError(f"{name}: no images. {advice}.")
    digests, groups = (np.empty((count, DIGEST_BYTES), np.uint8) for _ in range(2))
    labels, official = np.empty(count, np.int32), np.full(count, _UNDECIDED, np.int8)
    kept_pixels = _Kept(count)
    for index in range(count):
        image = records[index]
        if not -1 <= image.label < len(classes):
            raise SourceError(f"{name}: image {index} has label {image.label}, but there are {len(classes)} classes.")
        own = _digest(image.pixels)
        digests[index] = np.frombuffer(own, np.uint8)
        groups[index] = np.frombuffer(digest(image.group.encode()) if image.group else own, np.uint8)
        labels[index] = image.label
        if image.official:
            official[index] = list(SPLITS).index(image.official)
        kept_pixels.put(index, image.pixels)
    order = np.argsort(-official, kind="stable")
    kept = np.sort(order[first_of_each(digests[order])])
    drawn = [split for number, split in enumerate(SPLITS) if number not in official]
    parts = np.where(official == _UNDECIDED, split_numbers(groups, drawn), official).astype(np.int8)
    return Images(
        name=name,
        records=records,
        classes=tuple(classes),
        indices=kept,
        digests=digests[kept],
        groups=groups[kept],
        labels=labels[kept],
        parts=parts[kept],
        duplicates=count - len(kept),
        opened=len(kept),
        pixels=kept_pixels.pixels,
        advice=advice,
    )


class _Kept:
    """The pixels of all records, as long as they are of one size and fit in memory; then None."""

    def __init__(self, count: int):
        self._count = count
        self.pixels: np.ndarray | None = None

    def put(self, index: int, pixels: np.ndarray) -> None:
        """Keeps the pixels [H, W, C] of the next record."""
        if index == 0:
            self._allocate(pixels.shape)
        if self.pixels is None:
            return
        if pixels.shape[2] > self.pixels.shape[3]:
            grey = self.pixels
            self._allocate((*grey.shape[1:3], pixels.shape[2]))
            if self.pixels is not None:
                self.pixels[:index] = grey[:index]
        if self.pixels is not None and pixels.shape[:2] == self.pixels.shape[1:3]:
            self.pixels[index] = pixels
        else:
            self.pixels = None

    def _allocate(self, shape: tuple[int, ...]) -> None:
        size = (self._count, *shape)
        self.pixels = np.empty(size, np.uint8) if math.prod(size) <= _IN_MEMORY else None


def load_images(uri: str) -> Images:
    """Opens the source of images at `uri`: NAME or SCHEME:REST, such as 'digits' or 'folder:photos/**/*.jpg?size=64'.

    Raises:
      UnknownNameError: no source of images has that name or scheme.
      SourceError: the data is missing, empty or cannot be decoded.
    """
    return open_address(registry.image_sources, uri, files="folder")


def _digest(pixels: np.ndarray) -> bytes:
    return digest(repr(pixels.shape).encode() + pixels.tobytes())
