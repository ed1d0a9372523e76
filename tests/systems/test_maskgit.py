"""MaskGIT: what is masked, what the loss counts, and that it generates codes of the class it is asked for."""

import dataclasses
import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import draw_params, quick

from tokjax.core.errors import SpecError
from tokjax.core.keys import named
from tokjax.core.spec import build
from tokjax.data.images.code_rows import CodeBatch
from tokjax.generate.masked import MaskedSamplingSpec
from tokjax.nn.param import count, decay_mask, materialize
from tokjax.nn.vit import ViTSpec
from tokjax.systems.vision.maskgit import MaskGit, mask_codes
from tokjax.train import OptimizerSpec
from tokjax.train.optimizer import make_transform
from tokjax.train.state import TrainState
from tokjax.train.step import make_step

KEY = jax.random.key(0)
SYSTEM = MaskGit(
    tokens=6, vocab_size=12, classes=3, class_drop=0.3, body=ViTSpec(width=32, layers=2, heads=2, scan_layers=True)
)
CODES = jax.random.randint(KEY, (8, 6), 0, 12)
LABELS = jnp.arange(8) % 3
MASK = jnp.array([1.0] * 6 + [0.0] * 2)
BATCH = CodeBatch(codes=CODES, labels=LABELS, mask=MASK)


@functools.cache
def params():
    return draw_params(SYSTEM.declare(), gain=1.0)


@functools.cache
def loss():
    return quick(SYSTEM.loss)


@functools.cache
def logits():
    return quick(SYSTEM.logits)


def test_masks_are_drawn_by_arccos():
    masked = np.asarray(mask_codes(KEY, 20_000, 10))
    counts = masked.sum(-1)
    assert counts.min() == 1 and counts.max() == 10
    # The mean of arccos(u) / (pi / 2) is 2 / pi; at least one code adds P(share < 0.05) / 2 of one. Five deviations.
    np.testing.assert_allclose(counts.mean() / 10, 2 / np.pi, atol=5 * 0.3 / np.sqrt(20_000) + 0.001)
    np.testing.assert_allclose(masked.mean(0), counts.mean() / 10, atol=5 * 0.5 / np.sqrt(20_000))
    # P(count >= 7) = P(arccos(u) / (pi / 2) > 0.65) = cos(0.65 pi / 2)
    np.testing.assert_allclose((counts >= 7).mean(), np.cos(0.65 * np.pi / 2), atol=5 * 0.5 / np.sqrt(20_000))


def test_the_loss_is_smoothed_cross_entropy_with_weights():
    total, (_, aux) = loss()(params(), {}, BATCH, KEY)
    masked = np.asarray(mask_codes(named(KEY, "masks"), 8, 6))
    dropped = np.asarray(jax.random.uniform(named(KEY, "classes"), (8,)) < SYSTEM.class_drop)
    assert 0 < dropped[:6].sum() < 6
    labels = np.where(dropped, -1, LABELS)
    found = np.asarray(logits()(params(), jnp.where(masked, 12, CODES), jnp.asarray(labels)), np.float64)
    log_probs = found - np.log(np.exp(found).sum(-1, keepdims=True))
    target = 0.9 * np.eye(12)[np.asarray(CODES)] + 0.1 / 12
    weights = np.where(masked, 1.0, 0.1) * np.asarray(MASK)[:, None]
    np.testing.assert_allclose(total, (weights * -(target * log_probs).sum(-1)).sum() / weights.sum(), rtol=1e-5)
    seen = masked[:6]
    nll = -np.take_along_axis(log_probs, np.asarray(CODES)[..., None], -1)[:6, :, 0][seen]
    np.testing.assert_allclose(aux["masked_nll"], (nll.sum(), seen.sum()), rtol=1e-5)
    hits = (log_probs.argmax(-1) == np.asarray(CODES))[:6][seen]
    np.testing.assert_allclose(aux["masked_accuracy"], (hits.sum(), seen.sum()), rtol=1e-6)


def test_rows_that_pad_a_batch_count_for_nothing():
    changed = BATCH.replace(codes=jnp.where(MASK[:, None] > 0, CODES, 0), labels=jnp.where(MASK > 0, LABELS, -1))
    one, other = (loss()(params(), {}, batch, KEY) for batch in (BATCH, changed))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), one, other)


def test_the_class_matters_to_every_code():
    before, after = (logits()(params(), CODES, labels) for labels in (LABELS, jnp.full(8, -1)))
    assert jnp.all(jnp.max(jnp.abs(before - after), axis=-1) > 1e-3)


def test_it_generates_the_codes_of_a_class():
    """Each class has two rows of codes: after training, what is drawn of a class is one of its two, and both occur."""
    rows = np.array([[[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]], [[3] * 6, [5, 4] * 3], [[1, 7] * 3, [11, 2] * 3]])
    labels = np.arange(24) % 3
    batch = CodeBatch(
        codes=jnp.asarray(rows[labels, np.arange(24) // 12]), labels=jnp.asarray(labels), mask=jnp.ones(24)
    )
    spec = OptimizerSpec(learning_rate=0.01, weight_decay=0.0)
    transform = make_transform(spec, decay_mask(SYSTEM.declare()))
    one = quick(make_step(SYSTEM, transform, spec))
    state = TrainState(jnp.int32(0), params(), transform.init(params()), {})
    for _ in range(150):
        state, _ = one(state, batch, KEY, jnp.float32(0.01))
    sampling = MaskedSamplingSpec(steps=6, temperature=1.0, guidance=1.0, schedule="linear")
    asked = jnp.arange(60) % 3
    found = np.asarray(SYSTEM.sample(state.params, asked, KEY, sampling=sampling))
    right = [
        [(codes == row).all() for row in rows[label]] for codes, label in zip(found, np.asarray(asked), strict=True)
    ]
    assert np.mean(np.any(right, axis=1)) > 0.9
    assert np.all(np.sum(right, axis=0) > 5)


def test_flops_are_those_of_the_program():
    system = MaskGit(tokens=31, vocab_size=64, classes=2, body=ViTSpec(width=128, layers=2, heads=2))
    shapes = jax.eval_shape(lambda: materialize(system.declare(), KEY))
    codes, labels = jax.ShapeDtypeStruct((2, 31), jnp.int32), jax.ShapeDtypeStruct((2,), jnp.int32)
    counted = jax.jit(system.logits).lower(shapes, codes, labels).compile().cost_analysis()["flops"]
    np.testing.assert_allclose(system.flops(2, 31), counted, rtol=0.1)  # XLA also counts norms and activations


def test_the_recipe_holds_what_the_published_generator_holds():
    """177M: 24 blocks of 768, tables of codes, classes and positions, a head. A BERT has two segments more."""
    config = importlib.import_module("tokjax.configs.vision.maskgit").get_config("paper").to_dict()["system"]
    assert config.pop("name") == "maskgit"
    declared = build(MaskGit, config).declare()
    D = 768
    block = 12 * D**2 + 13 * D
    table = -(-(4096 + 1000 + 2) // 8) * 8 * D  # in a multiple of 8 rows
    assert count(declared) == 24 * block + table + 33 * D + 2 * D + 4096 * (D + 1)
    bert = 24 * block + (4096 + 1000 + 2) * D + (33 + 2 + 2) * D + 4096 * (D + 1)
    assert abs(count(declared) / bert - 1) < 1e-4 and round(bert / 1e6) == 177


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"tokens": 0}, "tokens: got 0"),
        ({"vocab_size": 1}, "vocab_size: got 1"),
        ({"classes": -1}, "classes: got -1"),
        ({"class_drop": 1.5}, "class_drop: got 1.5"),
    ],
)
def test_what_cannot_be_is_said(fields, says):
    with pytest.raises(SpecError, match=says):
        dataclasses.replace(SYSTEM, **fields)
