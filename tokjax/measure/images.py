"""How near two images are, pixel by pixel: PSNR, SSIM and MS-SSIM. Pure functions, one number per image.

Letters: `B` images, `H` height, `W` width, `C` channels.
"""

import jax
import jax.numpy as jnp
import numpy as np

from tokjax.core.errors import SpecError

Range = tuple[float, float]  # the values of black and white, as (-1, 1)
TAPS = 11  # of the Gaussian window of SSIM
SIGMA = 1.5  # its standard deviation, in pixels
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of MS-SSIM, fine to coarse: Wang et al. 2003, section 3.2
_K1, _K2 = 0.01, 0.03  # Wang et al. 2004, section III-C


def mean_squared_error(x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns the mean of (x - y)^2 of each pair of images [B, H, W, C], float32 [B].

    Raises:
      SpecError: shapes that differ, or pixels that are not floats (differences of uint8 wrap around).
    """
    _check_pair(x, y)
    return jnp.mean(jnp.square(x.astype(jnp.float32) - y.astype(jnp.float32)), axis=(1, 2, 3))


def psnr(x: jax.Array, y: jax.Array, *, value_range: Range) -> jax.Array:
    """Peak signal-to-noise ratio: 10 log10((white - black)^2 / mean squared error).

    Args:
      x, y: float [B, H, W, C].
      value_range: the values of black and white.

    Returns:
      float32 [B], decibels; infinite for equal images, and so is then any mean over images.

    Raises:
      SpecError: as of `mean_squared_error`.
    """
    return decibels(mean_squared_error(x, y), value_range=value_range)


def decibels(error: jax.Array, *, value_range: Range) -> jax.Array:
    """Returns the PSNR, in decibels, of mean squared errors of any shape.

    That of the mean error of many images is less than the mean of their PSNRs; say which one is reported.
    """
    return 10.0 * jnp.log10(_span(value_range) ** 2 / error)


def ssim(x: jax.Array, y: jax.Array, *, value_range: Range) -> jax.Array:
    """Structural similarity, 1 for equal images (Wang et al. 2004, IEEE Trans. Image Processing 13(4), eq. 13).

    A Gaussian window of 11 x 11 pixels, only where it lies inside the image; mean over positions and channels.
    Black is moved to 0 first: the measure of brightness in it is a ratio, and would else depend on the range.

    Args:
      x, y: float [B, H, W, C], at least 11 pixels a side.
      value_range: the values of black and white.

    Returns:
      float32 [B].

    Raises:
      SpecError: as of `mean_squared_error`, or images smaller than the window.
    """
    _check_pair(x, y)
    _check_scales(x, 1)
    similarity, _ = _compare(*_from_black(x, y, value_range), _span(value_range))
    return jnp.mean(similarity, axis=-1)


def ms_ssim(
    x: jax.Array, y: jax.Array, *, value_range: Range, scale_weights: tuple[float, ...] = SCALE_WEIGHTS
) -> jax.Array:
    """SSIM over scales, each half the one before (Wang, Simoncelli & Bovik 2003, Asilomar, eq. 7).

    A negative contrast term counts as 0: it has no real power. An odd last row or column is dropped at each halving.

    Args:
      x, y: float [B, H, W, C], at least 11 pixels a side at the coarsest scale: 176 for the five scales of the paper.
      value_range: the values of black and white.
      scale_weights: the exponent of each scale, fine to coarse. Numbers with other weights do not compare.

    Returns:
      float32 [B], 1 for equal images; mean over channels.

    Raises:
      SpecError: as of `mean_squared_error`, or images too small for that many scales.
    """
    _check_pair(x, y)
    _check_scales(x, len(scale_weights))
    x, y = _from_black(x, y, value_range)
    product = jnp.ones((x.shape[0], x.shape[-1]), jnp.float32)
    for scale, weight in enumerate(scale_weights):
        if scale:
            x, y = _halve(x), _halve(y)
        similarity, contrast = _compare(x, y, _span(value_range))
        factor = similarity if scale == len(scale_weights) - 1 else contrast
        positive = factor > 0
        product *= jnp.where(positive, jnp.where(positive, factor, 1.0) ** weight, 0.0)  # finite gradient at 0
    return jnp.mean(product, axis=-1)


def _compare(x: jax.Array, y: jax.Array, span: float) -> tuple[jax.Array, jax.Array]:
    """Returns SSIM and its contrast-structure term, means over positions, float32 [B, C] each."""
    # Second moments about each image's mean: variances by E[x^2] - E[x]^2 lose fewer digits there.
    x_mean, y_mean = (jnp.mean(image, axis=(1, 2), keepdims=True) for image in (x, y))
    a, b = x - x_mean, y - y_mean
    a1, b1, aa, bb, ab = jnp.split(_window_means(jnp.concatenate([a, b, a * a, b * b, a * b], axis=-1)), 5, axis=-1)
    c1, c2 = (_K1 * span) ** 2, (_K2 * span) ** 2
    contrast = (2 * (ab - a1 * b1) + c2) / (aa - a1 * a1 + bb - b1 * b1 + c2)
    u, v = a1 + x_mean, b1 + y_mean
    luminance = (2 * u * v + c1) / (u * u + v * v + c1)
    return jnp.mean(luminance * contrast, axis=(1, 2)), jnp.mean(contrast, axis=(1, 2))


def _window_means(x: jax.Array) -> jax.Array:
    """Gaussian means [B, H - 10, W - 10, C], as products with banded matrices: faster here than a convolution."""
    rows, columns = _band(x.shape[1]), _band(x.shape[2])
    x = jnp.einsum("bhwc,hk->bkwc", x, rows, precision="highest")
    return jnp.einsum("bhwc,wk->bhkc", x, columns, precision="highest")


def _band(size: int) -> np.ndarray:
    """The matrix [size, size - 10] whose columns are the window at every place."""
    offset = np.arange(size)[:, None] - np.arange(size - TAPS + 1)
    taps = np.exp(-0.5 * ((np.arange(TAPS) - TAPS // 2) / SIGMA) ** 2)
    inside = (offset >= 0) & (offset < TAPS)
    return np.where(inside, taps[np.clip(offset, 0, TAPS - 1)] / taps.sum(), 0.0).astype(np.float32)


def _halve(x: jax.Array) -> jax.Array:
    """Means of blocks of 2 x 2 pixels."""
    B, H, W, C = x.shape
    return jnp.mean(x[:, : H // 2 * 2, : W // 2 * 2].reshape(B, H // 2, 2, W // 2, 2, C), axis=(2, 4))


def _span(value_range: Range) -> float:
    black, white = value_range
    if not white > black:
        raise SpecError(f"value_range: got {value_range!r}; give the values of black and white, as (-1.0, 1.0).")
    return white - black


def _from_black(x: jax.Array, y: jax.Array, value_range: Range) -> tuple[jax.Array, jax.Array]:
    return x.astype(jnp.float32) - value_range[0], y.astype(jnp.float32) - value_range[0]


def _check_pair(x: jax.Array, y: jax.Array) -> None:
    if x.shape != y.shape or x.ndim != 4:
        raise SpecError(f"images: got shapes {x.shape} and {y.shape}; give two equal ones, [B, H, W, C].")
    for image in (x, y):
        if not jnp.issubdtype(image.dtype, jnp.floating):
            raise SpecError(f"images: got {image.dtype}; convert to float32 first, as in x.astype(np.float32) / 255.")


def _check_scales(x: jax.Array, scales: int) -> None:
    side = min(x.shape[1:3])
    if side >> (scales - 1) < TAPS:
        fit = max(side // TAPS, 0).bit_length()
        raise SpecError(
            f"images: {x.shape[1]} x {x.shape[2]} pixels are too few for {scales} scale(s): the coarsest needs {TAPS} "
            f"each way, {fit} fit. Use larger images, or give ms_ssim fewer scale_weights and say so."
        )
