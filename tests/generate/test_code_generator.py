"""The generator of codes says nothing but codes, follows its class, and learns what codes follow a class."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tokjax.core.errors import SpecError
from tokjax.data.images.code_rows import CodeRows, CodeVocabulary, train_code_rows
from tokjax.generate.codes import CodeGenerator, as_prefix
from tokjax.generate.decoding import generate, prefill
from tokjax.generate.sampling import SamplingSpec
from tokjax.nn.param import materialize
from tokjax.nn.transformer import TransformerSpec
from tokjax.objectives.language import stream_batch
from tokjax.quantize import NO_CODE
from tokjax.systems.language.lm import Lm

VOCABULARY = CodeVocabulary(codes=9, classes=2)
LM = Lm(vocab_size=12, backbone=TransformerSpec(width=16, layers=1, heads=2))
PLAIN = CodeGenerator(system=LM, vocabulary=VOCABULARY)
GUIDED = dataclasses.replace(PLAIN, guidance=3.0)
LABELS = np.array([0, 1, -1])


@functools.cache
def params():
    return jax.jit(lambda key: materialize(LM.declare(), key))(jax.random.key(0))


def drawn(generator, params, steps=4, **fields):
    prompt = jnp.asarray(VOCABULARY.prompt(LABELS))
    return generate(generator, params, prompt, jax.random.key(1), steps=steps, sampling=SamplingSpec(**fields))


@pytest.mark.parametrize("generator", [PLAIN, GUIDED], ids=["plain", "guided"])
def test_only_codes_are_said(generator):
    """Even by a model whose favourite symbols are classes."""
    table = params()["embedding"]
    loud = params() | {"embedding": jax.tree.map(lambda p: p.at[9:].multiply(50.0), table)}
    codes = drawn(generator, loud, steps=40)
    assert codes.shape == (3, 40) and codes.min() >= 0 and codes.max() < 9


def test_guidance_is_of_the_logits_with_and_without_the_class():
    """Step by step through both caches; codes after the class are the same for both."""
    rows = jnp.concatenate([jnp.asarray(VOCABULARY.prompt(LABELS)), jnp.array([[3, 1], [0, 8], [2, 2]])], axis=1)
    untold = rows.at[:, 0].set(VOCABULARY.no_class)
    told, without = (np.asarray(LM.logits(params(), stream_batch(x))[0])[:, :, :9] for x in (rows, untold))
    found, _ = prefill(GUIDED, params(), GUIDED.init_decode(params(), 3, 4), rows)
    np.testing.assert_allclose(found[:, :, :9], without + 3.0 * (told - without), atol=2e-4)  # other shapes
    assert np.all(found[:, :, 9:] == -np.inf)
    np.testing.assert_allclose(found[2, :, :9], told[2], atol=2e-4)  # no class to be guided by


def test_it_learns_which_codes_belong_to_a_class():
    codes = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    rows = CodeRows(vocabulary=VOCABULARY, codes=codes, labels=np.array([0, 1]))
    optimizer = optax.adam(2e-2)

    @jax.jit
    def step(carry, batch):
        params, moments = carry
        (_, (_, aux)), gradients = jax.value_and_grad(LM.loss, has_aux=True)(params, {}, batch, jax.random.key(0))
        updates, moments = optimizer.update(gradients, moments)
        return (optax.apply_updates(params, updates), moments), aux

    carry = params(), optimizer.init(params())
    for number in range(60):
        carry, aux = step(carry, train_code_rows(rows, number, seed=0, batch_size=8, class_drop=0.2))
    assert aux["loss"][0] / aux["loss"][1] < 0.3  # of log 9 = 2.2 nats; a row without class cannot be told
    found = drawn(PLAIN, carry[0], temperature=0.0)
    np.testing.assert_array_equal(found[:2], codes)


def test_a_prefix_is_padded_with_no_codes():
    np.testing.assert_array_equal(as_prefix(jnp.array([[4, 2]]), 4), [[4, 2, NO_CODE, NO_CODE]])


def test_a_model_of_another_vocabulary_is_refused():
    with pytest.raises(SpecError, match=r"vocab_size.*12"):
        CodeGenerator(system=dataclasses.replace(LM, vocab_size=10), vocabulary=VOCABULARY)
    with pytest.raises(SpecError, match="guidance"):
        dataclasses.replace(PLAIN, guidance=-1.0)


def test_guidance_costs_twice():
    assert GUIDED.flops(1, 4) == pytest.approx(2 * PLAIN.flops(1, 4))
