"""Masked decoding: how many codes are unknown after each step, which, and what guidance adds."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokjax.core.errors import SpecError
from tokjax.generate.masked import MaskedSamplingSpec, SamplingPlan, fill, guidance_weights, masked_counts, masked_share

KEY = jax.random.key(0)
V, UNKNOWN = 6, 6


@functools.partial(jax.jit, static_argnames=("predict", "spec", "tokens"))
def run(predict, labels, key, spec, tokens):
    return fill(predict, labels, key, SamplingPlan.of(spec, tokens), unknown=UNKNOWN)


def of_context(codes, labels):
    """Logits that depend on everything known, on the place and on the class."""
    known = jnp.sum(jnp.where(codes == UNKNOWN, 0, codes + 1), axis=-1)[:, None, None]
    place, code = jnp.arange(codes.shape[1])[:, None], jnp.arange(V)
    return 2.0 * jnp.sin(1.7 * known + 2.3 * place + 3.1 * code * (place + 1) + labels[:, None, None])


@pytest.mark.parametrize(("tokens", "steps"), [(32, 8), (64, 8), (128, 64), (5, 3), (4, 9), (1, 1), (7, 1)])
def test_as_many_codes_are_unknown_as_published(tokens, steps):
    counts = masked_counts(tokens, steps)
    for t in range(steps - 1):
        assert counts[t] == max(1, math.floor(tokens * math.acos((t + 1) / steps) / (math.pi / 2)))
    assert counts[-1] == 0
    if (tokens, steps) in ((32, 8), (64, 8), (128, 64)):  # as published: every step settles some code
        assert np.all(np.diff([tokens, *counts]) < 0)


@pytest.mark.parametrize(
    "spec",
    [MaskedSamplingSpec(steps=5, temperature=4.0), MaskedSamplingSpec(steps=5, guidance=3.0, schedule="linear")],
    ids=["plain", "guided"],
)
def test_codes_are_settled_on_schedule_and_then_stay(spec):
    history = np.asarray(run(of_context, jnp.arange(3), KEY, spec, 12))
    unknown = history == UNKNOWN
    np.testing.assert_array_equal(unknown.sum(-1), np.repeat(masked_counts(12, 5)[:, None], 3, axis=1))
    for before, after, hidden in zip(history, history[1:], unknown, strict=False):
        np.testing.assert_array_equal(before[~hidden], after[~hidden])
    assert np.all((history[-1] >= 0) & (history[-1] < V))
    assert len({tuple(row) for row in history[-1]}) > 1
    again = np.asarray(run(of_context, jnp.arange(3), KEY, spec, 12))
    np.testing.assert_array_equal(history, again)
    assert np.any(history != np.asarray(run(of_context, jnp.arange(3), jax.random.key(1), spec, 12)))


def certain(codes, labels):
    """Code 2 everywhere, the surer the further right."""
    sure = jnp.arange(1, codes.shape[1] + 1, dtype=jnp.float32)
    return jnp.broadcast_to(sure[:, None] * jax.nn.one_hot(2, V), (*codes.shape, V))


def test_without_noise_the_most_certain_come_first():
    history = np.asarray(run(certain, jnp.zeros(1, jnp.int32), KEY, MaskedSamplingSpec(steps=4, temperature=0.0), 8))
    for codes, count in zip(history[:, 0], masked_counts(8, 4), strict=True):
        np.testing.assert_array_equal(codes, [UNKNOWN] * count + [2] * (8 - count))


def test_the_last_step_has_no_noise():
    history = run(certain, jnp.zeros(1, jnp.int32), KEY, MaskedSamplingSpec(steps=1, temperature=50.0), 8)
    np.testing.assert_array_equal(history[0, 0], [2] * 8)


def test_noise_is_gumbels():
    """At a temperature of 1 the first step draws from the softmax: shares of 20,000 draws within five deviations."""

    def flat(codes, labels):
        return jnp.broadcast_to(jnp.arange(V, dtype=jnp.float32) / 3, (*codes.shape, V))

    spec = MaskedSamplingSpec(steps=2, temperature=2.0)  # at the first of two steps it is half
    steps = np.asarray(run(flat, jnp.zeros(20_000, jnp.int32), KEY, spec, 3))
    drawn = steps[0][steps[0] != UNKNOWN]
    assert len(drawn) == 20_000  # one of three of each row: the least uncertain, so likely codes are favoured
    shares = np.bincount(drawn, minlength=V) / len(drawn)
    generator = np.random.default_rng(0)
    logits = np.arange(V) / 3
    codes = (logits + generator.gumbel(size=(20_000, 3, V))).argmax(-1)
    surest = (logits[codes] + generator.gumbel(size=codes.shape)).argmax(-1)
    expected = np.bincount(codes[np.arange(20_000), surest], minlength=V) / 20_000
    np.testing.assert_allclose(shares, expected, atol=5 * math.sqrt(2 * 0.25 / 20_000))


def test_guidance_over_the_steps_is_as_published():
    t = np.arange(4) / 4
    constant, linear = (
        guidance_weights(MaskedSamplingSpec(steps=4, guidance=3.0, schedule=s)) for s in ("constant", "linear")
    )
    np.testing.assert_allclose(constant, [3.0] * 4)
    np.testing.assert_allclose(linear, 3.0 * t)
    spec = MaskedSamplingSpec(steps=4, guidance=6.9, schedule="power_cosine", power=2.8)
    usual = 1 + (6.9 - 1) * (1 - np.cos(np.pi * t**2.8)) / 2  # of u + s (c - u)
    np.testing.assert_allclose(guidance_weights(spec), usual - 1, rtol=1e-6)


@pytest.mark.parametrize(("schedule", "guidance", "scale"), [("constant", 0.8, 1.8), ("power_cosine", 1.8, 1.0)])
def test_guided_logits_are_moved_away_from_those_without_a_class(schedule, guidance, scale):
    """With one step: c + 0.8 (c - u), which is u + 1.8 (c - u); and u + 1 (c - u), where power-cosine begins."""
    c, u = np.random.default_rng(0).standard_normal((2, 9, V)).astype(np.float32)

    def predict(codes, labels):
        return jnp.where((labels == 1)[:, None, None], c, u)

    spec = MaskedSamplingSpec(steps=1, temperature=0.0, guidance=guidance, schedule=schedule)
    history = run(predict, jnp.ones(2, jnp.int32), KEY, spec, 9)
    np.testing.assert_array_equal(history[0], np.tile((u + scale * (c - u)).argmax(-1), (2, 1)))


def test_no_guidance_asks_for_no_predictions_without_a_class():
    def predict(codes, labels):
        assert len(codes) == 2  # while it is traced
        return of_context(codes, labels)

    for fields in ({"guidance": 0.0}, {"guidance": 1.0, "schedule": "power_cosine"}):
        jax.eval_shape(lambda f=fields: fill(
            predict, jnp.zeros(2, jnp.int32), KEY, SamplingPlan.of(MaskedSamplingSpec(**f), 4), unknown=UNKNOWN
        ))  # fmt: skip


def test_the_share_falls_from_all_to_none():
    np.testing.assert_allclose(masked_share(np.array([0.0, 0.5, 1.0])), [1.0, 2 / 3, 0.0], rtol=1e-12)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"steps": 0}, "steps: got 0"),
        ({"temperature": -1.0}, "temperature: got -1.0"),
        ({"schedule": "cosine"}, "schedule: got 'cosine'"),
        ({"guidance": 0.5, "schedule": "power_cosine"}, "power_cosine begins at 1"),
        ({"power": 0.0}, "power: got 0.0"),
    ],
)
def test_what_cannot_be_is_said(fields, says):
    with pytest.raises(SpecError, match=says):
        MaskedSamplingSpec(**fields)
