"""The transformer of images against a plain reading of its formulas, and what its positions may see."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokjax.core.errors import SpecError
from tokjax.nn.param import Param
from tokjax.nn.vit import ViTSpec, declare_vit, vit, vit_flops

SPEC = ViTSpec(width=12, layers=2, heads=3, hidden=20)
X = np.random.default_rng(0).standard_normal((2, 7, 12)).astype(np.float32)
CAUSAL = np.tri(7, dtype=bool)[None]


@functools.cache
def params():
    generator = np.random.default_rng(1)
    declared = declare_vit(SPEC)
    return jax.tree.map(
        lambda p: jnp.asarray(generator.standard_normal(p.shape) / math.sqrt(p.shape[1]), jnp.float32),
        declared, is_leaf=lambda x: isinstance(x, Param),
    )  # fmt: skip


run = jax.jit(vit, static_argnums=0)


def plain(x, mask):
    """[T, D] through the stack in float64."""
    erf = np.vectorize(math.erf)

    def norm(p, x):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]

    x = x.astype(np.float64)
    for layer in range(SPEC.layers):
        p = jax.tree.map(lambda a, layer=layer: np.asarray(a, np.float64)[layer], params())
        normed, out = norm(p["attention_norm"], x), 0.0
        for head in range(SPEC.heads):
            fused = p["query_key_value"]
            q, k, v = (normed @ fused["kernel"][:, i, head] + fused["bias"][i, head] for i in range(3))
            scores = np.where(mask, q @ k.T / math.sqrt(q.shape[-1]), -np.inf)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            out += weights / weights.sum(-1, keepdims=True) @ v @ p["attention_out"]["kernel"][head]
        x = x + out + p["attention_out"]["bias"]
        hidden = norm(p["mlp_norm"], x) @ p["up"]["kernel"] + p["up"]["bias"]
        x = x + 0.5 * hidden * (1 + erf(hidden / math.sqrt(2))) @ p["down"]["kernel"] + p["down"]["bias"]
    return x


@pytest.mark.parametrize("mask", [None, CAUSAL], ids=["all", "causal"])
def test_it_is_what_its_formulas_say(mask):
    found = run(SPEC, params(), X) if mask is None else run(SPEC, params(), X, mask=mask)
    seen = np.ones((7, 7), bool) if mask is None else mask[0]
    np.testing.assert_allclose(found, [plain(x, seen) for x in X], rtol=1e-4, atol=1e-4)  # float32 against float64


def test_a_position_that_is_not_seen_changes_nothing_and_one_that_is_does():
    changed = X.copy()
    changed[:, 4:] *= -1.0
    before, after = (np.asarray(run(SPEC, params(), x, mask=CAUSAL)) for x in (X, changed))
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    open_before, open_after = (np.asarray(run(SPEC, params(), x)) for x in (X, changed))
    assert np.abs(open_before[:, :4] - open_after[:, :4]).max(axis=-1).min() > 1e-3


def test_scanned_and_recomputed_stacks_are_the_same():
    expected = run(SPEC, params(), X)
    for fields in ({"scan_layers": True}, {"scan_layers": True, "remat": True}):
        found = run(dataclasses.replace(SPEC, **fields), params(), X)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)  # fused otherwise
    low = run(dataclasses.replace(SPEC, dtype="bfloat16"), params(), X)
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(low.astype(jnp.float32), expected, rtol=0.1, atol=0.1)  # 8 bits of mantissa


def test_flops_are_those_of_the_program():
    spec = ViTSpec(width=128, layers=2, heads=4)
    declared = jax.tree.map(
        lambda p: jax.ShapeDtypeStruct(p.shape, jnp.float32), declare_vit(spec), is_leaf=lambda x: isinstance(x, Param)
    )
    x = jax.ShapeDtypeStruct((2, 64, 128), jnp.float32)
    counted = jax.jit(vit, static_argnums=0).lower(spec, declared, x).compile().cost_analysis()["flops"]
    np.testing.assert_allclose(vit_flops(spec, 2, 64), counted, rtol=0.1)  # XLA also counts norms and activations


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"heads": 5}, "must divide width 12"),
        ({"layers": 0}, "layers: got 0"),
        ({"hidden": -1}, "hidden: got -1"),
    ],
)
def test_shapes_that_cannot_be_are_refused(fields, says):
    with pytest.raises(SpecError, match=says):
        dataclasses.replace(SPEC, **fields)
