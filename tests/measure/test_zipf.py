"""The rank law is recovered, and ranks do not make order out of noise."""

import numpy as np
import pytest

from tokjax.core.errors import SourceError, TokenizerError
from tokjax.measure.sequences import type_counts
from tokjax.measure.zipf import ZipfMandelbrot, fit_zipf_mandelbrot, rank_counts


def sample(exponent, shift, ranks, count, seed=0):
    law = ZipfMandelbrot(exponent, shift, ranks, 0.0)
    return np.random.default_rng(seed).choice(ranks, count, p=law.probabilities())


@pytest.mark.parametrize(("exponent", "shift"), [(1.0, 0.0), (1.0, 2.7), (1.5, 10.0), (0.7, 0.5)])
def test_exponent_and_shift(exponent, shift):
    counts = np.bincount(sample(exponent, shift, 500, 400_000), minlength=500)  # ranks known
    fit = fit_zipf_mandelbrot(counts)
    assert fit.exponent == pytest.approx(exponent, abs=0.03)
    assert fit.shift == pytest.approx(shift, abs=0.1 * (1 + shift))
    assert fit_zipf_mandelbrot(counts, shift=shift).exponent == pytest.approx(exponent, abs=0.03)


@pytest.mark.parametrize("exponent", [0.8, 1.0, 1.3])
def test_zipf_with_ranks_from_the_other_half(exponent):
    counts = rank_counts(sample(exponent, 0.0, 300, 300_000), seed=1)
    assert fit_zipf_mandelbrot(counts, shift=0.0).exponent == pytest.approx(exponent, abs=0.03)


def test_uniform_tokens_have_no_exponent_unless_counts_rank_themselves():
    tokens = np.random.default_rng(0).integers(0, 200, 4000)
    assert fit_zipf_mandelbrot(rank_counts(tokens, seed=0), shift=0.0).exponent < 0.07  # 3 standard errors
    assert fit_zipf_mandelbrot(type_counts(tokens), shift=0.0).exponent > 0.1  # what splitting is for


def test_it_is_the_optimum():
    counts = np.bincount(sample(1.1, 3.0, 100, 5000))
    fit = fit_zipf_mandelbrot(counts)

    def mean_log(exponent, shift):
        return counts @ np.log(ZipfMandelbrot(exponent, shift, len(counts), 0.0).probabilities()) / counts.sum()

    assert fit.log_likelihood == pytest.approx(mean_log(fit.exponent, fit.shift), abs=1e-12)
    for step in (-0.01, 0.01):
        assert mean_log(fit.exponent + step, fit.shift) < fit.log_likelihood
        assert mean_log(fit.exponent, fit.shift + 5 * step) < fit.log_likelihood


def test_probabilities_sum_to_one():
    assert ZipfMandelbrot(1.2, -0.5, 1000, 0.0).probabilities().sum() == pytest.approx(1.0, abs=1e-12)


def test_errors():
    with pytest.raises(SourceError, match="two types"):
        rank_counts([4, 4, 4], seed=0)
    with pytest.raises(SourceError, match="two ranks"):
        fit_zipf_mandelbrot([7])
    with pytest.raises(TokenizerError, match="integers"):
        fit_zipf_mandelbrot([0.5, 0.2])
