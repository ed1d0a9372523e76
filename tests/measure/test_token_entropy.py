"""Entropies and codes keep within the bounds that theory gives them."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokjax.coding import cdf, host
from tokjax.core.errors import SourceError, SpecError, UnknownNameError
from tokjax.measure.sequences import shuffled, type_counts
from tokjax.measure.token_entropy import (
    adaptive_bits,
    block_entropy,
    conditional_entropy,
    entropy,
    huffman_bits,
    huffman_lengths,
    lempel_ziv_bits,
    miller_madow,
    static_bits,
)

COUNTS = st.lists(st.integers(1, 10**6), min_size=1, max_size=60)


def uniform(vocab_size, count, seed=0):
    return np.random.default_rng(seed).integers(0, vocab_size, count)


def markov(count, stay=0.9, seed=0):
    """A chain over 4 tokens that repeats the last one with probability `stay` and else takes the next."""
    moved = np.random.default_rng(seed).random(count) > stay
    return np.cumsum(moved) % 4


def test_entropies_by_hand():
    assert entropy([1, 1, 1, 1]) == 2.0
    assert entropy([2, 1, 1]) == 1.5
    assert entropy([7]) == 0.0
    assert miller_madow([2, 1, 1]) == pytest.approx(1.5 + 2 / (8 * math.log(2)))


def test_miller_madow_takes_the_bias_away():
    found = [type_counts(uniform(64, 400, seed)) for seed in range(50)]
    assert np.mean([entropy(counts) for counts in found]) < 5.93
    assert np.mean([miller_madow(counts) for counts in found]) == pytest.approx(6.0, abs=0.01)


def test_conditional_entropy_of_a_chain():
    tokens, truth = markov(50_000), entropy([9, 1])
    assert block_entropy(tokens, 1) == entropy(type_counts(tokens)) == conditional_entropy(tokens, 1)
    assert conditional_entropy(tokens, 2) == pytest.approx(truth, abs=0.01)
    assert conditional_entropy(tokens, 3) == pytest.approx(truth, abs=0.01)  # the chain remembers one token
    assert block_entropy(tokens, 2) == pytest.approx(2.0 + truth, abs=0.01)


def test_a_shuffle_changes_only_what_depends_on_order():
    tokens = markov(20_000)
    mixed = shuffled(tokens, seed=1)
    np.testing.assert_array_equal(type_counts(mixed), type_counts(tokens))
    assert conditional_entropy(mixed, 2) > conditional_entropy(tokens, 2) + 1
    assert conditional_entropy(mixed, 2) == pytest.approx(2.0, abs=0.01)
    assert lempel_ziv_bits(mixed, 4) > 1.5 * lempel_ziv_bits(tokens, 4)


@given(COUNTS)
def test_huffman_is_within_a_bit_of_the_entropy(counts):
    lengths, bits = huffman_lengths(counts), huffman_bits(counts)
    assert entropy(counts) - 1e-9 <= bits < entropy(counts) + 1
    assert sum(2.0 ** -lengths.astype(float)) == 1.0  # Kraft, with equality: no bit is wasted
    order = np.argsort(counts, kind="stable")
    assert all(
        lengths[a] >= lengths[b] for a, b in itertools.pairwise(order) if counts[a] < counts[b]
    )  # rarer is not shorter


def test_huffman_by_hand():
    assert huffman_lengths([5, 2, 1, 1]).tolist() == [1, 2, 3, 3]
    assert huffman_bits([1, 1, 1, 1]) == 2.0


@given(st.integers(0, 10**6), st.integers(2, 300), st.integers(1, 600))
def test_the_static_code_is_within_two_bits_of_the_entropy(seed, size, count):
    tokens = (np.random.default_rng(seed).random(count) ** 3 * size).astype(int)
    # Probabilities of 30 bits cost the stream less than 1.5 * count * size / 2**30 bits.
    assert static_bits(tokens) < entropy(type_counts(tokens)) * count + 2 + 3e-4


def test_the_adaptive_cost_is_that_of_the_coder():
    tokens, size, precision = uniform(5, 300) // 2, 4, 28
    counts, bounds = np.zeros(size), []
    for token in tokens:
        bound = cdf.cumulate(cdf.quantise((counts + 0.5) / (counts.sum() + size / 2), precision)).tolist()
        bounds.append((bound[token], bound[token + 1]))
        counts[token] += 1
    _, length = host.encode(bounds, precision)
    ideal = adaptive_bits(type_counts(tokens), size)
    assert ideal - 0.01 <= length < ideal + 2.01  # rounding to 28 bits, 300 times


def test_learning_frequencies_costs_half_a_logarithm_for_each():
    counts = type_counts(uniform(16, 100_000))
    excess = adaptive_bits(counts, 16) - entropy(counts) * 100_000
    assert 0 < excess < 15 / 2 * math.log2(100_000) + 16
    with pytest.raises(SpecError, match="there are 16 types"):
        adaptive_bits(counts, 15)


@pytest.mark.parametrize(("vocab_size", "method", "bound"), [(256, "lzma", 1.002), (256, "zlib", 1.002),
                                                             (1 << 16, "lzma", 1.002), (1024, "lzma", 1.05),
                                                             (16, "lzma", 1.15), (16, "zlib", 1.2)])  # fmt: skip
def test_uniform_tokens_do_not_compress(vocab_size, method, bound):
    """To the compressor's overhead: least where ids fill their bytes, and it takes them as they are."""
    tokens = uniform(vocab_size, 60_000)
    ratio = lempel_ziv_bits(tokens, vocab_size, method=method) / (math.log2(vocab_size) * len(tokens))
    assert 1.0 <= ratio < bound


def test_repetition_compresses():
    tokens = np.tile(uniform(1024, 500), 100)
    assert lempel_ziv_bits(tokens, 1024) < 0.02 * 10 * len(tokens)


def test_errors():
    with pytest.raises(UnknownNameError, match="Did you mean 'zlib'"):
        lempel_ziv_bits([1, 2], 4, method="zlibs")
    with pytest.raises(SourceError, match="No sequence has 3 tokens"):
        conditional_entropy([1, 2], 3)
