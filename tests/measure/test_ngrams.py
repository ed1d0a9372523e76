"""n-grams stay within sequences, and the language model is a distribution in every context."""

import collections
import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokjax.core.errors import SourceError, SpecError, TokenizerError
from tokjax.measure.ngrams import fit_ngram, ngram_counts, ngrams, perplexity, row_labels
from tokjax.measure.sequences import shuffled

STREAM = st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=12), min_size=1, max_size=6)


def test_ngrams_do_not_cross():
    rows = [[1, 2, 3], [4], [5, 6]]
    assert ngrams(rows, 2).tolist() == [[1, 2], [2, 3], [5, 6]]
    assert ngrams(rows, 3).tolist() == [[1, 2, 3]]
    assert ngrams(rows, 1).ravel().tolist() == [1, 2, 3, 4, 5, 6]


@given(STREAM, st.integers(1, 4))
def test_counts_are_those_of_a_dictionary(rows, n):
    expected = collections.Counter(tuple(row[i : i + n]) for row in rows for i in range(len(row) - n + 1))
    if not expected:
        with pytest.raises(SourceError, match=f"No sequence has {n} tokens"):
            ngram_counts(rows, n)
    else:
        assert ngram_counts(rows, n).tolist() == sorted(expected.values(), reverse=True)


def test_labels_of_long_rows_of_large_ids_do_not_overflow():
    rows = np.random.default_rng(0).integers(0, 1 << 62, (50, 30))
    assert sorted(row_labels(np.concatenate([rows, rows]))) == sorted([*range(50), *range(50)])


@given(STREAM, st.integers(1, 4), st.lists(st.integers(0, 5), max_size=5))
def test_probabilities_sum_to_one_after_anything(rows, order, context):
    model = fit_ngram(rows, order, 6)  # token 5 never occurs
    found = model.next_probabilities(np.array(context, np.int64))
    assert found.sum() == pytest.approx(1.0, abs=1e-12)
    assert (found > 0).all()


@given(STREAM, st.integers(1, 4))
def test_scoring_a_sequence_is_predicting_each_of_its_tokens(rows, order):
    model, sequence = fit_ngram(rows, order, 6), np.array(rows[0])
    expected = [math.log(model.next_probabilities(sequence[:i])[token]) for i, token in enumerate(sequence)]
    np.testing.assert_allclose(model.log_probabilities(sequence), expected, rtol=1e-12)


def reference(rows, order, vocab_size):
    """Kneser and Ney's probability by its definition, with dictionaries."""
    padded = [[vocab_size] * (order - 1) + list(row) for row in rows]
    grams = collections.Counter(tuple(row[i - order + 1 : i + 1]) for row in padded for i in range(order - 1, len(row)))
    tables = {order: grams}
    for n in range(order - 1, 0, -1):
        tables[n] = collections.Counter(gram[1:] for gram in tables[n + 1])

    def probability(context, token):
        shorter = probability(context[1:], token) if context else 1 / vocab_size
        table = tables[len(context) + 1]
        once, twice = (sum(c == k for c in table.values()) for k in (1, 2))
        discount = min(max(once / max(once + 2 * twice, 1), 0.02), 0.98)
        here = {gram: c for gram, c in table.items() if gram[:-1] == context}
        if not here:
            return shorter
        count, total = here.get((*context, token), 0), sum(here.values())
        return (max(count - discount, 0) + discount * len(here) * shorter) / total

    return probability


@pytest.mark.parametrize("order", [1, 2, 3])
def test_it_is_kneser_and_neys(order):
    rows = np.random.default_rng(order).integers(0, 4, (5, 12)).tolist()
    model, expected = fit_ngram(rows, order, 5), reference(rows, order, 5)
    for context in itertools.product(range(5), repeat=order - 1):
        found = model.next_probabilities(np.array(context, np.int64))
        np.testing.assert_allclose(found, [expected(context, token) for token in range(5)], rtol=1e-12)


def test_perplexity_of_known_sources():
    tokens = np.random.default_rng(0).integers(0, 32, 40_000)
    assert perplexity(fit_ngram(tokens[:30_000], 1, 32), tokens[30_000:]) == pytest.approx(32, rel=0.01)
    cycle = np.arange(4000) % 7
    assert perplexity(fit_ngram(cycle[:3000], 2, 7), cycle[3000:]) == pytest.approx(1.0, abs=0.05)
    assert perplexity(fit_ngram(shuffled(cycle, 0), 2, 7), shuffled(cycle, 1)) == pytest.approx(7.0, rel=0.02)


def test_a_longer_context_helps_where_there_is_one():
    """Each token is the sum of the two before it, or noise."""
    generator, stream = np.random.default_rng(0), [1, 2]
    for _ in range(20_000):
        stream.append(int(generator.integers(10)) if generator.random() < 0.2 else (stream[-1] + stream[-2]) % 10)
    train, test = np.array(stream[:18_000]), np.array(stream[18_000:])
    found = [perplexity(fit_ngram(train, order, 10), test) for order in (1, 2, 3, 4)]
    bits = -(0.82 * math.log(0.82) + 0.18 * math.log(0.02))
    assert found[2] == pytest.approx(math.exp(bits), rel=0.05)
    assert found[0] > 9 and found[1] > 9 and found[3] < found[1]


def test_errors():
    with pytest.raises(SpecError, match="order: got 0"):
        fit_ngram([1, 2], 0, 4)
    with pytest.raises(SpecError, match="n: got 0"):
        ngrams([1, 2], 0)
    with pytest.raises(TokenizerError, match="not below the vocabulary of 4"):
        fit_ngram([1, 4], 2, 4)
    with pytest.raises(TokenizerError, match="fit it with more"):
        perplexity(fit_ngram([1, 2], 2, 4), [9])
