"""A linear probe finds what is linear, is the optimum, and does not mind how features are scaled."""

import numpy as np

from tokjax.measure.probe import fit_probe


def clusters(seed, count=300, spread=0.3):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, count)
    centres = np.array([[0.0, 2.0], [2.0, 0.0], [-2.0, -2.0]])
    return centres[labels] + spread * generator.standard_normal((count, 2)), labels


def test_it_separates_what_a_line_separates():
    probe = fit_probe(*clusters(0), classes=3)
    assert probe.accuracy(*clusters(1)) > 0.99


def test_scale_and_shift_of_features_change_nothing():
    features, labels = clusters(0, spread=1.5)
    other, _ = clusters(1, spread=1.5)
    plain = fit_probe(features, labels, 3).predict(other)
    moved = fit_probe(features * [1e4, 1e-3] + [5.0, -7.0], labels, 3).predict(other * [1e4, 1e-3] + [5.0, -7.0])
    np.testing.assert_array_equal(plain, moved)


def test_features_that_say_nothing_give_the_most_frequent_class():
    labels = np.array([0, 1, 1, 2, 1])
    probe = fit_probe(np.ones((5, 4)), labels, classes=3)
    np.testing.assert_array_equal(probe.predict(np.ones((2, 4))), [1, 1])
    constant = probe.weights[-1] - probe.weights[-1].max()
    np.testing.assert_allclose(np.exp(constant) / np.exp(constant).sum(), [0.2, 0.6, 0.2], atol=1e-3)
