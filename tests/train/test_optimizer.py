"""The learning rate and the update against their closed forms."""

import chex
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokjax.core.errors import SpecError
from tokjax.train import OptimizerSpec, make_schedule, make_transform

STEPS, WARMUP, PEAK, FINAL = 100, 10, 0.5, 0.2


def rates(name, **kwargs):
    values = {"learning_rate": PEAK, "warmup_steps": WARMUP, "final_fraction": FINAL, **kwargs}
    schedule = make_schedule(OptimizerSpec(schedule=name, **values), STEPS)
    return np.array([float(schedule(t)) for t in range(STEPS + 1)])


@pytest.mark.parametrize("name", ["cosine", "linear", "constant", "rsqrt", "wsd"])
def test_warmup_rises_in_equal_steps_to_the_peak(name):
    np.testing.assert_allclose(rates(name)[: WARMUP + 1], PEAK * np.arange(1, WARMUP + 2) / (WARMUP + 1), rtol=1e-6)


def test_schedules_have_their_closed_forms():
    t = np.arange(WARMUP, STEPS + 1)
    done = (t - WARMUP) / (STEPS - WARMUP)
    forms = {
        "cosine": FINAL + (1 - FINAL) * (1 + np.cos(np.pi * done)) / 2,
        "linear": 1 - (1 - FINAL) * done,
        "constant": np.ones_like(done),
        "rsqrt": np.sqrt(WARMUP / t),
        "wsd": 1 - (1 - FINAL) * np.clip((t - 80) / 20, 0, 1),
    }
    for name, form in forms.items():
        np.testing.assert_allclose(rates(name)[WARMUP:], PEAK * form, rtol=1e-5, err_msg=name)


@given(warmup=st.integers(0, 19), steps=st.integers(20, 60), name=st.sampled_from(["cosine", "linear", "rsqrt", "wsd"]))
@settings(max_examples=30, deadline=None)
def test_no_update_is_wasted_and_none_exceeds_the_peak(warmup, steps, name):
    schedule = make_schedule(OptimizerSpec(schedule=name, warmup_steps=warmup, final_fraction=0.0), steps)
    values = np.array([float(schedule(t)) for t in range(steps)])
    assert (values > 0).all() and values.max() == pytest.approx(1e-3, rel=1e-6)
    assert (np.diff(values[warmup:]) <= 1e-9).all()


def test_update_is_adamw_with_clipping_and_decay_mask():
    spec = OptimizerSpec(learning_rate=0.1, schedule="constant", weight_decay=0.3, clip_norm=1.0, b1=0.8, b2=0.9)
    transform = make_transform(spec, {"w": True, "scale": False})
    rng = np.random.default_rng(0)
    params = {"w": rng.normal(size=(3, 2)), "scale": rng.normal(size=3)}
    state = transform.init({k: jnp.asarray(v, jnp.float32) for k, v in params.items()})
    mean, square = ({k: np.zeros_like(v) for k, v in params.items()} for _ in range(2))
    for t in range(1, 5):
        gradients = {k: rng.normal(size=v.shape) for k, v in params.items()}
        updates, state = transform.update(
            {k: jnp.asarray(v, jnp.float32) for k, v in gradients.items()},
            state,
            {k: jnp.asarray(v, jnp.float32) for k, v in params.items()},
        )
        norm = np.sqrt(sum((g**2).sum() for g in gradients.values()))
        for k, decay in (("w", 0.3), ("scale", 0.0)):
            g = gradients[k] / max(norm, 1.0)
            mean[k] = 0.8 * mean[k] + 0.2 * g
            square[k] = 0.9 * square[k] + 0.1 * g**2
            adam = mean[k] / (1 - 0.8**t) / (np.sqrt(square[k] / (1 - 0.9**t)) + 1e-8)
            expected = -0.1 * (adam + decay * params[k])
            chex.assert_trees_all_close(0.1 * np.asarray(updates[k]), expected.astype(np.float32), rtol=1e-4, atol=1e-6)
            params[k] = params[k] + expected


@pytest.mark.parametrize(
    "values",
    [
        {"learning_rate": 0.0},
        {"b2": 1.0},
        {"ema_decay": 1.0},
        {"clip_norm": 0.0},
        {"accumulate_steps": 0},
        {"final_fraction": 1.5},
    ],
)
def test_impossible_values_name_their_field(values):
    with pytest.raises(SpecError, match=next(iter(values))):
        OptimizerSpec(**values)


def test_warmup_longer_than_the_run_is_an_error():
    with pytest.raises(SpecError, match="warmup_steps"):
        make_schedule(OptimizerSpec(warmup_steps=10), 10)
