"""Alignment finds the rotation that was applied, and says how much it cannot explain."""

import numpy as np
import pytest
from scipy import spatial, stats

from tokjax.core.errors import SourceError
from tokjax.measure.procrustes import align, hausdorff


def vectors(seed, count=40, width=6):
    return np.random.default_rng(seed).standard_normal((count, width))


def test_a_random_rotation_is_recovered():
    source, rotation = vectors(0), stats.ortho_group.rvs(6, random_state=1)
    target = 2.5 * source @ rotation + vectors(2, 1)
    found = align(source, target)
    np.testing.assert_allclose(found.rotation, rotation, atol=1e-10)
    assert found.scale == pytest.approx(2.5)
    assert found.residual == pytest.approx(0.0, abs=1e-12)
    np.testing.assert_allclose(found.apply(source), target, atol=1e-10)
    assert hausdorff(found.apply(source), target) == pytest.approx(0.0, abs=1e-10)


def test_residual_is_what_is_left_and_agrees_with_scipy():
    source, target = vectors(0), vectors(1) + vectors(0)
    found = align(source, target)
    left = np.sum((found.apply(source) - target) ** 2) / np.sum((target - target.mean(axis=0)) ** 2)
    assert found.residual == pytest.approx(left)
    assert found.residual == pytest.approx(spatial.procrustes(target, source)[2])
    np.testing.assert_allclose(found.rotation @ found.rotation.T, np.eye(6), atol=1e-12)


def test_noise_is_worse_than_a_noisy_copy():
    source = vectors(0)
    assert align(source, source + 0.1 * vectors(1)).residual < 0.05 < align(source, vectors(1)).residual


def test_hausdorff_by_hand_and_by_scipy():
    first, second = np.array([[0.0], [1.0]]), np.array([[0.0], [1.0], [5.0]])
    assert hausdorff(first, second) == hausdorff(second, first) == 4.0
    assert hausdorff(first, second, mean=True) == pytest.approx(4 / 3)
    x, y = vectors(0), vectors(1, 25)
    both = max(spatial.distance.directed_hausdorff(x, y)[0], spatial.distance.directed_hausdorff(y, x)[0])
    assert hausdorff(x, y) == pytest.approx(both)
    assert hausdorff(x, x[::-1]) == 0.0


def test_errors():
    with pytest.raises(SourceError, match="pairs rows"):
        align(vectors(0), vectors(0, 7))
    with pytest.raises(SourceError, match="two that differ"):
        align(np.ones((3, 2)), vectors(0, 3, 2))
    with pytest.raises(SourceError, match="finite vectors"):
        align(np.full((3, 2), np.nan), vectors(0, 3, 2))
    with pytest.raises(SourceError, match="one width"):
        hausdorff(vectors(0), vectors(0, 3, 2))
