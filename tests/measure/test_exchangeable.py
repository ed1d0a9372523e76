"""The reference for texts of an unknown alphabet, against sums over all alphabets and all continuations."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokjax.core.errors import SpecError
from tokjax.measure.exchangeable import Restaurant, fit_restaurant

ids = st.lists(st.integers(0, 4), max_size=12).map(lambda x: np.array(x, np.int64))
rules = st.builds(Restaurant, st.floats(0, 0.95), st.floats(0.01, 50))


@given(ids, rules)
def test_probabilities_of_the_next_symbol_sum_to_one(text, rule):
    following = [np.exp(-rule.nll(np.append(text, symbol), 5)[-1]) for symbol in range(5)]
    np.testing.assert_allclose(sum(following), 1.0, rtol=1e-9)


@given(ids, rules, st.permutations(range(5)))
def test_names_do_not_matter(text, rule, names):
    np.testing.assert_array_equal(rule.nll(text, 5), rule.nll(np.array(names)[text], 5))


@given(ids, rules)
def test_order_matters_only_by_rounding(text, rule):
    """An exchangeable rule gives a text and its reverse the same probability, while not all symbols are seen."""
    if len(set(text.tolist())) < 5:
        np.testing.assert_allclose(rule.nll(text, 5).sum(), rule.nll(text[::-1], 5).sum(), rtol=1e-9, atol=1e-9)


def test_the_first_symbol_costs_log_of_the_vocabulary():
    np.testing.assert_allclose(Restaurant(0.3, 2.0).nll(np.array([3]), 100), [np.log(100)])


def test_all_texts_of_a_length_sum_to_one():
    rule = Restaurant(0.4, 1.5)
    total = sum(np.exp(-rule.nll(np.array(text), 3).sum()) for text in itertools.product(range(3), repeat=5))
    np.testing.assert_allclose(total, 1.0)


def test_fitting_finds_what_made_the_texts():
    generator, true = np.random.default_rng(0), Restaurant(0.0, 8.0)
    texts = []
    for _ in range(20):
        text = np.zeros(0, np.int64)
        for _ in range(150):
            seen = np.unique(text)
            candidates = np.append(seen, len(seen))  # ids are given in the order of their first use
            chances = np.exp([-true.nll(np.append(text, symbol), 200)[-1] for symbol in candidates])
            chances[-1] *= 200 - len(seen)
            text = np.append(text, generator.choice(candidates, p=chances))
        texts.append(text)
    found = fit_restaurant(texts, 200)
    assert found.discount <= 0.2 and 4 <= found.strength <= 16


def test_impossible_rules_are_refused():
    with pytest.raises(SpecError, match="discount"):
        Restaurant(1.0, 1.0)
    with pytest.raises(SpecError, match="strength"):
        Restaurant(0.5, -0.5)
