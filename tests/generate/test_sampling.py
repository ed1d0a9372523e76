"""Sampling follows its distribution, its filters keep what they say, and streams equal whole programs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokjax.core.errors import SpecError
from tokjax.generate.decoding import generate, stream
from tokjax.generate.sampling import SamplingSpec, choose, restrict
from tokjax.nn.param import materialize
from tokjax.nn.transformer import TransformerSpec
from tokjax.systems.language.lm import Lm

LOGITS = jnp.array([0.0, 1.0, 2.0, 3.0, -1.0])


@pytest.mark.parametrize("field", [{"temperature": -1.0}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_impossible_sampling_is_refused(field):
    with pytest.raises(SpecError, match=next(iter(field))):
        SamplingSpec(**field)


@given(st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=12, unique=True), st.integers(1, 12))
def test_top_k_keeps_the_k_largest(logits, k):
    kept = np.isfinite(restrict(SamplingSpec(top_k=k), jnp.array(logits)))
    assert set(np.flatnonzero(kept)) == set(np.argsort(logits)[::-1][:k])


@given(st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=12, unique=True), st.floats(0.01, 1.0))
def test_top_p_keeps_the_smallest_sufficient_set(logits, p):
    probabilities = np.asarray(jax.nn.softmax(jnp.array(logits)), np.float64)
    kept = np.isfinite(restrict(SamplingSpec(top_p=p), jnp.array(logits)))
    mass = probabilities[kept].sum()
    assert mass >= p - 1e-5
    assert kept[np.argmax(logits)]
    assert kept.sum() == 1 or mass - probabilities[kept].min() < p + 1e-5


def test_draws_follow_the_distribution():
    """Chi-square of 4,000 draws at as many positions against softmax(logits / T)."""
    spec = SamplingSpec(temperature=0.7)
    pick = jax.jit(jax.vmap(lambda position: choose(spec, LOGITS[None], jax.random.key(0), position)[0]))
    counts = np.bincount(np.asarray(pick(jnp.arange(4000))), minlength=5)
    expected = 4000 * np.asarray(jax.nn.softmax(LOGITS / 0.7))
    assert ((counts - expected) ** 2 / expected).sum() < 18.5  # 0.1% point of chi-square with 4 degrees of freedom


def test_greedy_takes_the_most_likely():
    assert choose(SamplingSpec(temperature=0.0), LOGITS[None], jax.random.key(0), 0)[0] == 3


@functools.cache
def tiny():
    system = Lm(vocab_size=17, backbone=TransformerSpec(width=16, layers=2, heads=2, kv_heads=1))
    return system, materialize(system.declare(), jax.random.key(0))


@pytest.mark.parametrize("sampling", [SamplingSpec(temperature=0.0), SamplingSpec(temperature=0.9, top_k=5)])
def test_a_stream_is_the_whole_program(sampling):
    system, params = tiny()
    prompt, key = [16, 3, 1], jax.random.key(4)
    whole = generate(system, params, jnp.array([prompt]), key, steps=12, sampling=sampling)[0].tolist()
    assert list(stream(system, params, prompt, key, steps=12, sampling=sampling)) == whole
    again = generate(system, params, jnp.array([prompt + whole[:5]]), key, steps=7, sampling=sampling)[0].tolist()
    assert again == whole[5:], "noise belongs to the position, so a longer prompt goes on alike"


def test_an_empty_prompt_is_refused():
    system, params = tiny()
    with pytest.raises(SpecError, match="prompt"):
        next(stream(system, params, [], jax.random.key(0), steps=1))
