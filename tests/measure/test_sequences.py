"""Streams are checked, whatever form they come in."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from tokjax.core.errors import SourceError, SpecError, TokenizerError
from tokjax.measure.sequences import checked_counts, flat, held_out, sequences, shuffled, type_counts


def as_lists(rows):
    return [row.tolist() for row in rows]


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([1, 2, 2], [[1, 2, 2]]),
        (np.arange(4, dtype=np.uint8).reshape(2, 2), [[0, 1], [2, 3]]),
        (np.zeros((2, 1, 3), np.int32), [[0, 0, 0], [0, 0, 0]]),
        (jnp.arange(3), [[0, 1, 2]]),
        ([np.array([5]), np.array([], np.int64), [6, 7]], [[5], [6, 7]]),
    ],
)
def test_forms(tokens, expected):
    rows = sequences(tokens)
    assert as_lists(rows) == expected
    assert all(row.dtype == np.int64 for row in rows)
    assert flat(tokens).tolist() == list(itertools.chain(*expected))


@pytest.mark.parametrize("tokens", [[], [[]], np.zeros((0, 4), int), np.zeros((4, 0), int), [np.zeros(0, int)]])
def test_no_token(tokens):
    with pytest.raises(SourceError, match="encode at least one document or image"):
        sequences(tokens)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (np.array([0.0, 1.0]), "float64; pass integers"),
        (np.array([True]), "bool; pass integers"),
        ([3, -1], "-1 is negative; leave padding out"),
        ([3, 8], "8 is not below the vocabulary of 8"),
        ([np.zeros((2, 2), int)], "not flat"),
    ],
)
def test_impossible_ids(tokens, message):
    with pytest.raises(TokenizerError, match=message):
        sequences(tokens, 8)


def test_counts_fall():
    assert type_counts([[3, 1, 3], [3, 1, 7]]).tolist() == [3, 2, 1]
    assert checked_counts([2, 1]).tolist() == [2, 1]
    for bad, error in (([], SourceError), ([0, 1], TokenizerError), ([1.5], TokenizerError)):
        with pytest.raises(error):
            checked_counts(bad)


def test_a_shuffle_keeps_tokens_and_lengths():
    rows = [np.arange(5), np.arange(5, 7), np.arange(7, 30)]
    mixed = shuffled(rows, seed=3)
    assert list(map(len, mixed)) == [5, 2, 23]
    assert sorted(np.concatenate(mixed)) == list(range(30))
    assert as_lists(mixed) == as_lists(shuffled(rows, seed=3)) != as_lists(shuffled(rows, seed=4))


def test_the_last_are_held_out():
    first, last = held_out(np.arange(20).reshape(10, 2), 0.2)
    assert as_lists(first)[-1] == [14, 15] and as_lists(last) == [[16, 17], [18, 19]]
    assert as_lists(held_out(np.arange(4), 0.25)[1]) == [[3]]
    with pytest.raises(SpecError, match="share: got"):
        held_out(np.arange(4), 0.1)
