"""One row for a stream: plain numbers, with what order gives apart from what frequencies give."""

import math

import numpy as np
import pytest

from tokjax.core.errors import SourceError, SpecError, TokenizerError
from tokjax.measure.scans import scan
from tokjax.measure.token_statistics import stats

ORDERLESS = (
    "tokens", "types", "alpha", "alpha_error", "alpha_xmin", "alpha_distance", "lognormal_mu", "lognormal_sigma",
    "vuong_z", "vuong_p", "yule_k", "simpson", "unseen_mass", "yule_simon", "uniform_bits", "entropy_bits",
    "miller_madow_bits", "huffman_bits", "adaptive_bits", "benford_chi_squared", "benford_p", "benford_deviation",
)  # fmt: skip


def chain(rows=40, length=100, vocab_size=60, seed=0):
    """Sequences in which a token is often the successor of the last, and else one of a Zipf law."""
    generator = np.random.default_rng(seed)
    weights = 1 / np.arange(1, vocab_size + 1)
    tokens = generator.choice(vocab_size, (rows, length), p=weights / weights.sum())
    for place in range(1, length):
        follow = generator.random(rows) < 0.6
        tokens[follow, place] = (tokens[follow, place - 1] + 1) % vocab_size
    return tokens


def test_a_short_stream_in_which_no_ngram_comes_twice_has_no_tail():
    tokens = chain(rows=10, length=30)
    found = stats(tokens, 64, orders=6, shuffle=True)
    assert found["types_6"] == 10 * (30 - 5) and math.isnan(found["alpha_6"])
    assert math.isfinite(found["alpha"]) and math.isfinite(found["perplexity_6"])


def test_a_shuffled_control_keeps_frequencies_and_loses_order():
    tokens = chain(rows=150)
    plain, control = stats(tokens, 64), stats(tokens, 64, shuffle=True)
    assert plain.keys() == control.keys()
    assert all(type(value) is float and math.isfinite(value) for value in plain.values())
    for name in ORDERLESS:
        assert plain[name] == pytest.approx(control[name], rel=1e-12), name
    assert control["conditional_bits_2"] > plain["conditional_bits_2"] + 0.5
    assert control["perplexity_2"] > 1.3 * plain["perplexity_2"]
    assert control["perplexity_1"] == pytest.approx(plain["perplexity_1"], rel=0.1)
    assert control["lzma_ratio"] < plain["lzma_ratio"]


def test_uniform_tokens():
    found = stats(np.random.default_rng(0).integers(0, 256, (100, 256)), 256)
    assert found["types"] == 256 and found["uniform_bits"] == 8.0
    assert found["yule_k"] == pytest.approx(1e4 / 256, rel=0.05)
    assert found["lzma_ratio"] == pytest.approx(1.0, abs=0.002)
    assert found["miller_madow_bits"] == pytest.approx(8.0, abs=0.005)
    assert found["zipf_exponent"] < 0.02
    assert found["perplexity_1"] == pytest.approx(256, rel=0.02)
    assert found["heaps_beta"] < 0.1 and found["innovation"] == 0.0


def test_grids_are_read_in_any_order():
    grid = np.repeat(np.random.default_rng(0).integers(0, 30, (60, 12, 1)), 12, axis=2)  # rows of one token
    along, across = (stats(scan(grid, order), 30, orders=2) for order in ("raster", "column"))
    # Of 143 steps, 11 go to a new row and a new token.
    change = -(11 * math.log2(11 / 143) + 132 * math.log2(132 / 143)) / 143 + 11 / 143 * math.log2(30)
    assert along["conditional_bits_2"] < change < 3.5 < across["conditional_bits_2"]
    assert along["entropy_bits"] == across["entropy_bits"]


def test_errors():
    with pytest.raises(SourceError, match="one type"):
        stats([3] * 200, 8)
    with pytest.raises(SourceError, match="empty"):
        stats([], 8)
    with pytest.raises(TokenizerError, match="not below"):
        stats([3, 9], 8)
    with pytest.raises(TokenizerError, match="pass integers"):
        stats(np.ones(5), 8)
    with pytest.raises(SpecError, match="orders: got 0"):
        stats([1, 2], 8, orders=0)
