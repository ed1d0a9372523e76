"""A word's vector is a function of its own bytes and nothing else, however they are pooled."""

import functools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from tokjax.core.errors import SpecError
from tokjax.embed import embedding
from tokjax.embed.pooled_bytes import KINDS, PAD, PooledBytes
from tokjax.nn.param import count, materialize

every_kind = pytest.mark.parametrize("kind", KINDS)
words = st.lists(st.binary(min_size=1, max_size=8), min_size=1, max_size=6)


def spec_of(kind):
    return PooledBytes(vocab_size=257, width=10, kind=kind, byte_width=6, queries=3, cap=8)


@functools.cache
def params_of(kind):
    return materialize(spec_of(kind).declare(), jax.random.key(1))


@functools.cache
def program(kind):
    return jax.jit(lambda params, ids: spec_of(kind).vectors(params, ids[None], None, jax.random.key(0))[0])


def pool(kind, ids):
    """The vectors [T, D] of the words `ids` [T, L]."""
    return np.asarray(program(kind)(params_of(kind), ids))


def ids_of(words, slots=6):
    table = np.full((slots, 8), PAD, np.int32)
    for row, word in zip(table, words, strict=False):
        row[: len(word)] = list(word)
    return table


@every_kind
@given(words=words)
def test_padding_is_inert(kind, words):
    """A word without bytes is zero, and room for more bytes changes no vector."""
    ids = ids_of([word[:5] for word in words])
    vectors = pool(kind, ids)
    assert np.isfinite(vectors).all() and not vectors[len(words) :].any()
    np.testing.assert_allclose(pool(kind, ids[:, :5]), vectors, atol=1e-6)


@every_kind
@given(words=words, data=st.data())
def test_only_the_word_that_changes_changes(kind, words, data):
    """Noise in one byte moves the vector of its word and no other, to the last bit; equal words share vectors."""
    at = data.draw(st.integers(0, len(words) - 1))
    byte = data.draw(st.integers(0, len(words[at]) - 1))
    ids, noisy = ids_of(words), ids_of(words)
    noisy[at, byte] = (noisy[at, byte] + 1) % 256
    before, after = pool(kind, ids), pool(kind, noisy)
    np.testing.assert_array_equal(np.flatnonzero(np.any(before != after, axis=1)), [at])
    twice = pool(kind, ids_of([words[at]] * 6))
    np.testing.assert_allclose(twice, np.broadcast_to(before[at], twice.shape), atol=1e-6)


@every_kind
def test_order_of_bytes_matters(kind):
    """Positions tell anagrams apart wherever attention can see them; the plain mean of bytes and positions cannot."""
    one, other = pool(kind, ids_of([b"stop", b"pots"]))[:2]
    assert (np.abs(one - other).max() > 1e-3) == (kind != "mean")


def test_latent_query_is_cross_attention():
    """Against plain NumPy: softmax of query times byte over the word's bytes, read, laid side by side, mapped."""
    params = {name: np.asarray(value, np.float64) for name, value in params_of("latent_query").items()}
    word = b"naive"
    x = params["bytes"][list(word)] * np.sqrt(6) + params["positions"][: len(word)]
    scores = params["queries"] @ x.T / np.sqrt(6)
    weights = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    expected = (weights @ x).reshape(-1) @ params["to_word"].reshape(-1, 10)
    np.testing.assert_allclose(pool("latent_query", ids_of([word]))[0], expected, atol=1e-5)


@pytest.mark.parametrize(("kind", "queries"), [("latent_query", 3 * 6), ("attention", 3 * 6 * 6), ("mean", 0)])
def test_parameters_are_those_stated(kind, queries):
    """(256 + specials, padded to 264 rows) bytes, positions, queries, and the map to the model's width."""
    pooled = 1 if kind == "mean" else 3
    assert count(spec_of(kind).declare()) == (264 + 8) * 6 + queries + pooled * 6 * 10


@every_kind
def test_flops_match_xla(kind):
    """XLA also counts softmax and other elementwise work."""
    spec = PooledBytes(vocab_size=257, width=96, kind=kind, byte_width=64, queries=4, cap=8)
    params = jax.eval_shape(lambda key: materialize(spec.declare(), key), jax.random.key(0))
    ids = jax.ShapeDtypeStruct((2, 64, 8), jnp.int32)
    lowered = jax.jit(lambda params, ids: spec.vectors(params, ids, None, jax.random.key(0))).lower(params, ids)
    np.testing.assert_allclose(spec.flops(128), lowered.compile().cost_analysis()["flops"], rtol=0.2)


def test_what_cannot_be():
    for fields, message in {"kind=meen": "'mean'", "queries=0": "queries", "byte_width=0": "byte_width"}.items():
        with pytest.raises(SpecError, match=message):
            embedding(f"pooled_bytes:{fields}", vocab_size=257, width=10)
    with pytest.raises(SpecError, match=r"kind.*'meen'.*mean"):
        spec_of("meen")
    with pytest.raises(SpecError, match="cap=9"):
        pool("mean", jnp.zeros((1, 9), jnp.int32))
    with pytest.raises(SpecError, match="output table"):
        spec_of("mean").logits(params_of("mean"), jnp.zeros((1, 1, 10)), jax.random.key(0))
