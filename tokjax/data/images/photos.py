"""Tiles of the photographs that come with scikit-image and scikit-learn."""

import importlib.util
from pathlib import Path

from tokjax.core.errors import SourceError
from tokjax.core.registry import image_sources
from tokjax.data.address import read_size, split_options
from tokjax.data.images.base import Images, open_images
from tokjax.data.images.files import Tiles

_SKIMAGE = ("skimage", "data")
_SKLEARN = ("sklearn", "datasets", "images")
# (where, file, official split). Of so few a hash would leave some split empty: two natural ones are held out by name.
_PHOTOS = (
    (_SKIMAGE, "astronaut.png", ""),
    (_SKIMAGE, "chelsea.png", ""),
    (_SKIMAGE, "coffee.png", ""),
    (_SKIMAGE, "hubble_deep_field.jpg", ""),
    (_SKIMAGE, "ihc.png", ""),
    (_SKIMAGE, "motorcycle_left.png", ""),
    (_SKIMAGE, "retina.jpg", ""),
    (_SKIMAGE, "rocket.jpg", ""),
    (_SKLEARN, "flower.jpg", "valid"),
    (_SKLEARN, "china.jpg", "test"),
)


@image_sources.register("photos")
def photos(rest: str) -> Images:
    """Tiles of ten colour photographs of scikit-image and scikit-learn, no classes: photos[:?size=32].

    A photograph is in one split: 'valid' is scikit-learn's flower, 'test' its china, 'train' the others. Enough to
    see whether a codebook learns; too few for a claim about natural images.

    Raises:
      SourceError: a package or a photograph is not there, or an option that cannot be used.
    """
    place, options = split_options("photos", rest, size="32")
    if place:
        raise SourceError(
            f"photos:{rest}: takes no folder. For photographs of your own write 'folder:GLOB?cut=tiles&size=32'."
        )
    size = read_size("photos", rest, options["size"])
    paths = [_package(where[0]).joinpath(*where[1:], name) for where, name, _ in _PHOTOS]
    records = Tiles(paths, [-1] * len(paths), size, [split for _, _, split in _PHOTOS])
    return open_images(f"photos:{rest}" if rest else "photos", records, advice="Use smaller tiles")


def _package(name: str) -> Path:
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        raise SourceError(f'photos: {name} is not installed. Run: pip install "tokjax[images]".')
    return Path(found.origin).parent
