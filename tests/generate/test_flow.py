"""Guidance by its algebra, and Euler's method on a flow whose exact map is known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokjax.core.errors import SpecError
from tokjax.generate.flow import GuidanceSpec, euler, guide

CONDITIONAL, UNCONDITIONAL, MEMORY = jax.random.normal(jax.random.key(0), (3, 4, 6, 5))
ZEROS = jnp.zeros_like(MEMORY)


def inner(x, y):
    return np.sum(np.asarray(x * y), axis=(1, 2))


def run(conditional=CONDITIONAL, unconditional=UNCONDITIONAL, memory=ZEROS, **fields):
    return guide(GuidanceSpec(**fields), conditional, unconditional, memory)


@pytest.mark.parametrize(
    "field", [{"kind": "apgs"}, {"scale": -1.0}, {"momentum": 1.0}, {"threshold": 0.0}], ids=lambda f: next(iter(f))
)
def test_impossible_guidance_is_refused(field):
    with pytest.raises(SpecError, match=next(iter(field))):
        GuidanceSpec(**field)


def test_projected_guidance_without_its_parts_is_the_classifier_free_one():
    plain, _ = run(kind="cfg", scale=3.0)
    np.testing.assert_allclose(plain, UNCONDITIONAL + 3.0 * (CONDITIONAL - UNCONDITIONAL), atol=1e-5)
    bare, _ = run(kind="apg", scale=3.0, momentum=0.0, threshold=1e9, eta=1.0)
    np.testing.assert_allclose(bare, plain, atol=1e-5)  # rounding of another order of sums


@pytest.mark.parametrize("kind", ["cfg", "apg"])
def test_at_scale_one_it_is_the_conditional_velocity(kind):
    np.testing.assert_array_equal(run(kind=kind, scale=1.0)[0], CONDITIONAL)


def test_the_update_is_orthogonal_to_the_velocity_and_no_longer_than_the_threshold():
    guided, memory = run(memory=MEMORY, scale=7.5)
    update = (guided - CONDITIONAL) / 6.5
    np.testing.assert_allclose(inner(update, CONDITIONAL), 0.0, atol=1e-4)  # sums of 30 float32 products
    assert np.all(np.sqrt(inner(update, update)) <= 2.5 + 1e-5)
    np.testing.assert_allclose(memory, CONDITIONAL - UNCONDITIONAL - 0.5 * MEMORY, atol=1e-6)


def test_short_differences_are_not_lengthened():
    near = CONDITIONAL + 0.01 * MEMORY
    guided, _ = run(unconditional=near, scale=2.0, eta=1.0)
    np.testing.assert_allclose(guided, 2 * CONDITIONAL - near, atol=1e-5)


def test_velocities_of_zero_are_left_alone():
    found, _ = run(ZEROS, ZEROS, scale=5.0)
    assert not np.any(found)


MEAN, DEVIATION = 1.5, 0.4


def velocity(x, t, memory):
    """E[noise - x | x_t] where data are N(MEAN, DEVIATION^2)."""
    variance = t**2 + (1 - t) ** 2 * DEVIATION**2
    slope = (t - (1 - t) * DEVIATION**2) / variance
    return slope * (x - (1 - t) * MEAN) - MEAN, memory + 1


@functools.cache
def error(steps):
    noise = jnp.linspace(-2.0, 2.0, 9)[:, None]
    found = euler(velocity, noise, steps=steps, memory=0)
    return float(jnp.max(jnp.abs(found - (MEAN + DEVIATION * noise))))  # the exact map of Gaussian to Gaussian


def test_euler_converges_to_the_exact_map_at_first_order():
    assert error(320) < 0.01
    for steps in (40, 80, 160):
        assert 1.7 < error(steps) / error(2 * steps) < 2.3  # half the step, half the error


def test_a_straight_flow_takes_one_step():
    """Where every line has the same velocity, the step size does not matter."""
    noise, data = CONDITIONAL, CONDITIONAL - 2.0
    for steps in (1, 7):
        found = euler(lambda x, t, memory: (jnp.full_like(x, 2.0), memory), noise, steps=steps)
        np.testing.assert_allclose(found, data, atol=1e-5)
