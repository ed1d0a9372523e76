"""Channels of a few levels: one code for all, values that are learned, noise in place of rounding."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from tokjax.nn.param import materialize
from tokjax.quantize import quantizer
from tokjax.quantize.fsp import cumulative
from tokjax.quantize.levels import join, split

KEY = jax.random.key(3)


@given(st.lists(st.integers(2, 9), min_size=1, max_size=6).map(tuple))
def test_codes_and_level_numbers_are_each_others_inverse(levels):
    every = np.stack(np.unravel_index(np.arange(math.prod(levels)), levels[::-1])[::-1], axis=-1)
    codes = np.asarray(join(jnp.asarray(every), levels))
    np.testing.assert_array_equal(codes, np.arange(math.prod(levels)))
    np.testing.assert_array_equal(split(jnp.asarray(codes), levels), every)


def latent(**fields):
    spec = quantizer({"name": "latent", "levels": (5, 4, 2), **fields}, width=3)
    return spec, materialize(spec.declare(), KEY)


def test_latent_channels_take_their_nearest_values_wherever_these_have_moved():
    spec, params = latent()
    assert params["values"]["000"].tolist() == [-0.5, -0.25, 0, 0.25, 0.5]
    moved = {"values": jax.tree.map(lambda v: 3 * v + 0.1, params["values"])}
    x = jax.random.normal(KEY, (50, 3))
    found = spec.quantize(moved, {}, x)
    for channel, values in enumerate(moved["values"].values()):
        nearest = np.argmin(np.abs(np.asarray(x)[:, channel, None] - np.asarray(values)), axis=-1)
        np.testing.assert_array_equal(found.vectors[:, channel], np.asarray(values)[nearest])
    np.testing.assert_array_equal(spec.dequantize(moved, {}, found.codes), found.vectors)
    np.testing.assert_array_equal(spec.quantize(moved, {}, found.vectors).codes, found.codes)


def test_latent_losses_pull_vectors_and_values_by_their_weights():
    x = jax.random.normal(KEY, (50, 3))

    def gradients(**fields):
        spec, params = latent(**fields)
        chosen = spec.quantize(params, {}, x).vectors
        of_loss = jax.grad(lambda params, x: spec.quantize(params, {}, x).loss, argnums=(0, 1))(params, x)
        return of_loss, np.asarray(x - chosen)

    (of_values, of_vectors), way = gradients(commitment=0.3, quantization=0.0)
    np.testing.assert_allclose(of_vectors, 0.3 * 2 * way / way.size, rtol=1e-5, atol=1e-8)
    assert not any(np.any(v) for v in jax.tree.leaves(of_values))
    (of_values, of_vectors), way = gradients(commitment=0.0, quantization=0.7)
    assert not np.any(of_vectors)
    for channel, gradient in enumerate(of_values["values"].values()):
        np.testing.assert_allclose(jnp.sum(gradient), -0.7 * 2 * way[:, channel].sum() / way.size, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "exact"),
    [
        ("normal", scipy.stats.norm),
        ("logistic", scipy.stats.logistic),
        ("tanh", scipy.stats.logistic(scale=0.5)),
        ("laplace", scipy.stats.laplace),
    ],
)
def test_bounds_are_cumulative_distributions_and_losses_know_their_moments(kind, exact):
    points = np.linspace(-4, 4, 33)
    np.testing.assert_allclose(cumulative(kind, jnp.asarray(points, jnp.float32)), exact.cdf(points), atol=2e-7)
    slopes = jax.vmap(jax.grad(lambda x: cumulative(kind, x)))(jnp.asarray(points, jnp.float32))  # 0 is among them
    np.testing.assert_allclose(slopes, exact.pdf(points), rtol=1e-5, atol=2e-7)  # 1 - sigmoid loses digits
    spec = quantizer(f"fsp:levels=4,8:distribution={kind}:mean_weight=2:variance_weight=3", width=2)
    x = np.asarray(exact.rvs(size=(40, 2), random_state=0)) + 0.5
    mask = np.arange(40) < 30
    wanted = 2 * np.mean(x[:30].mean(0) ** 2) + 3 * np.mean((x[:30].var(0, ddof=1) - exact.var()) ** 2)
    found = spec.quantize({}, {}, jnp.asarray(x, jnp.float32), mask=jnp.asarray(mask))
    np.testing.assert_allclose(found.loss, wanted, rtol=1e-4)


def fsp(x, train=True, **fields):
    spec = quantizer({"name": "fsp", "levels": (4, 8), **fields}, width=2)
    return spec, spec.quantize({}, {}, x, KEY, train=train)


def test_levels_of_a_channel_as_assumed_are_equally_likely_and_codes_of_unit_variance():
    x = jax.random.normal(KEY, (100_000, 2))
    _, found = fsp(x, train=False)
    shares = np.bincount(found.codes, minlength=32) / len(x)
    np.testing.assert_allclose(shares, 1 / 32, atol=5 * math.sqrt(1 / 32 / len(x)))
    assert found.loss < 1e-4  # the moments are those assumed
    _, trained = fsp(x)
    np.testing.assert_allclose(jnp.var(trained.vectors, axis=0), 1.0, atol=0.02)


def test_training_moves_vectors_by_half_a_level_and_never_out_of_bounds():
    x = 2 * jax.random.normal(KEY, (20_000, 2))
    _, found = fsp(x)
    share, moved = (np.asarray(cumulative("normal", x)), np.asarray(found.vectors) * math.sqrt(1 / 12) + 0.5)
    assert moved.min() >= 0 and moved.max() <= 1
    for channel, levels in enumerate((4, 8)):
        by = (moved - share)[:, channel] * levels
        assert np.abs(by).max() <= 0.5 + 1e-5
        inside = np.abs(share[:, channel] - 0.5) < 0.5 - 0.5 / levels  # no proposal is out of bounds
        assert scipy.stats.kstest(by[inside] + 0.5, "uniform").pvalue > 0.001
    # The gradient is that of what is bounded, whatever the noise.
    _, pull = jax.vjp(lambda x: fsp(x)[1].vectors, x)
    (gradient,) = pull(jnp.ones_like(x))
    np.testing.assert_allclose(gradient, scipy.stats.norm.pdf(x) * math.sqrt(12), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_a_share_of_channels_is_rounded(share):
    x = jax.random.normal(KEY, (20_000, 2))
    spec, found = fsp(x, rounded=share)
    same = np.asarray(found.vectors == spec.dequantize({}, {}, found.codes))
    assert abs(same.mean() - share) < 5 * math.sqrt(0.25 / x.size) + 1e-3
    _, pull = jax.vjp(lambda x: fsp(x, rounded=share)[1].vectors, x)
    np.testing.assert_allclose(pull(jnp.ones_like(x))[0], scipy.stats.norm.pdf(x) * math.sqrt(12), rtol=1e-3, atol=1e-6)


@functools.cache
def moved(noise):
    """What DiVeQ makes of vectors, and its gradients, of half the squared length."""
    spec = quantizer(f"vq:codes=8:gradient=diveq:noise={noise}", width=4)
    params, state = {"codebook": jax.random.normal(KEY, (8, 4))}, spec.init_state(KEY)
    x = jax.random.normal(jax.random.key(4), (200, 4))
    half = lambda params, x: jnp.sum(spec.quantize(params, state, x, KEY, train=True).vectors ** 2) / 2  # noqa: E731
    return x, params["codebook"], spec.quantize(params, state, x, KEY, train=True), jax.grad(half, (0, 1))(params, x)


def test_diveq_without_noise_is_the_code_and_trains_vectors_and_codes_along_the_way_between():
    x, codebook, found, (of_codes, of_vectors) = moved(0.0)
    q = codebook[found.codes]
    np.testing.assert_allclose(found.vectors, q, atol=1e-5)
    assert found.loss == 0
    # z = x + |q - x| u with u fixed: the gradient g of z goes to x as g - u (u.g), to q as u (u.g).
    u = np.asarray(q - x) / np.linalg.norm(q - x, axis=-1, keepdims=True)
    along = u * np.sum(u * np.asarray(q), axis=-1, keepdims=True)
    np.testing.assert_allclose(of_vectors, q - along, atol=1e-4)
    wanted = np.zeros((8, 4))
    np.add.at(wanted, np.asarray(found.codes), along)
    np.testing.assert_allclose(of_codes["codebook"], wanted, atol=1e-3)


def test_diveq_with_noise_keeps_the_length_of_the_way():
    x, codebook, found, _ = moved(0.1)
    q = codebook[found.codes]
    lengths = [np.linalg.norm(to - x, axis=-1) for to in (found.vectors, q)]
    np.testing.assert_allclose(*lengths, rtol=1e-4)
    assert np.abs(found.vectors - q).max() > 0.1
