"""Intervals and tests against closed forms, published tables and an independent implementation."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from synthetic_results import build_results

from tokjax.measure.statistics import NUMERIC, Estimate, interval, summary, verdict, welch, with_interval

SAMPLE = st.lists(st.floats(-1e3, 1e3).map(lambda x: round(x, 3)), min_size=2, max_size=8)


def test_interval_of_two_values_is_the_tabled_quantile():
    """t(0.975, 1 degree) = 12.7062; the standard error of {1, 3} is 1."""
    mean, half_width = interval([1.0, 3.0])
    assert mean == 2.0
    assert half_width == pytest.approx(12.7062, abs=1e-4)


def test_interval_at_another_confidence():
    """t(0.95, 4 degrees) = 2.13185; the standard error of 1..5 is sqrt(2.5 / 5)."""
    assert interval([1, 2, 3, 4, 5], confidence=0.9).half_width == pytest.approx(2.13185 * math.sqrt(0.5), rel=1e-5)


def test_equal_values_have_an_interval_of_zero():
    assert interval([7, 7, 7]) == (7.0, 0.0)


def test_one_value_has_a_mean_and_no_interval():
    assert interval([2.5]) == (2.5, None)


@pytest.mark.parametrize("bad", [None, math.nan, math.inf])
def test_a_missing_value_leaves_no_mean(bad):
    assert interval([1.0, bad, 2.0]) == (None, None)


def test_no_values_have_no_mean():
    assert interval([]) == (None, None)


def test_an_interval_is_written_in_the_format_of_its_mean():
    assert with_interval(Estimate(2.1234, 0.0121)) == "2.123 ± 0.012"
    assert with_interval(Estimate(0.1234, 0.0121), "+.1%") == "+12.3% ± 1.2%"
    assert with_interval(Estimate(2.1234, None)) == "2.123"
    assert with_interval(Estimate(None, None)) == "–"


def test_interval_covers_the_truth_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(3.0, 2.0, (2000, 3))
    covered = np.mean([abs(mean - 3.0) <= half_width for mean, half_width in map(interval, draws.tolist())])
    assert covered == pytest.approx(0.95, abs=0.015)  # three standard errors of 2000 trials


@given(SAMPLE, SAMPLE)
def test_welch_agrees_with_scipy(a, b):
    if max(np.std(a), np.std(b)) < 1e-2:
        return  # scipy loses precision where the samples are constant
    difference, p_value = welch(a, b)
    expected = scipy.stats.ttest_ind(b, a, equal_var=False)
    low, high = expected.confidence_interval(0.95)
    assert p_value == pytest.approx(expected.pvalue, abs=1e-8)
    assert difference.half_width == pytest.approx((high - low) / 2, rel=1e-6)
    assert difference.mean == pytest.approx(np.mean(b) - np.mean(a), abs=1e-9)


@given(SAMPLE, SAMPLE)
def test_welch_does_not_depend_on_the_order(a, b):
    forth, back = welch(a, b), welch(b, a)
    assert forth[1] == pytest.approx(back[1], abs=1e-12)
    assert forth[0].mean == pytest.approx(-back[0].mean, abs=1e-12)


def test_welch_of_constant_samples():
    assert welch([1, 1], [1, 1]) == ((0.0, 0.0), 1.0)
    assert welch([1, 1], [2, 2]) == ((1.0, 0.0), 0.0)


def test_summary_keeps_the_order_and_has_every_column():
    results = build_results(("hat", "bytes", "bpe"))
    entries = summary(results)
    assert [entry["system"] for entry in entries] == ["hat", "bytes", "bpe"]
    for entry in entries:
        rows = [row for row in results["rows"] if row["system"] == entry["system"]]
        assert entry["seeds"] == len(rows) == 3
        for name in NUMERIC:
            assert entry[name].mean == pytest.approx(np.mean([row[name] for row in rows]))


def _results(**scores):
    """Results with nothing but bits per byte."""
    return {"rows": [{"system": name, "bits_per_byte": bits} for name, values in scores.items() for bits in values]}


def test_verdict_ranks_by_mean_and_sees_a_real_difference():
    found = verdict(_results(a=[3.0, 3.01, 2.99], b=[2.0, 2.01, 1.99], c=[2.5, 2.51, 2.49]))
    assert (found.best, found.second) == ("b", "c")
    assert found.difference.mean == pytest.approx(0.5)
    assert found.significant
    assert found.p_value < 1e-4


def test_verdict_does_not_see_a_difference_in_noise():
    found = verdict(_results(a=[2.0, 2.4, 2.2], b=[2.1, 2.5, 2.3]))
    assert found.significant is False
    assert found.p_value > 0.05


@given(SAMPLE, SAMPLE)
def test_interval_and_p_value_never_disagree(a, b):
    found = verdict(_results(a=a, b=b))
    if abs(found.p_value - 0.05) > 1e-9:
        assert found.significant == (found.p_value < 0.05)


def test_verdict_of_one_seed_is_open():
    found = verdict(_results(a=[2.0], b=[1.0]))
    assert (found.best, found.significant, found.p_value) == ("b", None, None)


def test_a_system_with_a_diverged_seed_is_not_ranked():
    found = verdict(_results(a=[1.0, math.nan], b=[2.0, 2.1], c=[3.0, 3.1]))
    assert (found.best, found.second) == ("b", "c")
    assert verdict(_results(a=[math.nan])) is None
    assert verdict(_results(a=[math.inf], b=[1.0])).second is None
