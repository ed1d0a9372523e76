"""Ciphers read by a language model of trigrams, against all keys one by one."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokjax.core.errors import SpecError
from tokjax.measure.decipher import encipher, key_accuracy
from tokjax.measure.key_posterior import _anneal_one, _table, read_by_bayes
from tokjax.measure.ngrams import fit_ngram

ALPHABET = np.array([3, 5, 6, 9])
V = 12


def language(seed, rows, length):
    """Texts of a chain of second order over ALPHABET."""
    chances = np.random.default_rng(0).dirichlet(np.full(4, 0.3), size=(4, 4))
    generator = np.random.default_rng(seed)
    texts = []
    for _ in range(rows):
        text = [0, 1]
        while len(text) < length:
            text.append(generator.choice(4, p=chances[text[-2], text[-1]]))
        texts.append(ALPHABET[text])
    return np.stack(texts)


MODEL = fit_ngram(language(1, 20, 200), 3, V)


def by_all_keys(text):
    """The log of the mean probability over all 24 keys, and the chance of each letter for each symbol."""
    keys = [dict(zip(ALPHABET, key, strict=True)) for key in itertools.permutations(ALPHABET)]
    # The model's probabilities within the alphabet, one symbol at a time.
    logs = []
    for key in keys:
        plain, total = np.array([key[symbol] for symbol in text]), 0.0
        for i, letter in enumerate(plain):
            p = MODEL.next_probabilities(plain[max(i - 2, 0) : i])
            total += np.log(p[letter] / p[ALPHABET].sum())
        logs.append(total)
    weights = np.exp(np.array(logs) - max(logs))
    chances = np.zeros((4, 4))
    for key, weight in zip(keys, weights, strict=True):
        for i, symbol in enumerate(ALPHABET):
            chances[i, np.searchsorted(ALPHABET, key[symbol])] += weight / weights.sum()
    return max(logs) + np.log(weights.mean()), chances


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**31 - 1), st.sampled_from([1, 4, 12]))
def test_means_over_keys_are_those_of_all_keys(seed, length):
    text = encipher(language(seed, 1, 12)[:, :length], ALPHABET, seed=seed)[0]
    wanted, chances = by_all_keys(text)
    read = jax.jit(lambda *of: _anneal_one(*of, table=_table(MODEL, ALPHABET), keys=2048, temperatures=20))
    found, total = read(jnp.asarray(np.searchsorted(ALPHABET, text), jnp.int32), jax.random.key(seed))
    # Of 2,048 keys, many of them copies at last: standard errors are a few hundredths.
    np.testing.assert_allclose(total, wanted, atol=0.1)
    np.testing.assert_allclose(found, chances, atol=0.08)


def test_long_texts_give_their_keys_and_then_cost_what_they_do_with_them():
    texts, lengths = language(2, 3, 100), (1, 50, 100)
    found, costs = read_by_bayes(texts, MODEL, ALPHABET, lengths=lengths, seed=4, temperatures=40)
    assert key_accuracy(found) == 1.0
    for text, plain, coded in zip(found, texts, encipher(texts, ALPHABET, seed=4), strict=True):
        np.testing.assert_array_equal(text.plain, plain)
        np.testing.assert_array_equal(text.coded, coded)
        np.testing.assert_array_equal(text.read, text.guessed)
    secret = encipher(texts, ALPHABET, seed=9)
    again, _ = read_by_bayes(secret, MODEL, ALPHABET, seed=4, temperatures=40)
    np.testing.assert_array_equal([text.read for text in again], texts)
    np.testing.assert_allclose(costs[:, 0], np.log(4), atol=0.2)  # by 64 keys, a share of 1/4 +- 0.05
    known = -np.cumsum([MODEL.log_probabilities(text) for text in texts], axis=1)
    later = known[:, 99] - known[:, 49]
    np.testing.assert_allclose(costs[:, 2] - costs[:, 1], later, rtol=0.05)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": fit_ngram([np.arange(V)], 2, V)}, "model: got 2; use an n-gram model of order 3"),
        ({"alphabet": np.arange(300)}, "alphabet: got 300; use 1 to 256 symbols"),
        ({"alphabet": np.array([3, 6, 5, 9])}, r"alphabet: got \[3, 6, 5, 9\]; sort it, each symbol once"),
        ({"alphabet": np.array([3, 5, 5, 6, 9])}, r"alphabet: got \[3, 5, 5, 6, 9\]; sort it, each symbol once"),
        ({"alphabet": np.array([3, 5, 6, 9, 12])}, "alphabet: got 12; the model knows ids below 12"),
        ({"texts": np.array([3, 5])}, r"texts: got \(2,\); use \[N, T\]"),
        ({"texts": np.zeros((0, 4), int)}, r"texts: got \(0, 4\); use \[N, T\]"),
        ({"keys": 0}, "keys: got 0; use at least 1"),
        ({"temperatures": 0}, "temperatures: got 0; use at least 1"),
        ({"lengths": (0, 4)}, r"lengths: got \(0, 4\); texts have 5 symbols"),
        ({"lengths": (6,)}, r"lengths: got \(6,\); texts have 5 symbols"),
        ({"texts": np.array([[3, 4, 5, 6, 7]])}, r"texts: got \[4, 7\]; all their symbols have to be in the alphabet"),
    ],
)
def test_what_cannot_be_read_is_an_error(given, message):
    arguments = {"texts": language(0, 1, 5), "model": MODEL, "alphabet": ALPHABET, "lengths": (), "seed": 0} | given
    with pytest.raises(SpecError, match=message):
        read_by_bayes(**arguments)
