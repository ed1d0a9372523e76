"""Means and covariances of any split are those of the whole."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokjax.core.errors import SourceError
from tokjax.measure.moments import Mean, Moments


@given(st.lists(st.integers(0, 40), max_size=4), st.integers(0, 1000), st.floats(-1e3, 1e3))
def test_any_split_merges_to_the_whole(cuts, seed, shift):
    x = np.random.default_rng(seed).standard_normal((40, 3)) * [1.0, 10.0, 0.1] + shift
    parts = np.split(x, sorted(cuts))
    merged = sum((Moments.of(part) for part in parts[1:]), Moments.of(parts[0]))
    assert merged.count == 40
    # Rounding of numbers of size `shift`, squared where they are multiplied.
    np.testing.assert_allclose(merged.mean, x.mean(axis=0), rtol=1e-13, atol=1e-12)
    np.testing.assert_allclose(merged.covariance, np.cov(x.T), rtol=1e-10, atol=1e-12 * max(1.0, abs(shift)))
    means = sum(map(Mean.of, parts), Mean())
    assert means.value == pytest.approx(x.mean(), rel=1e-12, abs=1e-12) and means.count == x.size


def test_a_far_mean_costs_no_digits():
    """E[x^2] - E[x]^2 would lose all of them."""
    x = np.random.default_rng(0).standard_normal((1000, 2))
    far = Moments.of(x[:300] + 1e8) + Moments.of(x[300:] + 1e8)
    np.testing.assert_allclose(far.covariance, np.cov(x.T), atol=1e-7)


def test_what_has_no_covariance_says_so():
    assert np.isnan(Mean().value)
    with pytest.raises(SourceError, match="at least two"):
        _ = Moments.of(np.ones((1, 3))).covariance
    with pytest.raises(SourceError, match="NaN"):
        Moments.of([[np.nan, 1.0]])
    with pytest.raises(SourceError, match="widths 1 and 2"):
        Moments.of(np.ones((3, 1))) + Moments.of(np.ones((3, 2)))
    with pytest.raises(SourceError, match="shape"):
        Moments.of(np.ones(3))
