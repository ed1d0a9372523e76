"""Handwritten digits that come with scikit-learn."""

import numpy as np

from tokjax.core.errors import SourceError
from tokjax.core.registry import image_sources
from tokjax.data.images.base import Image, Images, open_images

_WHITE = 16  # the largest value of a pixel


@image_sources.register("digits")
def digits(rest: str) -> Images:
    """1,797 handwritten digits of scikit-learn, 8 x 8 grey, 10 classes: digits.

    Raises:
      SourceError: scikit-learn is not installed.
    """
    if rest:
        raise SourceError(f"digits:{rest}: digits takes no address. Write 'digits'.")
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise SourceError('digits: comes with scikit-learn. Run: pip install "tokjax[images]".') from error
    data = load_digits()
    pixels = np.rint(data.images * (255 / _WHITE)).astype(np.uint8)[..., None]
    records = [Image(pixels=image, label=int(label)) for image, label in zip(pixels, data.target, strict=True)]
    return open_images("digits", records, classes=[str(digit) for digit in range(10)])
