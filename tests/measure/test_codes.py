"""Codebook statistics: closed forms, independence of splits, and sizes that coders reach."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokjax.core.errors import SourceError
from tokjax.measure import codes as measure
from tokjax.measure.probe import fit_probe

streams = st.lists(st.integers(0, 6), min_size=1, max_size=200).map(np.array)


@given(streams, st.integers(0, 200))
def test_counts_of_any_split_add_up(codes, cut):
    whole = measure.count_codes(codes, 7)
    np.testing.assert_array_equal(measure.count_codes(codes[:cut], 7) + measure.count_codes(codes[cut:], 7), whole)
    assert whole.dtype == np.int64 and whole.sum() == len(codes)


@given(streams)
def test_bounds(codes):
    found = measure.code_statistics(measure.count_codes(codes, 7), pixels=1)
    assert found.usage + found.dead_fraction == pytest.approx(1.0)
    assert 1 - 1e-12 <= found.perplexity <= 7 * found.usage + 1e-9
    assert found.static_bits_per_pixel <= found.nominal_bits_per_pixel + 1e-9
    assert found.static_bits_per_pixel <= found.adaptive_bits_per_pixel + 1e-9
    # The price of learning K frequencies: at most (K - 1) / 2 log2 N + log2 K bits (Willems et al. 1995, for K = 2).
    assert found.adaptive_bits_per_pixel <= found.static_bits_per_pixel + 3 * math.log2(len(codes)) + math.log2(7) + 1


def test_uniform_and_single_codes():
    uniform = measure.code_statistics(np.full(16, 5), pixels=40)
    assert (uniform.usage, uniform.dead_fraction) == (1.0, 0.0)
    assert uniform.perplexity == pytest.approx(16)
    assert uniform.static_bits_per_pixel == uniform.nominal_bits_per_pixel == pytest.approx(80 * 4 / 40)
    assert uniform.entropy == 4.0  # no correction lifts it above log2 K
    single = measure.code_statistics(np.array([0, 9, 0, 0]), pixels=9)
    assert (single.usage, single.dead_fraction, single.perplexity) == (0.25, 0.75, 1.0)
    assert (single.static_bits_per_pixel, single.entropy, single.nominal_bits_per_pixel) == (0.0, 0.0, 2.0)


@given(streams)
def test_adaptive_bits_are_the_product_of_the_rule_in_any_order(codes):
    for order in (codes, codes[::-1], np.sort(codes)):
        seen, bits = np.zeros(7), 0.0
        for code in order:
            bits -= math.log2((seen[code] + 0.5) / (seen.sum() + 3.5))
            seen[code] += 1
        assert measure.adaptive_bits(seen.astype(np.int64)) == pytest.approx(bits, rel=1e-9)


def test_a_coder_reaches_the_static_size():
    constriction = pytest.importorskip("constriction")
    codes = np.random.default_rng(0).geometric(0.3, 20_000).astype(np.int32).clip(max=16) - 1
    counts = measure.count_codes(codes, 16)
    model = constriction.stream.model.Categorical(counts / counts.sum(), perfect=False)
    encoder = constriction.stream.queue.RangeEncoder()
    encoder.encode(codes, model)
    bits = 32 * len(encoder.get_compressed())
    # 24-bit frequencies and whole words of 32 bits.
    assert measure.static_bits(counts) <= bits <= measure.static_bits(counts) * 1.0005 + 64


def test_correction_brings_small_samples_near():
    """The mean over many samples of 200 codes, of 64 equally likely ones."""
    generator = np.random.default_rng(0)
    samples = [measure.count_codes(generator.integers(0, 64, 200), 64) for _ in range(200)]
    plain, corrected = (np.mean([measure.entropy(c, corrected=how) for c in samples]) for how in (False, True))
    assert abs(corrected - 6) < 0.2 * abs(plain - 6)  # the rest is of second order


def test_a_probe_reads_histograms_of_codes():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 300)
    codes = np.where(generator.random((300, 16)) < 0.7, labels[:, None], generator.integers(0, 8, (300, 16)))
    histograms = measure.code_histograms(codes, 8)
    np.testing.assert_allclose(histograms.sum(axis=1), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(np.round(histograms * 16).sum(axis=0), measure.count_codes(codes, 8))
    assert fit_probe(histograms[:200], labels[:200], 2).accuracy(histograms[200:], labels[200:]) > 0.95


def test_what_is_no_code_says_so():
    with pytest.raises(SourceError, match="outside a codebook of 4"):
        measure.count_codes(np.array([0, 4]), 4)
    with pytest.raises(SourceError, match="outside"):
        measure.count_codes(np.array([-1]), 4)
    with pytest.raises(SourceError, match="give integers"):
        measure.count_codes(np.array([0.5]), 4)
    with pytest.raises(SourceError, match="at least one token"):
        measure.code_statistics(np.zeros(4, np.int64), pixels=1)
    with pytest.raises(SourceError, match="pixels"):
        measure.code_statistics(np.ones(4, np.int64), pixels=0)
