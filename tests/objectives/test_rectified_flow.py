"""Times and lines of a rectified flow, and the lengths of nested dropout, by their distributions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import logit
from jax.scipy.stats import norm

from tokjax.core.errors import SpecError
from tokjax.objectives.flow import draw_times, interpolate
from tokjax.objectives.nested_dropout import draw_lengths

KEY = jax.random.key(0)


@pytest.mark.parametrize("stratified", [False, True])
def test_logits_of_times_are_standard_normal(stratified):
    found = np.asarray(logit(draw_times(KEY, 4000, stratified=stratified)))
    assert abs(found.mean()) < 0.05 and abs(found.std() - 1) < 0.04  # three standard errors of 4,000 draws


def test_stratified_times_are_one_of_each_part():
    times = draw_times(KEY, 64, stratified=True)
    parts = np.floor(np.asarray(norm.cdf(logit(times))) * 64).astype(int)
    assert sorted(parts.tolist()) == list(range(64)) and parts.tolist() != sorted(parts.tolist())


def test_lines_lead_from_data_to_noise_at_constant_velocity():
    x, noise = jax.random.normal(KEY, (2, 5, 3, 2))
    t = jnp.array([0.0, 1.0, 0.25, 0.5, 0.9])
    at, velocity = interpolate(x, noise, t)
    np.testing.assert_array_equal(at[0], x[0])
    np.testing.assert_array_equal(at[1], noise[1])
    np.testing.assert_allclose(at - t[:, None, None] * velocity, x, atol=1e-6)


@pytest.mark.parametrize(
    ("mode", "tokens", "expected"),
    [
        ("uniform", 5, {1: 0.2, 2: 0.2, 3: 0.2, 4: 0.2, 5: 0.2}),
        ("pow2", 8, {1: 0.25, 2: 0.25, 4: 0.25, 8: 0.25}),
        ("pow2", 6, {1: 0.25, 2: 0.25, 4: 0.25, 6: 0.25}),
        ("uniform_pow2", 8, {1: 0.125, 2: 0.125, 4: 0.25, 8: 0.5}),
        ("uniform_pow2", 6, {1: 1 / 6, 2: 1 / 6, 4: 1 / 3, 6: 1 / 3}),
        ("none", 7, {7: 1.0}),
        ("pow2", 1, {1: 1.0}),
    ],
)
def test_lengths_follow_their_distribution(mode, tokens, expected):
    values, counts = np.unique(draw_lengths(KEY, 4000, tokens, mode), return_counts=True)
    found = dict(zip(values.tolist(), (counts / 4000).tolist(), strict=True))
    assert found.keys() == expected.keys()
    np.testing.assert_allclose(list(found.values()), list(expected.values()), atol=0.025)  # three standard errors


def test_an_unknown_distribution_of_lengths_is_refused():
    with pytest.raises(SpecError, match=r"dropout.*uniform_pow2"):
        draw_lengths(KEY, 2, 4, "pow3")
