"""Probabilistic context-free grammars: the exact inside algorithm, and their induction from sequences of tokens.

A start symbol becomes a nonterminal A, A becomes B C, each a nonterminal or a preterminal, and a preterminal becomes a
token. The inside algorithm sums over all trees; its gradient counts how often they use each rule, and the
gradient is what expectation-maximisation needs.

Sources: Lari & Young 1990 (inside-outside); Eisner 2016 (the outside algorithm is backpropagation); Kim et al. 2019
(the form of the rules).

Letters: `B` sentences, `T` tokens of the longest, `N` nonterminals, `P` preterminals, `S` = N + P, `V` vocabulary.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tokjax.core.errors import NumericsError, SourceError
from tokjax.core.keys import named
from tokjax.core.spec import check
from tokjax.measure.sequences import Tokens, sequences

_ROWS = 32  # sentences in one compiled call


class Grammar(NamedTuple):
    """Log-probabilities, nats, or expected counts, of rules.

    Attributes:
      root: float32 [N], of the nonterminal that the start symbol becomes.
      rules: float32 [N, S, S], of a pair that a nonterminal becomes; nonterminals come first in S.
      emit: float32 [P, V], of the token that a preterminal becomes.
    """

    root: jax.Array
    rules: jax.Array
    emit: jax.Array


def init_grammar(key: jax.Array, nonterminals: int, preterminals: int, vocab_size: int) -> Grammar:
    """Returns a random grammar, the softmax of standard normal scores, in which no two symbols are alike.

    Raises:
      SpecError: a size below 1.
    """
    for name, size in (("nonterminals", nonterminals), ("preterminals", preterminals), ("vocab_size", vocab_size)):
        check(size >= 1, name, size, "use at least 1.")
    symbols = nonterminals + preterminals
    shapes = {"root": (nonterminals,), "rules": (nonterminals, symbols, symbols), "emit": (preterminals, vocab_size)}
    return _normalised(Grammar(**{name: jax.random.normal(named(key, name), shape) for name, shape in shapes.items()}))


def _normalised(scores: Grammar) -> Grammar:
    """Log-probabilities that are proportional to exp(scores)."""
    pairs = scores.rules.reshape(len(scores.root), -1)
    return Grammar(
        root=jax.nn.log_softmax(scores.root),
        rules=jax.nn.log_softmax(pairs).reshape(scores.rules.shape),
        emit=jax.nn.log_softmax(scores.emit),
    )


def log_likelihood(grammar: Grammar, sentences: jax.Array, lengths: jax.Array) -> jax.Array:
    """Returns the log-probability of each sentence, summed over all of its trees, float32 [B] nats.

    Memory is that of a few charts, B T^2 S, for the gradient as well. A symbol that is less probable than e^-87 times
    the most probable one over the same tokens counts as impossible there.

    Args:
      grammar: log-probabilities; -inf for a rule that there is not.
      sentences: int32 [B, T], anything beyond a sentence's end.
      lengths: int32 [B], 2 to T; a sentence of one token has no tree and -inf.
    """

    def one(ids: jax.Array, length: jax.Array) -> jax.Array:
        return _prefixes(grammar, grammar.emit[:, ids].T)[length - 1]

    return jax.vmap(one)(sentences, lengths)


def _prefixes(grammar: Grammar, emitted: jax.Array) -> jax.Array:
    """Log-probabilities of the first 1, 2, ... T tokens as sentences, [T], from those of tokens for symbols [T, P]."""
    whole = _inside(grammar.rules, emitted)[:, 0, : len(grammar.root)]
    return _log_sum(whole + grammar.root)


def _log_sum(x: jax.Array) -> jax.Array:
    """log sum exp over the last axis; where all are -inf, that, and a gradient of 0 instead of none."""
    largest = _finite_max(x)
    return _log(jnp.sum(jnp.exp(x - largest[..., None]), axis=-1)) + largest


def _log(x: jax.Array) -> jax.Array:
    return jnp.where(x > 0, jnp.log(jnp.where(x > 0, x, 1.0)), -jnp.inf)


def _finite_max(x: jax.Array) -> jax.Array:
    largest = jax.lax.stop_gradient(jnp.max(x, axis=-1))
    return jnp.where(jnp.isfinite(largest), largest, 0.0)


def _span(rules: jax.Array, chart: jax.Array, width: jax.Array) -> jax.Array:
    """Log-probabilities of each nonterminal for the spans of `width` tokens from each start, [T, N].

    Reads only shorter spans of `chart` [T, T, S], which is by width - 1, start and symbol. Spans beyond the end hold
    values that no span within it reads.
    """
    most = chart.shape[0]
    split = jnp.arange(most)[:, None]  # tokens of the left part, less 1
    start = jnp.arange(most)
    left = chart
    right = chart[jnp.clip(width - 2 - split, 0), jnp.minimum(start + split + 1, most - 1)]
    left_max, right_max = _finite_max(left), _finite_max(right)
    both = jnp.where(split < width - 1, left_max + right_max, -jnp.inf)  # [T, T]
    largest = _finite_max(both.T)
    weight = jnp.exp(both - largest)
    left, right = jnp.exp(left - left_max[..., None]), jnp.exp(right - right_max[..., None])
    # The highest precision, because accelerators would round factors to fewer bits.
    pairs = jnp.einsum("ki,kib,kic->ibc", weight, left, right, precision="highest")
    return _log(jnp.einsum("abc,ibc->ia", jnp.exp(rules), pairs, precision="highest")) + largest[:, None]


def _fill(rules: jax.Array, emitted: jax.Array) -> jax.Array:
    most, (nonterminals, symbols, _) = len(emitted), rules.shape
    chart = jnp.full((most, most, symbols), -jnp.inf, emitted.dtype).at[0, :, nonterminals:].set(emitted)

    def widen(chart: jax.Array, width: jax.Array) -> tuple[jax.Array, None]:
        return chart.at[width - 1, :, :nonterminals].set(_span(rules, chart, width)), None

    return jax.lax.scan(widen, chart, jnp.arange(2, most + 1))[0]


@jax.custom_vjp
def _inside(rules: jax.Array, emitted: jax.Array) -> jax.Array:
    """Returns the chart [T, T, S] by width - 1, start and symbol.

    The gradient is written out because that of a scan would keep a chart for every width.
    """
    return _fill(rules, emitted)


def _inside_forward(rules: jax.Array, emitted: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    chart = _fill(rules, emitted)
    return chart, (rules, chart)


def _inside_backward(saved: tuple[jax.Array, jax.Array], outside: jax.Array) -> tuple[jax.Array, jax.Array]:
    rules, chart = saved
    most, nonterminals = len(chart), len(rules)

    def narrow(carry: tuple[jax.Array, jax.Array], width: jax.Array) -> tuple[tuple[jax.Array, jax.Array], None]:
        counts, outside = carry
        # A step reads only shorter spans, so the finished chart gives what it read.
        _, pull = jax.vjp(lambda rules, chart: _span(rules, chart, width), rules, chart)
        more, wider = pull(outside[width - 1, :, :nonterminals])
        return (counts + more, outside + wider), None

    widths = jnp.arange(2, most + 1)
    (counts, outside), _ = jax.lax.scan(narrow, (jnp.zeros_like(rules), outside), widths, reverse=True)
    return counts, outside[0, :, nonterminals:]


_inside.defvjp(_inside_forward, _inside_backward)


@jax.jit
def expected_counts(grammar: Grammar, sentences: jax.Array, lengths: jax.Array) -> tuple[jax.Array, Grammar]:
    """Returns the summed log-likelihood, nats, and how often trees of the sentences are expected to use each rule.

    Args:
      grammar: log-probabilities.
      sentences, lengths: as of `log_likelihood`; a sentence of length 0 counts for nothing.
    """

    def total(grammar: Grammar) -> jax.Array:
        nats = log_likelihood(grammar, sentences, jnp.maximum(lengths, 1))
        return jnp.sum(jnp.where(lengths > 0, nats, 0.0))

    return jax.value_and_grad(total)(grammar)


@functools.partial(jax.jit, static_argnums=1)
def log_lengths(grammar: Grammar, longest: int) -> jax.Array:
    """Returns the log-probability that a sentence has 1, 2, ... `longest` tokens, float32 [longest] nats."""
    return _prefixes(grammar, jnp.zeros((longest, len(grammar.emit))))


def fit_pcfg(
    key: jax.Array,
    sentences: Tokens,
    nonterminals: int,
    preterminals: int,
    vocab_size: int,
    steps: int,
    *,
    prior: float = 1.0,
) -> tuple[Grammar, np.ndarray]:
    """Induces a grammar by expectation-maximisation over all sentences in every step.

    Args:
      key: of the first grammar; which optimum is found depends on it.
      sentences: of at least 2 tokens each.
      nonterminals, preterminals, vocab_size: N, P, V.
      steps: of expectation-maximisation.
      prior: expansions that each symbol is taken to have had beforehand, spread evenly, so that none is impossible; 0
        is maximum likelihood.

    Returns:
      The grammar, and before each step the mean nats per token of the likelihood (with a prior of 0 it never falls),
      float64 [steps].

    Raises:
      SourceError, TokenizerError: as of `sequences`; or a sentence of one token.
      SpecError: a size or `steps` below 1, or a negative prior.
      NumericsError: the likelihood became 0 or not a number.
    """
    check(steps >= 1, "steps", steps, "use at least 1.")
    check(prior >= 0, "prior", prior, "use 0 or more.")
    grammar, batches = init_grammar(key, nonterminals, preterminals, vocab_size), _batches(sentences, vocab_size)
    tokens, history = sum(int(lengths.sum()) for _, lengths in batches), np.zeros(steps)
    for step in range(steps):
        found = [expected_counts(grammar, *batch) for batch in batches]
        history[step] = sum(float(nats) for nats, _ in found) / tokens
        if not math.isfinite(history[step]):
            raise NumericsError(f"The likelihood is {history[step]} at step {step}; use a prior above 0.")
        counts = jax.tree.map(lambda *parts: sum(parts), *(counts for _, counts in found))
        grammar = _normalised(jax.tree.map(jnp.log, _with_prior(counts, prior)))
    return grammar, history


def _with_prior(counts: Grammar, prior: float) -> Grammar:
    # A symbol that no tree uses keeps a distribution, the uniform one, also without a prior.
    total = max(prior, 1e-30)
    root, rules, emit = counts
    return Grammar(root + total / root.size, rules + total / rules[0].size, emit + total / emit.shape[1])


def pcfg_perplexity(grammar: Grammar, sentences: Tokens, *, given_length: bool = True) -> float:
    """Returns exp of the nats of a token under `grammar`.

    Args:
      grammar: log-probabilities.
      sentences: of at least 2 tokens each, that it was not fitted on.
      given_length: leaves out the cost of each sentence's length, as a model that never ends does.

    Raises:
      SourceError, TokenizerError: as of `sequences`; or a sentence of one token.
    """
    nats, tokens = 0.0, 0
    for ids, lengths in _batches(sentences, grammar.emit.shape[1]):
        nats += float(expected_counts(grammar, ids, lengths)[0])
        tokens += int(lengths.sum())
        if given_length:
            nats -= float(np.asarray(log_lengths(grammar, ids.shape[1]))[lengths[lengths > 0] - 1].sum())
    return math.exp(-nats / tokens)


def _batches(sentences: Tokens, vocab_size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Sentences of similar lengths together, padded: ids int32 [B, T] and lengths int32 [B], 0 in rows left over."""
    rows = sorted(sequences(sentences, vocab_size), key=len)
    if len(rows[0]) < 2:
        raise SourceError("A sentence of one token has no tree; leave out sentences of fewer than two tokens.")
    size, batches = min(_ROWS, len(rows)), []
    for first in range(0, len(rows), size):
        part = rows[first : first + size]
        ids = np.zeros((size, _ceil_power(len(part[-1]))), np.int32)
        for row, sentence in zip(ids, part, strict=False):
            row[: len(sentence)] = sentence
        batches.append((ids, np.array([len(row) for row in part] + [0] * (size - len(part)), np.int32)))
    return batches


def _ceil_power(length: int) -> int:
    """The next of 8, 12, 16, 24, ...: few shapes to compile, and at most half as long again."""
    power = 1 << max(length - 1, 7).bit_length()
    return 3 * power // 4 if length <= 3 * power // 4 else power
