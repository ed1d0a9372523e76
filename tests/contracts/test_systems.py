"""What every language system promises, tested on its smoke recipe: nothing here names a system."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokjax.core.errors import SpecError
from tokjax.core.registry import systems
from tokjax.data.windows import eval_batches, token_stream
from tokjax.experiment.config import load_config
from tokjax.experiment.run import build_system
from tokjax.generate.decoding import prefill
from tokjax.nn.param import materialize
from tokjax.objectives.language import LanguageSystem, stream_batch
from tokjax.text import fit_tokenizer

LENGTH = 64
SMEARED = " with smeared keys"
DOCUMENTS = [
    b"The quick brown fox jumps over the lazy dog. " * 3,
    "Zürich, 東京 and naïve cafés: 12,345 ways to say “hello”!\n".encode(),
    b"def f(x):\n    return x + 1\n",
    b"",
    bytes(range(128, 256)),
    b"x" * 90,
]


@functools.cache
def case(name):
    """(system, fitted tokenizer, parameters drawn wide enough that every path matters)."""
    config = load_config(f"{name.removesuffix(SMEARED)}:smoke").to_dict()
    if name.endswith(SMEARED):
        config["system"]["backbone"]["smeared_keys"] = True
    fields = dict(config["tokenizer"])
    fitted = fit_tokenizer(fields.pop("name"), DOCUMENTS, **fields)
    system = build_system(config["system"], fitted)
    params = materialize(system.declare(), jax.random.key(0))
    return system, fitted, jax.tree.map(lambda p: p * 1.5, params)


def row(fitted, text, length=LENGTH):
    ids = [fitted.end_of_document, *fitted.encode(text).tolist()]
    ids = (ids * (length // len(ids) + 1))[:length]
    return jnp.array([ids], jnp.int32)


@functools.cache
def logits_of(name):
    system, _, _ = case(name)
    return jax.jit(lambda params, batch: system.logits(params, batch)[0])


NAMES = [name for name in systems if issubclass(systems[name], LanguageSystem)]
every_system = pytest.mark.parametrize("name", NAMES)
# What keys are mixed with, and whether a position is the first, comes from the position before or from the cache, and
# must be of the same document.
every_stack = pytest.mark.parametrize("name", [*NAMES, "lm" + SMEARED, "decipher"])


@every_system
def test_causality(name):
    """Logits at t do not move, to the last bit, when symbols after t change."""
    _, fitted, params = case(name)
    ids = row(fitted, DOCUMENTS[0])
    before = logits_of(name)(params, stream_batch(ids))
    for t in (0, 1, 13, 40, LENGTH - 2):
        for other in (0, 32, fitted.size - 1, fitted.end_of_document):
            changed = ids.at[:, t + 1 :].set(other)
            after = logits_of(name)(params, stream_batch(changed))
            np.testing.assert_array_equal(before[:, : t + 1], after[:, : t + 1])


@every_system
def test_context_matters(name):
    """The first symbols of a row still move its last logits: causality is not met by ignoring the past."""
    _, fitted, params = case(name)
    ids = row(fitted, DOCUMENTS[0])
    changed = ids.at[:, 5].set((ids[0, 5] + 1) % 256)
    before, after = (logits_of(name)(params, stream_batch(x))[:, -1] for x in (ids, changed))
    assert jnp.max(jnp.abs(before - after)) > 1e-4


@every_system
def test_rows_are_independent(name):
    """A row's logits do not depend on the other rows or on its place among them."""
    _, fitted, params = case(name)
    ids = jnp.concatenate([row(fitted, text or b"y") for text in DOCUMENTS])
    together = logits_of(name)(params, stream_batch(ids))
    backwards = logits_of(name)(params, stream_batch(ids[::-1]))
    np.testing.assert_array_equal(together, backwards[::-1])


@every_stack
def test_documents_of_a_row_never_see_each_other(name):
    """What the first document says changes no logit of the second, to the last bit, even when caps are hit."""
    _, fitted, params = case(name)

    def batch(first):
        ids = [fitted.end_of_document, *fitted.encode(first).tolist()]
        start = len(ids)
        ids += [fitted.end_of_document, *fitted.encode(b"and so on, to the end. " * 9).tolist()]
        whole = stream_batch(jnp.array([ids[:128]], jnp.int32))
        at = jnp.arange(128)
        segments = jnp.where(at < start, 1, 2)[None].astype(jnp.int32)
        return whole.replace(segment_ids=segments, positions=jnp.where(at < start, at, at - start)[None]), start

    letters = b"abcdefghijklmnopqrstuvwxyz"  # one word each: more words than hat's row of 128 has slots for
    (one, start), (other, same_start) = (
        batch(b" ".join(letters[i : i + 1] for i in range(26))),
        batch(b" ".join(letters[i : i + 1] for i in reversed(range(26)))),
    )
    assert start == same_start
    before, after = (logits_of(name)(params, x) for x in (one, other))
    np.testing.assert_array_equal(before[:, start:], after[:, start:])
    assert jnp.any(before[:, 3:start] != after[:, 3:start])


@pytest.mark.parametrize("name", ["hat", "megabyte", "word_pooled"])
def test_stacks_that_number_rows_refuse_smeared_keys(name):
    """They would read the document before."""
    system, fitted, params = case(name + SMEARED)
    with pytest.raises(SpecError, match="smeared_keys"):
        system.logits(params, stream_batch(row(fitted, DOCUMENTS[0])))


@functools.cache
def nll_of(name):
    return jax.jit(case(name)[0].nll)


def costs_of(name, documents, batch_size):
    """NLL of every target of `documents`, flat and in order."""
    system, fitted, params = case(name)
    text = token_stream(documents, fitted)
    nll = np.full(text.pairs, np.nan)
    for item in eval_batches(text, batch_size=batch_size, length=LENGTH, align=system.alignment):
        at = item.document >= 0
        nll[text.boundaries[item.document[at]] + item.offset[at]] = np.asarray(nll_of(name)(params, item.batch))[at]
    assert np.isfinite(nll).all()
    return nll, text.boundaries


@every_system
def test_packing_changes_nothing(name):
    """Each target costs the same alone in its row and packed with other documents (float tolerance: other shapes)."""
    together, boundaries = costs_of(name, DOCUMENTS, batch_size=3)
    np.testing.assert_allclose(together, costs_of(name, DOCUMENTS, batch_size=1)[0], atol=2e-4)
    for document, raw in enumerate(DOCUMENTS):
        alone, _ = costs_of(name, [raw], batch_size=1)
        np.testing.assert_allclose(together[boundaries[document] : boundaries[document + 1]], alone, atol=2e-4)


@every_stack
def test_cached_logits_equal_full_logits(name):
    """Feeding symbols one by one gives the logits of the whole row, where no cap is hit."""
    system, fitted, params = case(name)
    ids = jnp.concatenate([row(fitted, DOCUMENTS[i]) for i in (0, 5)])
    ids = ids.at[0, 20].set(fitted.end_of_document)
    assert jnp.all(system.logits(params, stream_batch(ids).replace(loss_mask=jnp.ones(ids.shape)))[1] == 0)
    whole = logits_of(name)(params, stream_batch(ids))
    state = system.init_decode(params, len(ids), LENGTH)
    stepwise, _ = jax.jit(functools.partial(prefill, system))(params, state, ids)
    np.testing.assert_allclose(stepwise, whole, atol=2e-4)


@every_system
def test_probabilities_sum_to_one_and_gradients_flow(name):
    """Loss is finite, near log V at birth, and every declared array receives a gradient."""
    system, fitted, _ = case(name)
    params = materialize(system.declare(), jax.random.key(1))
    ids = jnp.concatenate([row(fitted, text or b"y") for text in DOCUMENTS])
    batch = stream_batch(ids)
    batch = batch.replace(targets=jnp.roll(ids, -1, axis=1), loss_mask=jnp.ones(ids.shape), units=jnp.ones_like(ids))
    (loss, (_, aux)), gradients = jax.jit(jax.value_and_grad(system.loss, has_aux=True))(
        params, system.init_state(jax.random.key(0)), batch, jax.random.key(0)
    )
    chex.assert_tree_all_finite((loss, gradients))
    assert 0.5 * np.log(system.vocab_size) < loss < 2.0 * np.log(system.vocab_size)
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        assert jnp.any(gradient != 0), f"{jax.tree_util.keystr(path)} gets no gradient"
    assert set(aux) >= {"loss", "bits_per_byte"}


@every_system
def test_flops_match_xla(name):
    """The analytic count agrees with XLA's on the unrolled program; XLA also counts the elementwise work."""
    system, _, _ = case(name)
    wide = {
        field.name: dataclasses.replace(
            value, width=2 * value.width, heads=2, head_dim=value.width, hidden=4 * value.width
        )
        for field in dataclasses.fields(system)
        if dataclasses.is_dataclass(value := getattr(system, field.name))
    }
    system = dataclasses.replace(system, **wide)
    ids = jax.ShapeDtypeStruct((4, 128), jnp.int32)
    batch = jax.eval_shape(stream_batch, ids)
    shapes = jax.eval_shape(lambda key: materialize(system.declare(), key), jax.random.key(0))
    compiled = jax.jit(lambda params, batch: system.logits(params, batch)[0]).lower(shapes, batch).compile()
    counted = compiled.cost_analysis()["flops"]
    np.testing.assert_allclose(system.flops(4, 128), counted, rtol=0.15)


@pytest.mark.parametrize("variant", ["small", "paper"])
@every_system
def test_recipes_build_abstractly(name, variant):
    """Every recipe declares a consistent system; nothing is allocated."""
    config = load_config(f"{name}:{variant}").to_dict()
    fields = dict(config["system"])
    assert fields.pop("name") == name
    system = build_system(config["system"], _Sized(config["tokenizer"]))
    shapes = jax.eval_shape(lambda key: materialize(system.declare(), key), jax.random.key(0))
    assert jax.tree.structure(shapes) == jax.tree.structure(
        jax.tree.map(lambda p: 0, system.declare(), is_leaf=lambda x: hasattr(x, "axes"))
    )
    assert system.flops(1, config["data"]["length"]) > 0


class _Sized:
    """A tokenizer known by its recipe only: name, spec and number of tokens."""

    def __init__(self, config):
        from tokjax.core.registry import tokenizers
        from tokjax.core.spec import build

        fields = dict(config)
        self.name = fields.pop("name")
        self.spec = build(tokenizers[self.name], fields)
        self.size = getattr(self.spec, "vocab_size", None) or self.spec.size({})
