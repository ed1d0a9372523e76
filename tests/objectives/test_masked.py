"""The cost of a masked word: closed forms, and what must not count."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from tokjax.data.word_rows import WordBatch
from tokjax.objectives.masked import metrics, score_words

V, P = 7, 3


def batch_of(targets, counts):
    """A batch with nothing but targets, one row."""
    zero = jnp.zeros((1, 1), jnp.int32)
    return WordBatch(
        word_bytes=zero, lengths=zero, segment_ids=zero, pieces=zero, piece_segment_ids=zero, first_piece=zero,
        at=jnp.zeros((1, len(counts)), jnp.int32), targets=jnp.array([targets], jnp.int32),
        target_counts=jnp.array([counts], jnp.int32),
    )  # fmt: skip


def logits_of(symbols, words=2, seed=0):
    return jax.random.normal(jax.random.key(seed), (1, words, P, symbols))


def test_equal_logits_cost_the_uniform():
    """log V for each of the first P pieces; with an end, log 2 odds at V = 1 symbol against it: log (V + 1) in all."""
    batch = batch_of([[1, 2, 0], [3, 4, 5]], [2, 5])
    told = score_words(jnp.zeros((1, 2, P, V)), batch, V)
    np.testing.assert_allclose(told.piece_nll, [[2 * np.log(V), 3 * np.log(V)]], rtol=1e-6)
    np.testing.assert_array_equal(told.count_nll, [[0.0, 0.0]])
    alone = score_words(jnp.zeros((1, 2, P, V + 1)), batch, V)
    total = alone.piece_nll + alone.count_nll
    np.testing.assert_allclose(total, [[3 * np.log(V + 1), 3 * np.log(V + 1)]], rtol=1e-6)  # two pieces and their end


@given(seed=st.integers(0, 50), count=st.integers(1, 6))
def test_the_parts_are_the_softmax_over_pieces_and_end(seed, count):
    """Pieces and count cost together what a softmax over V + 1 symbols gives to the pieces and then the end."""
    targets = [1, 4, 6][: min(count, P)] + [0] * (P - count)
    logits = logits_of(V + 1, words=1, seed=seed)
    scores = score_words(logits, batch_of([targets], [count]), V)
    log_p = jax.nn.log_softmax(logits[0, 0], axis=-1)
    symbols = targets[: min(count, P)] + [V] * (count < P)
    expected = -sum(log_p[place, symbol] for place, symbol in enumerate(symbols))
    np.testing.assert_allclose(scores.piece_nll[0, 0] + scores.count_nll[0, 0], expected, rtol=1e-4)


@pytest.mark.parametrize("symbols", [V, V + 1])
def test_slots_without_a_word_and_places_after_it_cost_nothing(symbols):
    batch = batch_of([[1, 2, 0], [0, 0, 0]], [2, 0])
    logits = logits_of(symbols)

    def loss(logits):
        scores = score_words(logits, batch, V)
        return jnp.sum(scores.piece_nll + scores.count_nll)

    gradient = jax.grad(loss)(logits)
    assert jnp.any(gradient[0, 0, :2] != 0) and not jnp.any(gradient[0, 1])
    assert bool(jnp.any(gradient[0, 0, 2, V:])) == (symbols > V)  # the end alone is told at the place after the word
    scores = score_words(logits, batch, V)
    assert scores.words.tolist() == [[1.0, 0.0]]
    assert float(metrics(scores)["loss"][1]) == 1.0


def test_a_word_is_right_when_every_piece_is():
    """The end is no piece: predicting it too early costs, but does not make the pieces wrong."""
    batch = batch_of([[1, 2, 0], [1, 2, 0]], [2, 2])
    logits = jnp.zeros((1, 2, P, V + 1)).at[0, :, 0, 1].set(3.0).at[0, 0, 1, 2].set(3.0).at[..., V].set(9.0)
    logits = logits.at[0, 1, 1, 5].set(3.0)
    scores = score_words(logits, batch, V)
    assert scores.correct.tolist() == [[1.0, 0.0]]
    assert (scores.count_nll > 10).all()


def test_metrics_merge():
    """(sum, count) of two batches add up to those of both together."""
    one, other = batch_of([[1, 2, 0]], [2]), batch_of([[3, 0, 0]], [1])
    both = batch_of([[1, 2, 0], [3, 0, 0]], [2, 1])
    logits = logits_of(V + 1)
    parts = [metrics(score_words(logits[:, i : i + 1], b, V)) for i, b in enumerate((one, other))]
    for name, (total, count) in metrics(score_words(logits, both, V)).items():
        np.testing.assert_allclose(total, parts[0][name][0] + parts[1][name][0], rtol=1e-6)
        assert count == parts[0][name][1] + parts[1][name][1] == 2
