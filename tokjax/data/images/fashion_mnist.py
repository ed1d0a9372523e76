"""Fashion-MNIST (Xiao et al. 2017): 70,000 grey pictures of clothes, in the IDX format of MNIST."""

import struct
from pathlib import Path

import numpy as np

from tokjax.core.errors import SourceError
from tokjax.core.registry import image_sources
from tokjax.data.files import read_file
from tokjax.data.images.base import Image, Images, open_images

DEBIAN_FOLDER = "/usr/share/datasets/fashion-mnist"
CLASSES = (
    "T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
_UNSIGNED_BYTE = 8  # the code of the only type of value that these files hold
_ADVICE = (
    "Install the Debian package dataset-fashion-mnist, or fetch the four .gz files from "
    "https://github.com/zalandoresearch/fashion-mnist and write 'fashion_mnist:FOLDER'"
)


@image_sources.register("fashion_mnist")
def fashion_mnist(rest: str) -> Images:
    """Fashion-MNIST, 28 x 28 grey, 10 classes of clothes: fashion_mnist[:FOLDER].

    FOLDER holds the four IDX files as published; by default the place of Debian's package. 'test' is the official test
    set, and the hash divides the official training set into 'train' and 'valid'.

    Raises:
      SourceError: a file that is missing, damaged or holds something else.
    """
    folder = Path(rest or DEBIAN_FOLDER).expanduser()
    if not folder.is_dir():
        raise SourceError(f"fashion_mnist: no folder {folder}. {_ADVICE}.")
    records = IdxImages(folder, len(CLASSES))
    return open_images(f"fashion_mnist:{rest}" if rest else "fashion_mnist", records, classes=CLASSES)


class IdxImages:
    """The images of the training files of a folder in MNIST's format, and then those of its test files.

    Raises:
      SourceError: as of `read_idx`, or images and labels do not match.
    """

    def __init__(self, folder: Path, classes: int):
        parts = [_labelled(folder, name, classes) for name in ("train", "t10k")]
        self._train = len(parts[0][1])
        self._pixels, self._labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Image:
        return Image(
            pixels=self._pixels[index][:, :, None],
            label=int(self._labels[index]),
            official="" if index < self._train else "test",
        )


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Returns the array of an IDX file of unsigned bytes, decompressed if its name ends in .gz.

    Args:
      path: the file.
      dimensions: how many it must have.

    Raises:
      SourceError: the file is missing, of another type or number of dimensions, or too short or long.
    """
    content = read_file(path)
    header = 4 + 4 * dimensions
    if content[:4] != bytes([0, 0, _UNSIGNED_BYTE, dimensions]) or len(content) < header:
        raise SourceError(
            f"{path}: not an IDX file of bytes with {dimensions} dimensions (begins with {content[:4].hex()}). "
            "Fetch it again."
        )
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    if len(content) - header != np.prod(shape, dtype=np.int64):
        raise SourceError(f"{path}: holds {len(content) - header} bytes, but says {shape}. Fetch it again.")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _labelled(folder: Path, name: str, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the images [N, H, W] and labels [N] of one part."""
    paths = [folder / f"{name}-images-idx3-ubyte.gz", folder / f"{name}-labels-idx1-ubyte.gz"]
    pixels, labels = read_idx(paths[0], 3), read_idx(paths[1], 1)
    if len(pixels) != len(labels):
        raise SourceError(f"{paths[0]} holds {len(pixels)} images, but {paths[1]} {len(labels)} labels.")
    if labels.max(initial=0) >= classes:
        raise SourceError(f"{paths[1]}: label {labels.max()}, expected 0 to {classes - 1}.")
    return pixels, labels
