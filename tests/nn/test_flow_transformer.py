"""The flow transformer against a plain NumPy reading of one block, and what its masks and gates let through."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokjax.core.errors import SpecError
from tokjax.nn.flow_transformer import (
    MASK_MODES,
    FlowTransformerSpec,
    declare_flow_head,
    declare_flow_transformer,
    declare_time,
    flow_head,
    flow_transformer,
    register_mask,
    time_embedding,
)
from tokjax.nn.param import Param, materialize
from tokjax.nn.patches import patchify, unpatchify

SPEC = FlowTransformerSpec(layers=2, width=16, head_dim=8, hidden=24, scan_layers=True)
B, P, N, D = 2, 4, 3, 16
RANDOM = np.random.default_rng(0)
PATCHES, REGISTERS = (RANDOM.standard_normal((B, length, D)).astype(np.float32) for length in (P, N))
CONDITION = RANDOM.standard_normal((B, D)).astype(np.float32)
KEY = jax.random.key(0)
EVERY = register_mask("full", P, N)


@functools.cache
def drawn(*, conditioned=True):
    """Parameters as wide as at birth, but for the modulation, which is not zero."""
    declared, generator = declare_flow_transformer(SPEC, conditioned=conditioned), np.random.default_rng(1)
    return jax.tree.map(
        lambda p: (0.3 * generator.standard_normal(p.shape)).astype(np.float32),
        declared,
        is_leaf=lambda x: isinstance(x, Param),
    )


@functools.partial(jax.jit, static_argnames="spec")
def run(params, x, r, c=None, mask=EVERY, *, spec=SPEC):
    return flow_transformer(spec, params, x, r, condition=c, mask=mask)


def test_masks():
    full, causal, last = (register_mask(mode, 2, 2).astype(int).tolist() for mode in MASK_MODES)
    assert full == [[1, 1, 1, 1]] * 4
    assert causal == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    assert last == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    with pytest.raises(SpecError, match=r"mask.*causal_last"):
        register_mask("casual", 2, 2)


@pytest.mark.parametrize("mode", MASK_MODES)
def test_registers_see_what_their_mask_says(mode):
    """Through two blocks: register i does not move, to the last bit, when later ones change, unless all see all."""
    params, mask = drawn(conditioned=False), register_mask(mode, P, N)
    patches, registers = run(params, PATCHES, REGISTERS, mask=mask)
    for i in range(N - 1):
        others = run(params, PATCHES, REGISTERS * np.where(np.arange(N) > i, -1, 1)[:, None], mask=mask)
        for found, before in ((others[1][:, : i + 1], registers[:, : i + 1]), (others[0], patches)):
            if mode == "full":
                assert np.abs(found - before).max() > 0.01
            else:  # patches, too: they would carry news of later registers
                np.testing.assert_array_equal(found, before)
    other = run(params, PATCHES * np.where(np.arange(P) == P - 1, -1, 1)[:, None], REGISTERS, mask=mask)
    first = np.abs(other[0][:, 0] - patches[:, 0]).max()
    assert first == 0 if mode == "causal" else first > 0.01
    assert np.abs(other[1] - registers).max(axis=-1).min() > 0.01, "every register sees every patch"


def test_gates_start_closed():
    """At birth a conditioned stack is the identity but for the last norm, whatever the condition; the head says 0."""
    modulation = declare_flow_transformer(SPEC, conditioned=True)["modulation"]
    assert not np.any(modulation.init(KEY, modulation.shape))
    params = drawn() | {"modulation": np.zeros(modulation.shape, np.float32)}
    patches, registers = run(params, PATCHES, REGISTERS, CONDITION)
    np.testing.assert_allclose(patches, _norm(PATCHES), atol=1e-6)
    np.testing.assert_allclose(registers, _norm(REGISTERS), atol=1e-6)
    assert not np.any(flow_head(materialize(declare_flow_head(D, 5), KEY), patches, CONDITION))


def test_patches_and_registers_have_modulations_of_their_own():
    modulation = drawn()["modulation"] * (np.arange(2) == 0)[:, None, None]  # of patches alone
    patches, registers = run(drawn() | {"modulation": modulation}, PATCHES, REGISTERS, CONDITION)
    np.testing.assert_allclose(registers, _norm(REGISTERS), atol=1e-6)
    assert np.abs(patches - _norm(PATCHES)).max() > 0.1


def _norm(x):
    x = np.asarray(x, np.float64)
    centred = x - np.mean(x, axis=-1, keepdims=True)
    return centred * (1.0 / np.sqrt(np.mean(np.square(centred), axis=-1, keepdims=True) + 1e-6))


def _silu(x):
    return x / (1.0 + np.exp(-x))


def _block(p, x, condition, mask):
    """One block in float64, position by position of the modulation."""
    m = np.einsum("bd,dkse->bkse", _silu(condition), p["modulation"])
    m = np.concatenate([np.repeat(m[:, :1], P, 1), np.repeat(m[:, 1:], N, 1)], axis=1)  # [B, T, 6, D]
    y = _norm(x) * (1 + m[:, :, 1]) + m[:, :, 0]
    q, k, v = np.moveaxis(np.einsum("btd,dshk->btshk", y, p["query_key_value"]), 2, 0)
    scores = np.einsum("bthk,bshk->bhts", _norm(q), _norm(k)) * 8 / SPEC.head_dim
    weights = np.where(mask, np.exp(scores), 0.0)
    weights /= weights.sum(-1, keepdims=True)
    x = x + m[:, :, 2] * np.einsum("bhts,bshk,hkd->btd", weights, v, p["attention_out"])
    y = _norm(x) * (1 + m[:, :, 4]) + m[:, :, 3]
    gate, up = np.moveaxis(np.einsum("btd,dsf->btsf", y, p["mlp"]["gate_up"]), 2, 0)
    return x + m[:, :, 5] * ((_silu(gate) * up) @ p["mlp"]["down"])


def test_it_is_what_a_plain_reading_of_the_paper_says():
    params = drawn()
    found = run(params, PATCHES, REGISTERS, CONDITION, register_mask("causal_last", P, N))
    x = np.concatenate([PATCHES, REGISTERS], axis=1).astype(np.float64)
    for layer in range(SPEC.layers):
        p = jax.tree.map(lambda a: np.asarray(a[layer], np.float64), params)  # noqa: B023
        x = _block(p, x, np.asarray(CONDITION, np.float64), register_mask("causal_last", P, N))
    np.testing.assert_allclose(np.concatenate(found, axis=1), _norm(x), atol=2e-5)  # float32 against float64


def test_a_loop_over_layers_is_the_unrolled_program_and_no_mask_lets_all_see_all():
    looped = run(drawn(), PATCHES, REGISTERS, CONDITION)
    other = dataclasses.replace(SPEC, scan_layers=False, remat=True)
    unrolled = run(drawn(), PATCHES, REGISTERS, CONDITION, None, spec=other)
    np.testing.assert_allclose(np.concatenate(looped, 1), np.concatenate(unrolled, 1), atol=1e-5)  # other fusions


def test_sizes_follow_the_depth():
    assert [FlowTransformerSpec(layers=n).width for n in (12, 18, 28)] == [768, 1152, 1792]
    assert FlowTransformerSpec(layers=12).hidden == 2048
    with pytest.raises(SpecError, match="head_dim"):
        FlowTransformerSpec(layers=2, width=100)
    with pytest.raises(SpecError, match="layers"):
        FlowTransformerSpec(layers=0)


def test_times_are_told_apart():
    params = materialize(declare_time(D), KEY)
    found = time_embedding(params, jnp.array([0.0, 0.01, 0.5, 1.0]))
    distances = jnp.linalg.norm(found[:, None] - found, axis=-1) + 9 * jnp.eye(4)
    assert found.dtype == jnp.float32 and jnp.min(distances) > 0.1


def test_patches_are_squares_in_raster_order():
    images = RANDOM.standard_normal((2, 6, 6, 3))
    patches = patchify(images, 2)
    np.testing.assert_array_equal(patches[1, 5].reshape(2, 2, 3), images[1, 2:4, 4:6])  # second row, third column
    np.testing.assert_array_equal(unpatchify(patches, 2, 3), images)
