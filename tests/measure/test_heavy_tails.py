"""Laws are recovered from their own samples, told apart, and equal to an independent implementation's."""

import numpy as np
import pytest
from scipy import stats

from tokjax.core.errors import SourceError, SpecError, TokenizerError
from tokjax.measure.heavy_tails import (
    Lognormal,
    PowerLaw,
    draw_power_law,
    fit_lognormal,
    fit_power_law,
    goodness_of_fit,
    vuong,
)


def lognormal_values(seed, count=20_000, mu=3.0, sigma=1.0):
    values = np.random.default_rng(seed).lognormal(mu, sigma, count).round().astype(np.int64)
    return values[values > 0]


@pytest.mark.parametrize("alpha", [1.5, 2.0, 2.5, 3.5])
def test_exponent_of_exact_zipf_samples(alpha):
    values = stats.zipf(alpha).rvs(50_000, random_state=0)
    values = values[values > 0]  # scipy overflows on the rarest of alpha = 1.5
    fit = fit_power_law(values, xmin=1)
    assert fit.alpha == pytest.approx(alpha, abs=0.03)
    assert abs(fit.alpha - alpha) < 4 * fit.standard_error


def test_standard_error_is_the_spread_of_fits():
    fits = [fit_power_law(stats.zipf(2.2).rvs(2000, random_state=seed), xmin=1) for seed in range(60)]
    # The standard deviation of 60 values is known to 9%.
    assert np.std([fit.alpha for fit in fits]) == pytest.approx(fits[0].standard_error, rel=0.3)


@pytest.mark.parametrize(("alpha", "xmin"), [(2.0, 1), (2.5, 7), (1.3, 3)])
def test_draws_follow_the_law(alpha, xmin):
    law = PowerLaw(alpha, xmin, 0.0, 0.0, 0)
    values = draw_power_law(law, 20_000, np.random.default_rng(1))
    assert values.min() == xmin
    support = np.arange(xmin, xmin + 20)
    expected = np.exp(law.log_probabilities(support))
    share = np.array([np.mean(values == x) for x in support])
    np.testing.assert_allclose(share, expected, atol=5 * np.sqrt(0.25 / 20_000))
    assert fit_power_law(values, xmin=xmin).alpha == pytest.approx(alpha, abs=0.05)


def test_xmin_is_where_the_tail_begins():
    generator = np.random.default_rng(2)
    tail = draw_power_law(PowerLaw(2.5, 30, 0, 0, 0), 8000, generator)
    fit = fit_power_law(np.concatenate([generator.integers(1, 30, 8000), tail]))
    assert 25 <= fit.xmin <= 60  # Clauset et al. find xmin only roughly, from above
    assert fit.alpha == pytest.approx(2.5, abs=0.1)


def test_goodness_of_fit_accepts_the_law_and_refuses_another():
    values = draw_power_law(PowerLaw(2.2, 1, 0, 0, 0), 400, np.random.default_rng(3))
    assert goodness_of_fit(fit_power_law(values), values, draws=20) >= 0.1
    other = np.random.default_rng(3).poisson(20, 2000) + 1
    assert goodness_of_fit(fit_power_law(other, xmin=1), other, draws=20) < 0.1


def test_lognormal_is_recovered():
    fit = fit_lognormal(lognormal_values(0))
    assert (fit.mu, fit.sigma) == pytest.approx((3.0, 1.0), abs=0.03)  # 4 standard errors of 20,000 values
    cut = fit_lognormal(lognormal_values(0), xmin=10)
    assert (cut.mu, cut.sigma) == pytest.approx((3.0, 1.0), abs=0.1)
    assert cut.tail < fit.tail


@pytest.mark.parametrize("law", [PowerLaw(2.0, 3, 0, 0, 0), Lognormal(2.0, 1.0, 3, 0), Lognormal(-5.0, 3.0, 1, 0)])
def test_laws_sum_to_one(law):
    total = np.exp(law.log_probabilities(np.arange(law.xmin, 2_000_000))).sum()
    assert total == pytest.approx(1.0, abs=3e-6)  # what lies beyond: 1.5e-6 of the power law


def test_vuong_prefers_the_law_that_the_values_are_of():
    zipf = stats.zipf(2.0).rvs(100_000, random_state=5)  # a wide lognormal comes close: fewer would not tell
    found = vuong(fit_power_law(zipf, xmin=1), fit_lognormal(zipf), zipf)
    assert found.z > 2 and found.p_value < 0.05
    other = lognormal_values(5)
    found = vuong(fit_power_law(other, xmin=1), fit_lognormal(other), other)
    assert found.z < -2 and found.p_value < 0.05
    swapped = vuong(fit_lognormal(other), fit_power_law(other, xmin=1), other)
    assert (swapped.ratio, swapped.z, swapped.p_value) == pytest.approx((-found.ratio, -found.z, found.p_value))
    law = fit_power_law(other)
    assert vuong(law, law, other).p_value == 1.0


def test_parity_with_powerlaw():
    powerlaw = pytest.importorskip("powerlaw")
    generator = np.random.default_rng(7)
    tail = draw_power_law(PowerLaw(2.3, 8, 0, 0, 0), 3000, generator)
    values = np.concatenate([generator.integers(1, 8, 2000), tail[tail < 10**6]])
    for xmin in (1, 8, 20):
        theirs = powerlaw.Fit(values, discrete=True, xmin=xmin, estimate_discrete=False, verbose=0)
        assert fit_power_law(values, xmin=xmin).alpha == pytest.approx(theirs.power_law.alpha, abs=2e-3)
    theirs = powerlaw.Fit(values, discrete=True, estimate_discrete=False, verbose=0)
    ours = fit_power_law(values)
    assert (ours.xmin, ours.distance) == (theirs.xmin, pytest.approx(theirs.power_law.D, abs=1e-4))
    counts = lognormal_values(8, 4000)
    theirs = powerlaw.Fit(counts, discrete=True, xmin=5, estimate_discrete=False, verbose=0)
    ours = fit_lognormal(counts, xmin=5)
    assert (ours.mu, ours.sigma) == pytest.approx((theirs.lognormal.mu, theirs.lognormal.sigma), abs=2e-2)


@pytest.mark.parametrize("fit", [fit_power_law, fit_lognormal])
def test_errors(fit):
    with pytest.raises(SourceError, match="two different counts"):
        fit([3, 3, 3])
    with pytest.raises(SourceError, match="lower xmin"):
        fit([1, 2, 3], xmin=3)
    with pytest.raises(TokenizerError, match="at least 1"):
        fit([0, 1, 2])
    with pytest.raises(SpecError, match="xmin: got 0"):
        fit([1, 2], xmin=0)


def test_vuong_compares_one_tail():
    with pytest.raises(SpecError, match="from the same value on"):
        vuong(fit_power_law([1, 2, 3, 9], xmin=1), fit_lognormal([1, 2, 3, 9], xmin=2), [1, 2, 3, 9])


def test_a_lognormal_that_is_cut_far_out_is_still_a_distribution():
    far = Lognormal(mu=0.0, sigma=0.2, xmin=588, tail=1)  # 31 standard deviations out: e^-500 of the whole
    narrow = Lognormal(mu=0.0, sigma=0.002, xmin=588, tail=1)  # e^-5000000 of it
    for law in (far, narrow):
        assert np.exp(law.log_probabilities(np.arange(588, 20_000))).sum() == pytest.approx(1, rel=1e-6)


def test_counts_without_a_heavy_tail_have_a_lognormal_that_is_one():
    counts = np.maximum(np.random.default_rng(0).normal(250, 130, 1000).round().astype(int), 1)
    power = fit_power_law(counts)
    law = fit_lognormal(counts, power.xmin)
    assert np.all(law.log_probabilities(counts[counts >= power.xmin]) < 0)
    assert -10 < vuong(power, law, counts).z < 0, "a normal law falls faster than a power law"
