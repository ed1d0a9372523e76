"""Vocabularies of known processes grow as their laws say."""

import numpy as np
import pytest
from scipy import stats

from tokjax.core.errors import SourceError, SpecError
from tokjax.measure.growth import (
    fit_heaps,
    fit_yule_simon,
    innovation,
    simpson,
    unseen_mass,
    vocabulary_curve,
    yule_k,
)
from tokjax.measure.sequences import type_counts


@pytest.mark.parametrize("alpha", [1.5, 2.0, 3.0])
def test_heaps_is_the_inverse_of_zipf(alpha):
    fits = [fit_heaps(np.abs(stats.zipf(alpha).rvs(100_000, random_state=seed))).beta for seed in range(6)]
    assert np.mean([beta.mean for beta in fits]) == pytest.approx(1 / alpha, abs=0.03)
    assert all(beta.half_width > 0 for beta in fits)


def test_heaps_of_all_new_and_of_a_closed_vocabulary():
    new = fit_heaps(np.arange(1000))
    assert (new.beta.mean, new.scale) == pytest.approx((1.0, 1.0), abs=1e-9)
    assert new.beta.half_width == pytest.approx(0.0, abs=1e-9)
    closed = fit_heaps(np.random.default_rng(0).integers(0, 8, 20_000))
    assert closed.beta.mean == pytest.approx(0.0, abs=1e-9)


def test_the_interval_of_heaps_covers():
    """Intervals of 95% hold the mean exponent of 40 streams for about that share of them."""
    probabilities = 1 / np.arange(1, 2001)
    probabilities /= probabilities.sum()
    fits = [fit_heaps(np.random.default_rng(seed).choice(2000, 4000, p=probabilities)).beta for seed in range(40)]
    middle = np.mean([beta.mean for beta in fits])
    assert np.mean([abs(beta.mean - middle) < beta.half_width for beta in fits]) > 0.8


def test_curve_and_innovation_count_new_tokens():
    tokens = [[4, 4, 2], [4, 9, 2]]
    assert vocabulary_curve(tokens).tolist() == [1, 1, 2, 2, 3, 3]
    np.testing.assert_allclose(innovation(tokens, windows=3), [0.5, 0.5, 0.5])
    found = innovation(np.random.default_rng(0).integers(0, 50, 5000))
    assert found[0] == pytest.approx(0.1) and not found[1:].any()
    with pytest.raises(SourceError, match="fewer windows"):
        innovation([1, 2], windows=3)


@pytest.mark.parametrize("size", [50, 500])
def test_richness_of_uniform_tokens(size):
    counts = type_counts(np.random.default_rng(0).integers(0, size, 100_000))
    assert yule_k(counts) == pytest.approx(1e4 / size, rel=0.01)
    assert simpson(counts) == pytest.approx(1 / size, rel=0.01)
    assert unseen_mass(counts) == 0.0


def test_richness_by_hand():
    assert yule_k([2, 1, 1]) == pytest.approx(1e4 * (6 - 4) / 16)
    assert simpson([2, 1, 1]) == pytest.approx(2 / 12)
    assert unseen_mass([2, 1, 1]) == 0.5
    with pytest.raises(SourceError, match="two tokens"):
        simpson([1])


def test_good_turing_is_the_share_of_new_tokens_to_come():
    tokens = np.abs(stats.zipf(1.6).rvs(40_000, random_state=3))
    before, after = tokens[:20_000], tokens[20_000:]
    new = np.mean(~np.isin(after[:2000], before))
    assert unseen_mass(type_counts(before)) == pytest.approx(new, abs=0.02)  # 3 standard errors of 2000 tokens


def test_simons_process_is_recovered():
    generator = np.random.default_rng(0)
    rate, stream, kinds = 0.2, np.zeros(60_000, np.int64), 1
    for place in range(1, len(stream)):
        if generator.random() < rate:
            stream[place], kinds = kinds, kinds + 1
        else:
            stream[place] = stream[generator.integers(place)]
    shape = fit_yule_simon(type_counts(stream))
    assert 1 - 1 / shape == pytest.approx(rate, abs=0.02)
    np.testing.assert_allclose(innovation(stream), rate, atol=0.03)


def test_errors():
    with pytest.raises(SourceError, match="at least 100 tokens for 10 blocks, not 3"):
        fit_heaps([1, 2, 3])
    with pytest.raises(SpecError, match="blocks: got 1"):
        fit_heaps(np.arange(100), blocks=1)
    with pytest.raises(SourceError, match="occurs twice"):
        fit_yule_simon([1, 1])
