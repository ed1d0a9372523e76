"""The traced coder against Python integers, and both against exact rationals."""

import functools
import math
from fractions import Fraction

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokjax.coding import arithmetic, cdf, host

PRECISION = 14
ROWS = 16
narrow = jax.jit(arithmetic.narrow, static_argnums=3)
shortest_code = jax.jit(arithmetic.shortest_code)
find = jax.jit(arithmetic.find, static_argnums=3)
few = hypothesis.settings(max_examples=30, deadline=None)


def random_bounds(rng, symbols=256):
    """Cumulative counts of random distributions, from nearly flat to nearly certain."""
    spread = rng.choice([0.01, 0.1, 1.0, 10.0], size=ROWS)
    return cdf.cumulate(cdf.quantise(np.stack([rng.dirichlet(np.full(symbols, a)) for a in spread]), PRECISION))


def best_code(low: Fraction, high: Fraction) -> tuple[int, int]:
    """The first of the longest dyadic intervals inside [low, high), by trying every length."""
    for length in range(10_000):
        first = math.ceil(low * 2**length)
        if Fraction(first + 1, 2**length) <= high:
            return first, length
    raise AssertionError


@functools.cache
def coded(bits: int) -> list:
    """Rows of symbols coded until they no longer fit `bits`: traced states, host states and symbols at every step."""
    rng = np.random.default_rng(bits)
    interval, hosts = arithmetic.whole((ROWS,), arithmetic.limbs_for(bits)), [host.Interval()] * ROWS
    steps = []
    while True:
        bounds, symbols = random_bounds(rng), rng.integers(0, 256, ROWS)
        lower, upper = bounds[np.arange(ROWS), symbols], bounds[np.arange(ROWS), symbols + 1]
        before = interval
        interval = narrow(interval, jnp.asarray(lower), jnp.asarray(upper), PRECISION)
        hosts = [h.narrow(int(a), int(b), PRECISION) for h, a, b in zip(hosts, lower, upper, strict=True)]
        steps.append((before, bounds, symbols, interval, hosts))
        if all(h.exponent > bits for h in hosts):
            return steps


@pytest.mark.parametrize("bits", [8, 16, 24, 32, 64, 128])
def test_traced_and_host_coders_have_the_same_state(bits):
    for _, _, _, interval, hosts in coded(bits):
        codes, lengths = shortest_code(interval)
        words = np.asarray(arithmetic.top_words(codes))
        np.testing.assert_array_equal(arithmetic.from_top_words(jnp.asarray(words)), codes)
        for row, twin in enumerate(hosts):
            number, length = twin.shortest_code()
            if length > bits:
                assert int(lengths[row]) > bits
                continue
            assert (int(interval.mantissa[row]), int(interval.exponent[row])) == (twin.mantissa, twin.exponent)
            assert int(lengths[row]) == length
            assert int.from_bytes(words[row].astype(">u4").tobytes()) == number << (32 * words.shape[1] - length)


@pytest.mark.parametrize("bits", [16, 128])
def test_the_code_is_the_shortest_and_the_point_finds_its_symbol(bits):
    for before, bounds, symbols, interval, hosts in coded(bits):
        codes, _ = shortest_code(interval)
        found = find(before, codes, jnp.asarray(bounds), PRECISION)
        for row, twin in enumerate(hosts):
            unit = 2 ** (31 + twin.exponent)
            code = best_code(Fraction(twin.low, unit), Fraction(twin.low + twin.mantissa, unit))
            assert twin.shortest_code() == code
            if code[1] <= bits:
                assert int(found[row]) == symbols[row]


@few
@hypothesis.given(st.data())
def test_the_integer_coder_stays_by_the_exact_one(data):
    """Truncation costs less than 2**-14 of the width a symbol, and sub-intervals tile the interval."""
    interval, low, width, information = host.Interval(), Fraction(0), Fraction(1), 0.0
    bounds = []
    for _ in range(data.draw(st.integers(1, 40))):
        lower = data.draw(st.integers(0, 2**PRECISION - 1))
        upper = data.draw(st.integers(lower + 1, 2**PRECISION))
        bounds.append((lower, upper))
        assert interval.narrow(0, lower, PRECISION).mantissa if lower else True
        interval = interval.narrow(lower, upper, PRECISION)
        low, width = low + width * Fraction(lower, 2**PRECISION), width * Fraction(upper - lower, 2**PRECISION)
        information += PRECISION - math.log2(upper - lower)
    unit = 2 ** (31 + interval.exponent)
    assert abs(Fraction(interval.mantissa, unit) / width - 1) <= Fraction(len(bounds), 2**14)
    number, length = host.encode(bounds, PRECISION)
    assert information - 0.01 <= length <= math.ceil(information + 0.01) + 1
    assert 0 <= number < max(1, 2**length)


def test_neighbouring_symbols_tile_the_interval():
    rng = np.random.default_rng(0)
    interval = coded(32)[1][3]
    bounds = random_bounds(rng)
    edges = np.asarray(arithmetic.share(interval.mantissa[:, None], jnp.asarray(bounds), PRECISION)).astype(np.int64)
    assert (np.diff(edges, axis=1) > 0).all() and (edges[:, 0] == 0).all()
    np.testing.assert_array_equal(edges[:, -1], np.asarray(interval.mantissa))


@few
@hypothesis.given(st.integers(0, 2**32 - 1), st.data())
def test_share_is_exact(mantissa, data):
    precision = data.draw(st.integers(cdf.FEWEST, cdf.MOST))
    bound = data.draw(st.integers(0, 2**precision))
    got = arithmetic.share(jnp.uint32(mantissa), jnp.uint32(bound), precision)
    assert int(got) == mantissa * bound >> precision


# ---- counts ----


@few
@hypothesis.given(st.integers(0, 2**32), st.sampled_from([0.001, 0.1, 10.0]), st.integers(cdf.FEWEST, cdf.MOST))
def test_counts_are_positive_and_sum_to_the_total(seed, spread, precision):
    counts = cdf.quantise(np.random.default_rng(seed).dirichlet(np.full(256, spread)), precision)
    assert counts.min() >= 1 and counts.sum() == 1 << precision


def test_a_certain_symbol_gets_all_that_is_left():
    counts = cdf.quantise(np.eye(256)[3])
    assert counts[3] == (1 << cdf.PRECISION) - 255 and np.delete(counts, 3).tolist() == [1] * 255


def test_counts_of_logits_are_those_of_their_probabilities():
    logits = np.random.default_rng(0).normal(size=(32, 256)).astype(np.float32) * 4
    counts = np.asarray(jax.jit(cdf.quantise_logits)(logits)).astype(np.int64)
    probabilities = np.exp(logits.astype(np.float64))
    expected = cdf.quantise(probabilities / probabilities.sum(axis=1, keepdims=True)).astype(np.int64)
    chex.assert_trees_all_close(counts, expected, atol=4)  # float32 against float64 moves a floor; the best takes it
    assert counts.min() >= 1 and (counts.sum(axis=1) == 1 << cdf.PRECISION).all()
    masked = cdf.quantise_logits(jnp.asarray(np.append(logits[0], -np.inf)))
    assert int(masked[-1]) == 1
