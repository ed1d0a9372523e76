"""TensorFlow Datasets with images, through their random-access readers: TensorFlow itself is never imported."""

import bisect
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from tokjax.core.errors import SourceError, nearest
from tokjax.core.registry import image_sources
from tokjax.data.address import read_size, split_options
from tokjax.data.images.base import Image, Images, open_images
from tokjax.data.images.pixels import decode, to_channels, to_square
from tokjax.data.splits import digest
from tokjax.data.tfds import open_builder, open_examples, read_example

_OFFICIAL = {"train": "", "validation": "valid", "valid": "valid", "test": "test"}  # TFDS's name -> ours


@image_sources.register("tfds_images")
def tfds_images(rest: str) -> Images:
    """A prepared TFDS set of images: tfds_images:NAME_OR_FOLDER[?image=image&label=label&split=train&size=64].

    A folder or name is as that of the source 'tfds'; a name is fetched and prepared only with 'download=true'. Its
    splits 'train', 'validation' (or 'valid') and 'test' are read: the last two are official, and the hash draws from
    'train' what is missing. With `split` only that one is read, and the hash divides it. `label` is by default the
    feature of that name, if there is one. With `size` the centre square of each image is resized.

    Raises:
      SourceError: as of 'tfds', or a feature that is missing or of another kind.
    """
    place, options = split_options("tfds_images", rest, image="image", label="", split="", size="", download="false")
    where = f"tfds_images:{rest}"
    size = read_size("tfds_images", rest, options["size"]) if options["size"] else None
    builder = open_builder("tfds_images", place, download=options["download"])
    official = {options["split"]: ""} if options["split"] else _OFFICIAL
    splits = [name for name in official if name in builder.info.splits or options["split"]]
    if not splits:
        raise SourceError(f"{where}: has none of the splits {', '.join(_OFFICIAL)}. Choose one with '?split='.")
    features = builder.info.features
    label = options["label"] or ("label" if "label" in features else "")
    for option, feature in (("image", options["image"]), ("label", label)):
        if feature and feature not in features:
            raise SourceError(f"{where}: no field {feature!r}.{nearest(feature, features)} Choose with '?{option}='.")
    records = TfdsImages(builder, splits, [official[name] for name in splits], options["image"], label, size, where)
    return open_images(where, records, classes=_classes(features[label], label, where) if label else ())


class TfdsImages:
    """The images of several splits, one after the other, decoded on access."""

    def __init__(
        self,
        builder: Any,
        splits: Sequence[str],
        official: Sequence[str],
        image: str,
        label: str,
        size: int | None,
        where: str,
    ):
        import tensorflow_datasets

        features = builder.info.features
        encoded = [name for name in features if isinstance(features[name], tensorflow_datasets.features.Image)]
        self._channels = features[image].shape[-1] if image in encoded else None
        # TFDS would decode with OpenCV where that is installed, to other pixels, and the images that nobody asked for.
        decoders = {name: tensorflow_datasets.decode.SkipDecoding() for name in encoded}
        self._splits = [open_examples(builder, name, where=where, decoders=decoders) for name in splits]
        self._ends = list(itertools.accumulate(map(len, self._splits)))
        self._official, self._image, self._label, self._size, self._where = official, image, label, size, where

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Image:
        number = bisect.bisect_right(self._ends, index)
        first = self._ends[number - 1] if number else 0
        example = read_example(self._splits[number], index - first, where=self._where)
        pixels = self._pixels(example[self._image], f"{self._where}: example {index}")
        return Image(
            pixels=pixels if self._size is None else to_square(pixels, self._size),
            label=int(example[self._label]) if self._label else -1,
            group=digest(pixels.tobytes()).hex(),  # before they are resized: no size puts it in another split
            official=self._official[number],
        )

    def _pixels(self, value: Any, where: str) -> np.ndarray:
        """Returns the pixels of an encoded image, or of an array that the data set stores as such."""
        if isinstance(value, bytes):
            pixels = decode(value, where=where)
            return to_channels(pixels, 1) if self._channels == 1 else to_channels(pixels, 3)
        if isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 3 and value.shape[2] in (1, 3):
            return value
        kind = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
        raise SourceError(
            f"{where}: field {self._image!r} holds {kind}, expected an image or uint8 pixels [H, W, 1 or 3]. Choose "
            "another with '?image='."
        )


def _classes(feature: Any, name: str, where: str) -> list[str]:
    import tensorflow_datasets

    if not isinstance(feature, tensorflow_datasets.features.ClassLabel) or not feature.num_classes:
        raise SourceError(f"{where}: field {name!r} has no classes. Choose another with '?label='.")
    return feature.names
