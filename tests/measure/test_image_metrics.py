"""PSNR, SSIM and MS-SSIM: their formulas, independent implementations, and what must not matter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokjax.core.errors import SpecError
from tokjax.measure import images
from tokjax.measure.images import decibels, mean_squared_error, psnr

ssim = jax.jit(images.ssim, static_argnames="value_range")
ms_ssim = jax.jit(images.ms_ssim, static_argnames=("value_range", "scale_weights"))
UNIT = (0.0, 1.0)


def pictures(seed=0, count=3, side=48, noise=0.1):
    """Smooth images in [0, 1] and noisy copies, float32 [B, H, W, 3]."""
    generator = np.random.default_rng(seed)
    at = np.linspace(0, 1, side)
    waves = generator.uniform(1, 8, (count, 3, 2))
    x = 0.5 + 0.5 * np.sin(
        2 * np.pi * (waves[:, None, None, :, 0] * at[:, None, None] + waves[:, None, None, :, 1] * at[None, :, None])
    )
    y = np.clip(x + noise * generator.standard_normal(x.shape), 0, 1)
    return x.astype(np.float32), y.astype(np.float32)


def blurred_ssim(x, y):
    """SSIM by the formula, in float64 and one window at a time."""
    offsets = np.arange(11) - 5
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None, :] ** 2) / (2 * 1.5**2))
    window = (window / window.sum())[..., None]
    found = []
    for top in range(x.shape[0] - 10):
        for left in range(x.shape[1] - 10):
            a, b = (z[top : top + 11, left : left + 11].astype(np.float64) for z in (x, y))
            u, v = ((window * z).sum((0, 1)) for z in (a, b))
            aa, bb, ab = ((window * p * q).sum((0, 1)) for p, q in ((a - u, a - u), (b - v, b - v), (a - u, b - v)))
            found.append((2 * u * v + 1e-4) * (2 * ab + 9e-4) / ((u * u + v * v + 1e-4) * (aa + bb + 9e-4)))
    return np.mean(found)


def test_psnr_is_its_formula():
    x = np.zeros((2, 4, 4, 3), np.float32)
    y = x + np.float32([0.1, 0.5])[:, None, None, None]
    np.testing.assert_allclose(psnr(x, y, value_range=UNIT), [20.0, 20 * np.log10(2)], rtol=1e-6)
    np.testing.assert_allclose(psnr(x, y, value_range=(-1, 1)), 20 * np.log10([20.0, 4.0]), rtol=1e-6)
    np.testing.assert_allclose(mean_squared_error(x, y), [0.01, 0.25], rtol=1e-6)
    assert np.isinf(psnr(x, x, value_range=UNIT)).all()
    assert float(decibels(jnp.float32(0.01), value_range=UNIT)) == pytest.approx(20.0)


def test_equal_images_have_similarity_one():
    x, _ = pictures(side=180, count=1)
    assert ssim(x, x, value_range=UNIT) == pytest.approx(1.0, abs=1e-6)
    assert ms_ssim(x, x, value_range=UNIT) == pytest.approx(1.0, abs=1e-6)


def test_ssim_is_its_formula():
    x, y = pictures(side=16)
    expected = [blurred_ssim(a, b) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(ssim(x, y, value_range=UNIT), expected, atol=2e-6)  # float32 over 11 x 11 terms


def test_ssim_agrees_with_scikit_image():
    metrics = pytest.importorskip("skimage.metrics")
    x, y = pictures(side=40)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "channel_axis": -1}
    expected = [
        metrics.structural_similarity(a.astype(np.float64), b.astype(np.float64), data_range=1.0, **options)
        for a, b in zip(x, y, strict=True)
    ]
    np.testing.assert_allclose(ssim(x, y, value_range=UNIT), expected, atol=2e-6)
    signal = [metrics.peak_signal_noise_ratio(a, b, data_range=1.0) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(psnr(x, y, value_range=UNIT), signal, rtol=1e-5)


@given(st.floats(0.1, 300), st.floats(-200, 200))
def test_the_range_of_values_does_not_matter(scale, shift):
    x, y = pictures(count=1, side=24)
    moved = {"value_range": (shift, shift + scale)}
    for metric, tolerance in ((psnr, 1e-3), (images.ssim, 1e-3)):  # of float32 far from 0
        plain = metric(x, y, value_range=UNIT)
        np.testing.assert_allclose(metric(x * scale + shift, y * scale + shift, **moved), plain, rtol=tolerance)


def test_ms_ssim_of_one_scale_is_ssim_and_more_scales_see_less_noise():
    x, y = pictures(side=180, count=2)
    one = ms_ssim(x, y, value_range=UNIT, scale_weights=(1.0,))
    np.testing.assert_allclose(one, ssim(x, y, value_range=UNIT), rtol=1e-6)
    assert (ms_ssim(x, y, value_range=UNIT) > one).all()


def test_ms_ssim_is_its_formula():
    """Contrast of every scale but the coarsest, SSIM of that, each from the one-scale functions."""
    x, y = pictures(side=44, count=1)
    weights = (0.3, 0.7)
    halves = [z.reshape(1, 22, 2, 22, 2, 3).mean((2, 4)) for z in (x, y)]
    per_channel = []
    for c in range(3):
        fine = x[..., c : c + 1], y[..., c : c + 1]
        contrast = ms_ssim(*fine, value_range=UNIT, scale_weights=(1.0, 0.0))[0]  # SSIM of the coarse to the power 0
        coarsest = ssim(halves[0][..., c : c + 1], halves[1][..., c : c + 1], value_range=UNIT)[0]
        per_channel.append(contrast ** weights[0] * coarsest ** weights[1])
    np.testing.assert_allclose(
        ms_ssim(x, y, value_range=UNIT, scale_weights=weights)[0], np.mean(per_channel), rtol=1e-5
    )


def test_they_trace_and_have_finite_gradients():
    x, y = pictures(side=24, count=2)
    y[1] = 1 - x[1]  # negative contrast

    def loss(y):
        return (ssim(x, y, value_range=UNIT) + ms_ssim(x, y, value_range=UNIT, scale_weights=(0.5, 0.5))).sum()

    value, gradient = jax.jit(jax.value_and_grad(loss))(y)
    assert np.isfinite(value) and np.isfinite(gradient).all()
    assert ms_ssim(x, y, value_range=UNIT, scale_weights=(0.5, 0.5))[1] < 1e-6


def test_an_image_has_the_same_number_in_any_batch():
    x, y = pictures(count=3)
    for metric in (psnr, ssim):
        each = [metric(x[i : i + 1], y[i : i + 1], value_range=UNIT)[0] for i in range(3)]
        np.testing.assert_allclose(metric(x, y, value_range=UNIT), each, rtol=1e-6)


@pytest.mark.parametrize(
    ("x", "y", "match"),
    [
        (np.zeros((1, 16, 16, 3), np.float32), np.zeros((1, 16, 16, 1), np.float32), "two equal ones"),
        (np.zeros((16, 16, 3), np.float32), np.zeros((16, 16, 3), np.float32), "B, H, W, C"),
        (np.zeros((1, 16, 16, 3), np.uint8), np.zeros((1, 16, 16, 3), np.uint8), "convert to float32"),
        (np.zeros((1, 9, 16, 3), np.float32), np.zeros((1, 9, 16, 3), np.float32), "9 x 16 pixels are too few"),
    ],
)
def test_what_cannot_be_compared_says_so(x, y, match):
    with pytest.raises(SpecError, match=match):
        ssim(x, y, value_range=UNIT)


def test_too_small_for_five_scales_says_how_many_fit():
    x, _ = pictures(side=64, count=1)
    with pytest.raises(SpecError, match="3 fit"):
        ms_ssim(x, x, value_range=UNIT)
    assert ms_ssim(x, x, value_range=UNIT, scale_weights=(0.2, 0.3, 0.5)) == pytest.approx(1.0, abs=1e-6)
    with pytest.raises(SpecError, match="value_range"):
        ssim(x, x, value_range=(1.0, 1.0))
