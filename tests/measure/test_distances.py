"""Distances between sets: closed forms, other implementations, unbiasedness, and what must not compare."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokjax.core.errors import SourceError, SpecError, UserError
from tokjax.measure import distances as measure
from tokjax.measure.distances import ClassScore, Distance, IncomparableError
from tokjax.measure.features import FeatureSet
from tokjax.measure.moments import Moments


def feature_set(vectors, name="images", fingerprint="f0"):
    vectors = np.asarray(vectors, np.float32)
    return FeatureSet(
        name=name, extractor="test", fingerprint=fingerprint, moments=Moments.of(vectors), vectors=vectors
    )


def covariance(seed, width=6):
    factor = np.random.default_rng(seed).standard_normal((width, width))
    return factor @ factor.T + 0.1 * np.eye(width)


@given(st.integers(0, 10_000), st.integers(1, 12))
def test_the_root_agrees_with_scipy(seed, width):
    from scipy.linalg import sqrtm

    s, t = covariance(seed, width), covariance(seed + 1, width)
    assert measure.trace_sqrt_product(s, t) == pytest.approx(np.trace(sqrtm(s @ t)).real, rel=1e-7)


def test_the_root_is_that_of_the_symmetric_product():
    s, t = covariance(0), covariance(1)
    values, vectors = np.linalg.eigh(s)
    root = (vectors * np.sqrt(values)) @ vectors.T
    expected = np.sqrt(np.linalg.eigvalsh(root @ t @ root)).sum()
    assert measure.trace_sqrt_product(s, t) == pytest.approx(expected, rel=1e-12)


def test_commuting_covariances_have_the_closed_form():
    a = Moments(11, np.zeros(3), 10 * np.diag([1.0, 4.0, 0.0]))
    b = Moments(21, np.array([1.0, 2.0, 2.0]), 20 * np.diag([9.0, 1.0, 25.0]))
    assert measure.frechet(a, b) == pytest.approx(9 + (3 - 1) ** 2 + (1 - 2) ** 2 + 25)


def test_samples_of_gaussians_reach_the_closed_form():
    """Mean over draws within three standard errors of the exact distance and its bias, which falls as 1 / N."""
    s, t, shift = covariance(0), covariance(1), np.linspace(0, 1, 6)
    exact = shift @ shift + np.trace(s) + np.trace(t) - 2 * measure.trace_sqrt_product(s, t)
    generator = np.random.default_rng(0)

    def drawn(count):
        x = generator.multivariate_normal(np.zeros(6), s, count)
        y = generator.multivariate_normal(shift, t, count)
        return measure.frechet(Moments.of(x), Moments.of(y))

    small, large = (np.array([drawn(count) for _ in range(60)]) for count in (1000, 2000))
    without_bias = 2 * large.mean() - small.mean()
    error = math.sqrt((4 * large.var(ddof=1) + small.var(ddof=1)) / 60)
    assert abs(without_bias - exact) < 3 * error
    assert error < 0.02 * exact


@pytest.mark.parametrize("count", [5, 40, 400])
def test_a_set_is_at_distance_zero_from_itself(count):
    """With fewer vectors than numbers in each, too."""
    x = np.random.default_rng(0).standard_normal((count, 60)) @ covariance(0, 60)
    moments = Moments.of(x)
    assert measure.frechet(moments, moments) <= 1e-10 * np.trace(moments.covariance)


def test_halves_of_a_set_have_kernel_distance_zero_on_average():
    generator = np.random.default_rng(0)
    x = generator.standard_normal((120, 8)) ** 2
    values = []
    for _ in range(400):
        mixed = generator.permutation(x)
        values.append(measure.kernel_mmd(mixed[:60], mixed[60:]))
    error = np.std(values, ddof=1) / math.sqrt(len(values))
    assert abs(np.mean(values)) < 3 * error
    assert 0.2 < np.mean(np.array(values) < 0) < 0.8


def test_kernel_distance_is_its_formula():
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((5, 3)), generator.standard_normal((4, 3)) + 1

    def kernel(a, b):
        return (a @ b / 3 + 1) ** 3

    own = sum(kernel(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j) / 20
    other = sum(kernel(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j) / 12
    across = sum(kernel(a, b) for a in x for b in y) / 20
    assert measure.kernel_mmd(x, y) == pytest.approx(own + other - 2 * across)


def test_blocks_do_not_matter(monkeypatch):
    generator = np.random.default_rng(0)
    x, y = feature_set(generator.standard_normal((50, 4))), feature_set(generator.standard_normal((43, 4)) + 0.5)
    whole = measure.kernel_distance(x, y).value, measure.manifold(x, y, neighbours=3)
    monkeypatch.setattr(measure, "_ROWS", 7)
    assert measure.kernel_distance(x, y).value == pytest.approx(whole[0], rel=1e-12)
    assert measure.manifold(x, y, neighbours=3) == whole[1]


def test_subsets_estimate_the_same():
    generator = np.random.default_rng(0)
    x, y = feature_set(generator.standard_normal((300, 4))), feature_set(generator.standard_normal((300, 4)) + 0.5)
    full = measure.kernel_distance(x, y)
    parts = measure.kernel_distance(x, y, subsets=200, subset_size=50)
    assert full.spread is None
    assert abs(parts.value - full.value) < 4 * parts.spread / math.sqrt(200)
    assert parts == measure.kernel_distance(x, y, subsets=200, subset_size=50)
    with pytest.raises(SourceError, match="Give less"):
        measure.kernel_distance(x, y, subsets=2)


@given(st.integers(0, 1000), st.integers(1, 4))
def test_manifold_measures_are_their_definitions(seed, neighbours):
    generator = np.random.default_rng(seed)
    x, y = generator.integers(0, 6, (14, 2)), generator.integers(1, 7, (11, 2))  # ties and duplicates
    found = measure.manifold(feature_set(x), feature_set(y), neighbours=neighbours)

    def reach(points):
        return [sorted(np.linalg.norm(p - q) for j, q in enumerate(points) if j != i)[neighbours - 1]
                for i, p in enumerate(points)]  # fmt: skip

    x_reach, y_reach = reach(x), reach(y)
    within = np.array([[np.linalg.norm(p - q) <= r for q, r in zip(y, y_reach, strict=True)] for p in x])
    assert found.precision == pytest.approx(np.mean(within.any(axis=1)))
    assert found.density == pytest.approx(within.sum() / (neighbours * 14))
    assert found.coverage == pytest.approx(np.mean(within.any(axis=0)))
    back = [any(np.linalg.norm(p - q) <= r for p, r in zip(x, x_reach, strict=True)) for q in y]
    assert found.recall == pytest.approx(np.mean(back))


def test_manifold_measures_of_equal_and_of_disjoint_sets():
    x = np.random.default_rng(0).standard_normal((200, 3))
    same = measure.manifold(feature_set(x), feature_set(x))
    assert (same.precision, same.recall, same.coverage) == (1.0, 1.0, 1.0)
    far = measure.manifold(feature_set(x), feature_set(x + 100))
    assert far == (0.0, 0.0, 0.0, 0.0)
    fresh = measure.manifold(feature_set(x), feature_set(np.random.default_rng(1).standard_normal((200, 3))))
    assert fresh.density == pytest.approx(1.0, abs=0.15)  # two standard deviations of what 200 draws give
    dropped = measure.manifold(feature_set(x[x[:, 0] > 0]), feature_set(x))
    assert dropped.precision > 0.95 and dropped.recall < 0.8 and dropped.coverage < 0.8


@given(st.integers(2, 30))
def test_score_of_uniform_and_of_one_hot_classes(classes):
    assert ClassScore.of(np.zeros((7, classes))).value == pytest.approx(1.0)
    assert ClassScore.of(np.eye(classes) * 1e4).value == pytest.approx(classes)


def test_score_merges_and_splits():
    logits = np.random.default_rng(0).standard_normal((40, 5)) * 3
    whole = ClassScore.of(logits)
    assert (ClassScore.of(logits[:13]) + ClassScore.of(logits[13:])).value == pytest.approx(whole.value, rel=1e-12)
    assert measure.inception_score(logits) == (pytest.approx(whole.value), 0.0)
    parts = [ClassScore.of(part).value for part in logits.reshape(4, 10, 5)]
    assert measure.inception_score(logits, splits=4) == pytest.approx((np.mean(parts), np.std(parts)))
    assert np.mean(parts) < whole.value  # fewer images a split: why the two do not compare
    with pytest.raises(SourceError, match="do not fill"):
        measure.inception_score(logits, splits=41)


def known(**changes):
    return dataclasses.replace(
        Distance(metric="FD", value=2.0, extractor="net", fingerprint="aa", images="x", n=10, reference="r",
                 reference_n=10),
        **changes,
    )  # fmt: skip


def test_distances_to_one_reference_compare():
    near, far = known(), known(value=5.0, images="y")
    assert near < far and far > near and far - near == 3.0
    assert sorted([far, near]) == [near, far]


@pytest.mark.parametrize(
    "change",
    [
        {"metric": "KD"},
        {"extractor": "other"},
        {"fingerprint": "bb"},
        {"reference": "s"},
        {"reference_n": 11},
        {"n": 9},
    ],
)
def test_distances_that_measure_different_things_do_not_compare(change):
    (field,) = change
    for compare in (lambda a, b: a < b, lambda a, b: a > b, lambda a, b: a - b):
        with pytest.raises(IncomparableError, match=f"do not compare: {field} is"):
            compare(known(), known(**change))
    assert issubclass(IncomparableError, UserError)


def test_an_unbiased_distance_does_not_mind_the_number_of_images():
    assert known(metric="KD") < known(metric="KD", n=500, value=3.0)


def test_only_inception_gives_a_fid():
    assert known().label == "FD(net)" and known(metric="KD").label == "KD(net)"
    assert known(extractor="inception").label == "FID"
    assert known(extractor="inception", metric="KD").label == "KID"


def test_sets_seen_by_different_extractors_do_not_mix():
    x = np.random.default_rng(0).standard_normal((20, 3))
    for measured in (measure.frechet_distance, measure.kernel_distance, measure.manifold):
        with pytest.raises(IncomparableError, match="fingerprint"):
            measured(feature_set(x), feature_set(x, fingerprint="f1"))
    with pytest.raises(SpecError, match="parts of different sets"):
        feature_set(x) + feature_set(x, name="other")


def test_what_has_no_distance_says_so():
    x = feature_set(np.random.default_rng(0).standard_normal((4, 3)))
    one, bare = feature_set(np.ones((1, 3))), dataclasses.replace(x, vectors=None)
    with pytest.raises(SourceError, match="at least two"):
        measure.frechet_distance(x, one)
    with pytest.raises(SourceError, match="at least two"):
        measure.kernel_distance(x, one)
    with pytest.raises(SourceError, match="no 5 neighbours"):
        measure.manifold(x, x)
    with pytest.raises(SourceError, match="keep_vectors"):
        measure.kernel_distance(x, bare)
    assert measure.frechet_distance(x, bare).value == pytest.approx(0, abs=1e-9)
