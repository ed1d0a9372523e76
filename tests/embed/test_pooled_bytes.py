"""A word's vector is a function of its own bytes and nothing else, however they are pooled."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from tokjax.core.errors import SpecError
from tokjax.embed.pooled_bytes import KINDS, declare_pooled_bytes, pooled_bytes, pooled_bytes_flops
from tokjax.nn.param import count, materialize

SIZES = {"symbols": 257, "byte_width": 6, "cap": 8, "width": 10, "queries": 3}
pool = jax.jit(pooled_bytes, static_argnames="kind")
every_kind = pytest.mark.parametrize("kind", KINDS)
words = st.lists(st.binary(min_size=1, max_size=8), min_size=1, max_size=6)


def params_of(kind):
    return materialize(declare_pooled_bytes(**SIZES, kind=kind), jax.random.key(1))


def arrays(words, slots=6, pad=0):
    table = np.full((slots, 8), pad, np.int32)
    for row, word in zip(table, words, strict=False):
        row[: len(word)] = list(word)
    return jnp.array(table), jnp.array([len(word) for word in words] + [0] * (slots - len(words)))


@every_kind
@given(words=words)
def test_pad_bytes_are_inert(kind, words):
    params = params_of(kind)
    zeros, other = (pool(params, *arrays(words, pad=pad), kind=kind) for pad in (0, 201))
    np.testing.assert_array_equal(zeros, other)
    assert np.isfinite(zeros).all() and not zeros[len(words) :].any()


@every_kind
@given(words=words, data=st.data())
def test_only_the_word_that_changes_changes(kind, words, data):
    """Noise in one byte moves the vector of its word and no other, to the last bit; equal words share vectors."""
    params = params_of(kind)
    at = data.draw(st.integers(0, len(words) - 1))
    byte = data.draw(st.integers(0, len(words[at]) - 1))
    table, lengths = arrays(words)
    before = pool(params, table, lengths, kind=kind)
    after = pool(params, table.at[at, byte].set((table[at, byte] + 1) % 256), lengths, kind=kind)
    changed = np.any(before != after, axis=1)
    np.testing.assert_array_equal(np.flatnonzero(changed), [at])
    twice = pool(params, *arrays([words[at]] * 6), kind=kind)
    np.testing.assert_allclose(twice, np.broadcast_to(before[at], twice.shape), atol=1e-6)


@every_kind
def test_order_of_bytes_matters(kind):
    """Positions tell anagrams apart wherever attention can see them; the plain mean of bytes and positions cannot."""
    one, other = (pooled_bytes(params_of(kind), *arrays([word]), kind)[0] for word in (b"stop", b"pots"))
    assert (float(jnp.abs(one - other).max()) > 1e-3) == (kind != "mean")


def test_latent_query_is_cross_attention():
    """Against plain NumPy: softmax of query times byte over the word's bytes, read, laid side by side, mapped."""
    params = {name: np.asarray(value, np.float64) for name, value in params_of("latent_query").items()}
    word = b"naive"
    x = params["bytes"][list(word)] * np.sqrt(6) + params["positions"][: len(word)]
    scores = params["queries"] @ x.T / np.sqrt(6)
    weights = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    expected = (weights @ x).reshape(-1) @ params["to_word"].reshape(-1, 10)
    got = pooled_bytes(params_of("latent_query"), *arrays([word]))
    np.testing.assert_allclose(got[0], expected, atol=1e-5)


@pytest.mark.parametrize(("kind", "queries"), [("latent_query", 3 * 6), ("attention", 3 * 6 * 6), ("mean", 0)])
def test_parameters_are_those_stated(kind, queries):
    """(256 + specials, padded to 264 rows) bytes, positions, queries, and the map to the model's width."""
    pooled = 1 if kind == "mean" else 3
    assert count(declare_pooled_bytes(**SIZES, kind=kind)) == (264 + 8) * 6 + queries + pooled * 6 * 10


@every_kind
def test_every_parameter_learns(kind):
    table, lengths = arrays([b"one", b"of", b"these"])
    gradients = jax.grad(lambda p: jnp.sum(jnp.sin(pooled_bytes(p, table, lengths, kind))))(params_of(kind))
    for name, gradient in gradients.items():
        assert jnp.isfinite(gradient).all() and jnp.any(gradient != 0), name


@every_kind
def test_flops_match_xla(kind):
    """XLA also counts softmax and other elementwise work."""
    sizes = {"byte_width": 64, "cap": 8, "width": 96, "queries": 4, "kind": kind}
    params = jax.eval_shape(lambda k: materialize(declare_pooled_bytes(symbols=257, **sizes), k), jax.random.key(0))
    shapes = jax.ShapeDtypeStruct((128, 8), jnp.int32), jax.ShapeDtypeStruct((128,), jnp.int32)
    lowered = pool.lower(params, *shapes, kind=kind)
    np.testing.assert_allclose(pooled_bytes_flops(128, **sizes), lowered.compile().cost_analysis()["flops"], rtol=0.2)


def test_what_cannot_be():
    with pytest.raises(SpecError, match=r"kind.*'mean'"):
        declare_pooled_bytes(**SIZES, kind="meen")
    with pytest.raises(SpecError, match="cut words at 8"):
        pooled_bytes(params_of("mean"), jnp.zeros((1, 9), jnp.int32), jnp.ones(1, jnp.int32), "mean")
