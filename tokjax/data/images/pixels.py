"""Pixels: files become uint8 arrays [H, W, C] with C = 1 (grey) or 3 (RGB), of any size and number of channels."""

import io
import math
import struct

import numpy as np
from PIL import Image, ImageOps

from tokjax.core.errors import SourceError

_WHITE = 255
# What Pillow's own conversion to eight bits does not clip or reject. "RGBa" and "La" are RGBA and LA, premultiplied.
_READABLE = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"}
_GREY = {"1", "L", "LA", "La"}


def decode(content: bytes, *, where: str) -> np.ndarray:
    """Returns the pixels of the first frame of an encoded image: uint8 [H, W, C].

    Grey stays grey; palettes, CMYK and other colour spaces become RGB. What is transparent is put on white. The
    camera's rotation is applied.

    Args:
      content: a PNG, JPEG or what else Pillow reads.
      where: its file, for messages.

    Raises:
      SourceError: it is no image, damaged, or has more than eight bits per channel.
    """
    try:
        image: Image.Image = Image.open(io.BytesIO(content))
        image.load()
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise SourceError(f"{where}: not a complete image ({error}). Fetch it again, or leave it out.") from error
    if image.mode not in _READABLE:
        raise SourceError(f"{where}: has pixels of kind {image.mode}. Save it as 8-bit grey or RGB, or leave it out.")
    grey = image.mode in _GREY
    image = ImageOps.exif_transpose(image)
    if image.mode in ("PA", "La", "RGBa") or image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (_WHITE,) * 4), image)
    return _array(image.convert("L" if grey else "RGB"))


def resize(
    pixels: np.ndarray, height: int, width: int, box: tuple[float, float, float, float] | None = None
) -> np.ndarray:
    """Returns the part of an image inside `box`, at another size: uint8 [height, width, C].

    Where the ratio is a whole number each pixel is the mean of a block; else a triangle as wide as the ratio weights
    its surroundings.

    Args:
      pixels: uint8 [H, W, C].
      height: of the result, as the next.
      width: in pixels.
      box: top, left, bottom and right edge in pixels; the whole image when None.
    """
    top, left, bottom, right = box or (0, 0, *pixels.shape[:2])
    if (top, left) == (0, 0) and (bottom, right) == pixels.shape[:2] == (height, width):
        return pixels
    whole = (bottom - top) % height == 0 and (right - left) % width == 0
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    kind = Image.Resampling.BOX if whole else Image.Resampling.BILINEAR
    return _array(image.resize((width, height), kind, box=(left, top, right, bottom)))


def centre_square(height: int, width: int) -> tuple[int, int, int, int]:
    """Returns the box of the largest square in the middle of an image: top, left, bottom, right."""
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return top, left, top + side, left + side


def to_square(pixels: np.ndarray, size: int) -> np.ndarray:
    """Returns the centre square of uint8 [H, W, C], resized to [size, size, C]."""
    return resize(pixels, size, size, centre_square(*pixels.shape[:2]))


def to_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """Returns uint8 [..., C] as [..., channels]: grey is repeated, colour becomes its luma (ITU-R BT.601)."""
    if pixels.shape[-1] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=-1)
    luma = pixels @ np.asarray([19595, 38470, 7471], np.uint32)  # of 2**16, so that equal channels keep their value
    return ((luma + 2**15) >> 16).astype(np.uint8)[..., None]


def to_float(pixels: np.ndarray) -> np.ndarray:
    """Returns uint8 pixels as float32 in [-1, 1]."""
    return pixels.astype(np.float32) / np.float32(127.5) - np.float32(1)


def to_uint8(pixels: np.ndarray) -> np.ndarray:
    """Returns the nearest uint8 pixels of floats in [-1, 1]; what is outside is clipped. The inverse of `to_float`."""
    return np.rint((np.clip(pixels, -1, 1) + 1) * 127.5).astype(np.uint8)


def encode_png(pixels: np.ndarray) -> bytes:
    """Returns the PNG file of `pixels` uint8 [H, W, 1 or 3]."""
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, "png")
    return file.getvalue()


def sheet(pictures: np.ndarray, *, gap: int = 1) -> np.ndarray:
    """Returns all `pictures` uint8 [N, H, W, C] in one, row by row in a square, `gap` white pixels between them."""
    count, height, width, channels = pictures.shape
    columns = math.ceil(math.sqrt(count))
    rows = -(-count // columns)
    whole = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, channels), 255, np.uint8)
    for number, picture in enumerate(pictures):
        top, left = number // columns * (height + gap), number % columns * (width + gap)
        whole[top : top + height, left : left + width] = picture
    return whole


def _array(image: Image.Image) -> np.ndarray:
    pixels = np.asarray(image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels
