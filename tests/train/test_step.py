"""What one step means: micro-batches equal the batch, the average has its closed form, lost numbers are named."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_system import ROWS, Tiny, batch

from tokjax.core.errors import SpecError
from tokjax.nn.param import decay_mask, materialize, stack
from tokjax.train import OptimizerSpec, make_transform
from tokjax.train.state import initializer
from tokjax.train.step import accumulate_gradients, make_step, micro_batches, parts, update_ema

KEY = jax.random.key(3)
accumulate = jax.jit(accumulate_gradients, static_argnums=(0, 5))


@given(count=st.sampled_from([2, 4, 8]), masked=st.sets(st.integers(0, ROWS - 1), max_size=ROWS - 1))
@settings(max_examples=12, deadline=None)
def test_accumulation_equals_the_full_batch_however_the_padding_is_spread(count, masked):
    system = Tiny(noise=0.0)
    rows = batch(0)
    rows["mask"] = np.array([0.0 if i in masked else 1.0 for i in range(ROWS)], np.float32)
    params = materialize(system.declare(), KEY)
    loss, gradients, _, aux = accumulate(system, params, system.init_state(KEY), rows, KEY, 1)
    split_loss, split_gradients, _, split_aux = accumulate(system, params, system.init_state(KEY), rows, KEY, count)
    chex.assert_trees_all_close(split_loss, loss, rtol=1e-5)
    chex.assert_trees_all_close(split_gradients, gradients, rtol=1e-4, atol=1e-6)  # order of float32 sums
    chex.assert_trees_all_close(split_aux["loss"], aux["loss"], rtol=1e-5)


def test_micro_batches_partition_the_rows():
    rows = {"x": jnp.arange(24).reshape(12, 2)}
    split = micro_batches(rows, 3)["x"]
    assert split.shape == (3, 4, 2)
    np.testing.assert_array_equal(np.sort(split.reshape(12, 2), axis=0), rows["x"])
    np.testing.assert_array_equal(split[1], rows["x"][1::3])


def test_a_count_that_does_not_divide_the_batch_is_an_error():
    with pytest.raises(SpecError, match="accumulate_steps"):
        micro_batches({"x": jnp.zeros((8, 2))}, 3)


@given(decay=st.sampled_from([0.0, 0.5, 0.9, 0.9999]), count=st.integers(1, 12))
@settings(max_examples=20, deadline=None)
def test_parameter_average_has_its_closed_form(decay, count):
    values = np.random.default_rng(count).normal(size=(count, 3))
    ema = jnp.full(3, 1e3)  # whatever it was before the first update is forgotten
    for t, value in enumerate(values, 1):
        ema = update_ema(ema, jnp.asarray(value, jnp.float32), decay, jnp.int32(t))
    weights = decay ** np.arange(count - 1, -1, -1)
    # 1e3 of float32 leaves a rounding error of 1e-4.
    np.testing.assert_allclose(ema, weights @ values / weights.sum(), rtol=1e-4, atol=5e-4)


def make(optimizer, system=Tiny()):  # noqa: B008
    transform = make_transform(optimizer, decay_mask(system.declare()))
    state = initializer(system, transform, ema=optimizer.ema_decay is not None)(KEY)
    step = jax.jit(make_step(system, transform, optimizer))
    return lambda state, batch, key: step(state, batch, key, jnp.float32(optimizer.learning_rate)), state


def test_undecayed_parameters_with_no_gradient_stand_still():
    class Ignoring(Tiny):
        def loss(self, params, state, batch, key):
            return jnp.float32(1.0), (state, {})

    step, state = make(OptimizerSpec(schedule="constant", learning_rate=0.1, weight_decay=0.5), Ignoring())
    after, metrics = step(state, batch(0), KEY)
    np.testing.assert_array_equal(after.params["bias"], state.params["bias"])
    np.testing.assert_allclose(after.params["first"], 0.95 * state.params["first"], rtol=1e-6)
    assert after.ema is None and int(after.step) == 1 and float(metrics.learning_rate) == pytest.approx(0.1)


def test_noise_differs_between_steps_and_repeats_for_a_step():
    step, state = make(OptimizerSpec())
    rows = batch(0)
    first, again = step(state, rows, KEY)[1].loss, step(state, rows, KEY)[1].loss
    later = step(state.replace(step=jnp.int32(5)), rows, KEY)[1].loss
    assert first == again and first != later


def test_gradient_norms_are_those_of_the_declared_parameters():
    step, state = make(OptimizerSpec(clip_norm=1e-3), Tiny(noise=0.0))
    _, metrics = step(state, batch(0), KEY)
    gradients = jax.grad(lambda p: Tiny(noise=0.0).loss(p, state.system_state, batch(0), KEY)[0])(state.params)
    expected = [np.linalg.norm(np.ravel(g)) for g in jax.tree.leaves(gradients)]
    np.testing.assert_allclose(metrics.gradient_norms, expected, rtol=1e-5)  # before clipping


def test_every_layer_of_a_stack_has_a_gradient_norm_of_its_own():
    class Stacked(Tiny):
        def declare(self):
            return {"all": stack({"up": super().declare()["first"]}, 3), "last": super().declare()["second"]}

        def loss(self, params, state, batch, key):
            hidden = sum((layer + 1) * batch["x"] @ params["all"]["up"][layer] for layer in range(3))
            return jnp.mean((jnp.tanh(hidden) @ params["last"] - batch["y"]) ** 2), (state, {})

    system = Stacked()
    assert [part.block for part in parts(system.declare())] == ["all/0", "all/1", "all/2", "last"]
    assert parts(system.declare())[1].name == "layer 1 of ['all']['up']"
    step, state = make(OptimizerSpec(), system)
    _, metrics = step(state, batch(0), KEY)
    of_one = float(metrics.gradient_norms[0])  # layer n counts n + 1 times, and so does its gradient
    np.testing.assert_allclose(metrics.gradient_norms[:3], [of_one, 2 * of_one, 3 * of_one], rtol=1e-5)
    gradients = jax.grad(lambda p: system.loss(p, state.system_state, batch(0), KEY)[0])(state.params)
    whole = [np.linalg.norm(np.ravel(gradients["all"]["up"])), np.linalg.norm(np.ravel(gradients["last"]))]
    found = [np.linalg.norm(metrics.gradient_norms[:3]), metrics.gradient_norms[3]]
    np.testing.assert_allclose(found, whole, rtol=1e-5)
