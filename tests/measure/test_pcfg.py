"""The inside algorithm is the sum over all trees, its gradient their expected counts, and learning never gets worse."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokjax.core.errors import SourceError, SpecError, TokenizerError
from tokjax.measure import pcfg
from tokjax.measure.ngrams import fit_ngram, perplexity
from tokjax.measure.pcfg import (
    Grammar,
    expected_counts,
    fit_pcfg,
    init_grammar,
    log_lengths,
    pcfg_perplexity,
)

N, P, V = 2, 2, 3
log_likelihood = jax.jit(pcfg.log_likelihood)
GRAMMAR = init_grammar(jax.random.key(0), N, P, V)


def trees(symbol, start, stop):
    """Yields every tree of a symbol over tokens, as a list of what it uses: (A, B, C), or (preterminal, place)."""
    if symbol >= N:
        if stop - start == 1:
            yield [(symbol - N, start)]
        return
    for middle in range(start + 1, stop):
        for left, right in itertools.product(range(N + P), repeat=2):
            for first in trees(left, start, middle):
                for second in trees(right, middle, stop):
                    yield [(symbol, left, right), *first, *second]


def enumerate_all(grammar, sentence):
    """The probability of a sentence and the expected counts of rules, from each of its trees, in float64."""
    root, rules, emit = (np.exp(np.asarray(part, np.float64)) for part in grammar)
    total, counts = 0.0, [np.zeros(part.shape) for part in grammar]
    for top in range(N):
        for tree in trees(top, 0, len(sentence)):
            uses = [(1, use) if len(use) == 3 else (2, (use[0], sentence[use[1]])) for use in tree]
            probability = root[top] * math.prod((rules if kind == 1 else emit)[use] for kind, use in uses)
            total += probability
            counts[0][top] += probability
            for kind, use in uses:
                counts[kind][use] += probability
    return total, [count / total for count in counts]


def padded(rows, count=8):
    """Ids [count, 8] and lengths [count]: one shape, to compile once. Padding is a token like others."""
    ids, lengths = np.ones((count, 8), np.int32), np.zeros(count, np.int32)
    for row, sentence in enumerate(rows):
        ids[row, : len(sentence)], lengths[row] = sentence, len(sentence)
    return jnp.asarray(ids), jnp.asarray(lengths)


@pytest.mark.parametrize("length", [2, 3, 4, 5, 6])
def test_inside_and_its_gradient_are_the_enumeration_of_all_trees(length):
    sentence = np.random.default_rng(length).integers(0, V, length).tolist()
    expected, counts = enumerate_all(GRAMMAR, sentence)
    nats, found = expected_counts(GRAMMAR, *padded([sentence]))
    assert float(nats) == pytest.approx(math.log(expected), abs=1e-5)
    for ours, theirs in zip(found, counts, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)  # float32, with values up to 6


def test_counts_add_up():
    """Every tree has one root, a pair fewer than tokens, and each token once."""
    rows = [[0, 1, 2, 0, 1], [2, 2], [1, 0, 2]]
    _, counts = expected_counts(GRAMMAR, *padded(rows))
    assert float(counts.root.sum()) == pytest.approx(3, abs=1e-4)
    assert float(counts.rules.sum()) == pytest.approx(4 + 1 + 2, abs=1e-4)
    np.testing.assert_allclose(counts.emit.sum(axis=0), [3, 3, 4], atol=1e-4)


def test_ragged_sentences_in_a_batch_are_those_alone():
    rows = [[0, 1, 2, 0, 1, 1, 2], [2, 2], [1, 0, 2]]
    together = log_likelihood(GRAMMAR, *padded(rows))
    alone = [log_likelihood(GRAMMAR, *padded([row]))[0] for row in rows]
    np.testing.assert_allclose(together[:3], alone, rtol=1e-6)
    short = log_likelihood(GRAMMAR, jnp.asarray([rows[2]]), jnp.asarray([3]))  # no padding at all
    np.testing.assert_allclose(short[0], alone[2], rtol=1e-6)
    assert log_likelihood(GRAMMAR, *padded([[1]]))[0] == -jnp.inf


def test_sentences_of_one_length_have_its_probability():
    """Over all sentences, that is; and a grammar that gives every length some leaves at most 1 for all."""
    lengths = np.exp(np.asarray(log_lengths(GRAMMAR, 6), np.float64))
    assert lengths[0] == 0 and lengths.sum() <= 1
    for length in (2, 3, 5):
        every = list(itertools.product(range(V), repeat=length))
        nats = log_likelihood(GRAMMAR, *padded(every, V**5))[: len(every)]
        assert np.exp(np.asarray(nats, np.float64)).sum() == pytest.approx(lengths[length - 1], rel=1e-5)


def palindromes():
    """A sure grammar of w w^R over two tokens: S -> a A | b B | a a | b b, A -> S a, B -> S b."""
    rules = np.full((3, 5, 5), -np.inf)
    rules[0, [3, 4, 3, 4], [1, 2, 3, 4]] = np.log(0.25)
    rules[[1, 2], [0, 0], [3, 4]] = 0.0
    emit = np.where(np.eye(2), 0.0, -np.inf)
    return Grammar(jnp.asarray([0.0, -np.inf, -np.inf]), jnp.asarray(rules), jnp.asarray(emit))


def test_impossible_rules():
    rows = [[0, 0], [0, 1, 1, 0], [1, 0, 0, 0, 0, 1], [0, 1], [0, 0, 1, 1]]
    grammar = palindromes()
    nats = log_likelihood(grammar, *padded(rows))[: len(rows)]
    np.testing.assert_allclose(np.exp(nats), [1 / 4, 1 / 16, 1 / 64, 0, 0], atol=1e-7)
    total, counts = expected_counts(grammar, *padded(rows[:3]))
    assert float(total) == pytest.approx(-6 * math.log(4), rel=1e-6)
    assert all(np.isfinite(part).all() for part in counts)
    assert float(counts.rules[0].sum()) == pytest.approx(6, abs=1e-5)
    _, impossible = expected_counts(grammar, *padded(rows[3:]))
    assert all(not np.asarray(part).any() for part in impossible)


def test_long_sentences_stay_finite():
    ids = jax.random.randint(jax.random.key(1), (2, 80), 0, V)
    nats, counts = expected_counts(GRAMMAR, ids, jnp.asarray([80, 64]))
    assert jnp.isfinite(nats) and nats < -100
    assert float(counts.emit.sum()) == pytest.approx(144, rel=1e-4)


def test_expectation_maximisation_never_falls():
    rows = [np.random.default_rng(seed).integers(0, V, 2 + seed % 6) for seed in range(40)]
    _, history = fit_pcfg(jax.random.key(0), rows, 2, 3, V, 12, prior=0.0)
    assert (np.diff(history) > -1e-5).all()  # float32
    assert history[-1] > history[0]


def test_structure_is_learned_that_no_short_context_has():
    """Of nested pairs, the last token is known from the first."""
    generator = np.random.default_rng(0)
    halves = [generator.integers(0, 2, generator.integers(1, 4)) for _ in range(300)]
    rows = [np.concatenate([half, half[::-1]]) for half in halves]
    grammar, _ = fit_pcfg(jax.random.key(0), rows[:200], 4, 2, 2, 45, prior=0.1)  # one of the keys that find it
    found = pcfg_perplexity(grammar, rows[200:])
    assert found < 1.5 < perplexity(fit_ngram(rows[:200], 3, 2), rows[200:])  # half of all tokens are free: 1.41
    assert pcfg_perplexity(grammar, rows[200:], given_length=False) > found
    for part in (grammar.root, grammar.rules.reshape(4, -1), grammar.emit):
        np.testing.assert_allclose(np.exp(part).sum(axis=-1), 1.0, rtol=1e-5)


def test_one_symbol_of_each_kind_is_a_unigram():
    """Given its length, a sentence of such a grammar is independent tokens."""
    rows = [np.random.default_rng(seed).choice(4, 6, p=[0.1, 0.2, 0.3, 0.4]) for seed in range(60)]
    grammar, _ = fit_pcfg(jax.random.key(0), rows, 1, 1, 4, 2, prior=0.0)
    shares = np.bincount(np.concatenate(rows), minlength=4) / 360
    np.testing.assert_allclose(np.exp(grammar.emit[0]), shares, rtol=1e-5)
    assert pcfg_perplexity(grammar, rows) == pytest.approx(math.exp(-shares @ np.log(shares)), rel=1e-4)


def test_errors():
    key = jax.random.key(0)
    with pytest.raises(SourceError, match="at least one"):
        fit_pcfg(key, [], 2, 2, 3, 1)
    with pytest.raises(SourceError, match="one token has no tree"):
        fit_pcfg(key, [[1], [1, 2]], 2, 2, 3, 1)
    with pytest.raises(TokenizerError, match="not below the vocabulary of 3"):
        fit_pcfg(key, [[1, 3]], 2, 2, 3, 1)
    with pytest.raises(SpecError, match="nonterminals: got 0"):
        fit_pcfg(key, [[1, 2]], 0, 2, 3, 1)
    with pytest.raises(SpecError, match="steps: got 0"):
        fit_pcfg(key, [[1, 2]], 2, 2, 3, 0)
