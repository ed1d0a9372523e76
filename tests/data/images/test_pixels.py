"""Pixels: every kind of file becomes 8-bit grey or RGB or is refused by name; sizes, channels and floats."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image as Pillow
from tiny_images import random_pixels

from tokjax.core.errors import SourceError
from tokjax.data.images.pixels import centre_square, decode, resize, sheet, to_channels, to_float, to_square, to_uint8

RGB = random_pixels(0, (5, 7, 3))
any_image = arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3])))


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_colour_and_grey_are_what_was_saved():
    np.testing.assert_array_equal(decode(encoded(Pillow.fromarray(RGB)), where="x"), RGB)
    np.testing.assert_array_equal(decode(encoded(Pillow.fromarray(RGB[:, :, 0])), where="x"), RGB[:, :, :1])
    two = Pillow.fromarray(RGB[:, :, 0] > 99)
    np.testing.assert_array_equal(decode(encoded(two), where="x"), (RGB[:, :, :1] > 99) * np.uint8(255))


def test_a_palette_becomes_its_colours():
    image = Pillow.fromarray(RGB).quantize(4)
    expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(decode(encoded(image), where="x"), expected)
    np.testing.assert_array_equal(decode(encoded(image, "GIF"), where="x"), expected)


def test_cmyk_becomes_rgb():
    flat = Pillow.new("CMYK", (3, 2), (0, 255, 255, 0))
    pixels = decode(encoded(flat, "TIFF"), where="x")
    np.testing.assert_array_equal(pixels, np.broadcast_to(np.uint8([255, 0, 0]), (2, 3, 3)))
    assert decode(encoded(flat, "JPEG"), where="x").shape == (2, 3, 3)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(mode):
    """Half of black is grey; the colour of what is wholly transparent does not matter."""
    image = Pillow.fromarray(np.uint8([[[0, 0, 0, 255], [0, 0, 0, 0], [255, 255, 255, 0]]]))
    if mode == "P":
        image = Pillow.new("P", (3, 1), 1)
        image.putpalette([0, 0, 0, 0, 0, 0])
        image.putpixel((0, 0), 0)
        content = encoded(image, transparency=1)
    else:
        content = encoded(image.convert(mode))
    pixels = decode(content, where="x")
    assert pixels.shape == (1, 3, 1 if mode == "LA" else 3)
    np.testing.assert_array_equal(pixels[0, :, 0], [0, 255, 255])
    half = decode(encoded(Pillow.new("RGBA", (1, 1), (0, 0, 0, 128))), where="x")
    np.testing.assert_array_equal(half, np.full((1, 1, 3), 127))


def test_rotation_of_the_camera_is_applied():
    exif = Pillow.Exif()
    exif[0x0112] = 6  # a quarter to the right
    content = encoded(Pillow.fromarray(RGB), exif=exif)
    np.testing.assert_array_equal(decode(content, where="x"), np.rot90(RGB, -1))


def test_first_frame_of_several():
    frames = [Pillow.new("RGB", (2, 2), (n, 0, 0)) for n in (10, 20)]
    content = encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode(content, where="x")[0, 0], [10, 0, 0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a/b.png: not a complete image"),
        (b"no image at all", "a/b.png: not a complete image"),
        (encoded(Pillow.fromarray(RGB))[:60], "a/b.png: not a complete image"),
        (encoded(Pillow.fromarray(RGB), "JPEG")[:-40], "a/b.png: not a complete image"),
        (encoded(Pillow.fromarray(RGB[:, :, 0].astype(np.uint16) * 257)), "a/b.png: has pixels of kind I;16"),
        (encoded(Pillow.fromarray(RGB[:, :, 0].astype(np.float32)), "TIFF"), "a/b.png: has pixels of kind F"),
    ],
    ids=["empty", "text", "png cut", "jpeg cut", "16 bits", "floats"],
)
def test_what_cannot_be_read_is_named(content, message):
    with pytest.raises(SourceError, match=message):
        decode(content, where="a/b.png")


def test_too_many_pixels_are_refused(monkeypatch):
    monkeypatch.setattr(Pillow, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(SourceError, match=r"x: not a complete image \(Image size"):
        decode(encoded(Pillow.fromarray(RGB)), where="x")


@given(any_image, st.integers(1, 4), st.integers(1, 4))
def test_a_whole_ratio_gives_the_mean_of_blocks(pixels, down, right):
    """Up to Pillow's fixed-point rounding."""
    large = np.repeat(np.repeat(pixels, down, axis=0), right, axis=1)
    np.testing.assert_array_equal(resize(large, *pixels.shape[:2]), pixels)
    H, W, C = pixels.shape
    blocks = np.random.default_rng(0).integers(0, 256, (H * down, W * right, C)).astype(np.uint8)
    mean = blocks.reshape(H, down, W, right, C).mean(axis=(1, 3))
    assert np.abs(resize(blocks, H, W) - mean).max() <= 1.01  # rounded twice, once per axis


@given(any_image, st.integers(1, 12), st.integers(1, 12))
def test_resizing_stays_within_the_values_and_keeps_flat_images(pixels, height, width):
    result = resize(pixels, height, width)
    assert result.shape == (height, width, pixels.shape[2]) and result.dtype == np.uint8
    assert pixels.min() <= result.min() and result.max() <= pixels.max()
    flat = np.full_like(pixels, 201)
    assert (resize(flat, height, width) == 201).all()
    np.testing.assert_array_equal(resize(pixels, *pixels.shape[:2]), pixels)


@given(st.integers(1, 50), st.integers(1, 50))
def test_the_centre_square_is_the_largest_in_the_middle(height, width):
    top, left, bottom, right = centre_square(height, width)
    assert bottom - top == right - left == min(height, width)
    assert abs(top - (height - bottom)) <= 1 and abs(left - (width - right)) <= 1


@given(any_image)
def test_a_square_is_cut_out_before_it_is_resized(pixels):
    side = min(pixels.shape[:2])
    top, left, bottom, right = centre_square(*pixels.shape[:2])
    np.testing.assert_array_equal(to_square(pixels, side), pixels[top:bottom, left:right])


@given(any_image)
def test_grey_survives_colour(pixels):
    grey = pixels[:, :, :1]
    colour = to_channels(grey, 3)
    assert colour.shape == (*grey.shape[:2], 3) and (colour == grey).all()
    np.testing.assert_array_equal(to_channels(colour, 1), grey)
    np.testing.assert_array_equal(to_channels(pixels, pixels.shape[2]), pixels)


def test_luma_is_pillows():
    np.testing.assert_array_equal(to_channels(RGB, 1)[:, :, 0], np.asarray(Pillow.fromarray(RGB).convert("L")))


def test_floats_are_exact_both_ways():
    every = np.arange(256, dtype=np.uint8)
    floats = to_float(every)
    assert floats.dtype == np.float32 and (floats[0], floats[-1]) == (-1, 1)
    np.testing.assert_array_equal(to_uint8(floats), every)
    np.testing.assert_array_equal(to_uint8(np.float32([-3, 0.001, 7])), [0, 128, 255])


@pytest.mark.parametrize(("count", "shape"), [(1, (2, 3, 1)), (3, (5, 7, 1)), (5, (5, 11, 1))])
def test_a_sheet_holds_every_picture_in_its_place(count, shape):
    pictures = np.arange(count * 6, dtype=np.uint8).reshape(count, 2, 3, 1)
    whole = sheet(pictures)
    assert whole.shape == shape
    columns = (shape[1] + 1) // 4
    for number, picture in enumerate(pictures):
        top, left = 3 * (number // columns), 4 * (number % columns)
        np.testing.assert_array_equal(whole[top : top + 2, left : left + 3], picture)
        whole[top : top + 2, left : left + 3] = 255
    assert np.all(whole == 255)
