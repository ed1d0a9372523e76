"""A real system, small enough to train in milliseconds: a two-layer regression with masks, noise and carried state."""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np

from tokjax.core.types import System
from tokjax.nn.param import Param, fan_in, zeros
from tokjax.sharding import constrain
from tokjax.train import OptimizerSpec, TrainSpec, fit

WIDTH, HIDDEN, ROWS = 8, 16, 8
CONFIG = {"system": {"name": "tiny"}, "train": {"steps": 6}}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tiny(System):
    noise: float = 0.01
    hidden: int = HIDDEN

    def declare(self):
        return {
            "first": Param((WIDTH, self.hidden), ("embed", "mlp"), fan_in(WIDTH)),
            "bias": Param((self.hidden,), ("mlp",), zeros, decay=False),
            "second": Param((self.hidden, WIDTH), ("mlp", "embed"), fan_in(self.hidden)),
        }

    def init_state(self, key):
        return {"mean": jnp.zeros((WIDTH,), jnp.float32)}

    def loss(self, params, state, batch, key):
        x = batch["x"] + self.noise * jax.random.normal(key, batch["x"].shape)
        h = constrain(jnp.tanh(x @ params["first"] + params["bias"]), "batch", "mlp")
        squares = jnp.sum((h @ params["second"] - batch["y"]) ** 2, axis=-1) * batch["mask"]
        total, count = jnp.sum(squares), jnp.sum(batch["mask"])
        state = {"mean": 0.9 * state["mean"] + 0.1 * jnp.mean(batch["x"], axis=0)}
        return total / jnp.maximum(count, 1.0), (state, {"loss": (total, count), "rows": (count, jnp.float32(1.0))})

    def flops(self, batch_size, length):
        return 4.0 * batch_size * length * WIDTH * self.hidden


def batch(step):
    generator = np.random.default_rng([7, step])
    x = generator.standard_normal((ROWS, WIDTH), np.float32)
    mask = np.ones(ROWS, np.float32)
    mask[step % ROWS] = 0.0
    return {"x": x, "y": np.roll(x, 1, axis=1), "mask": mask}


def evaluate(state):
    return {"norm": float(sum(jnp.sum(p**2) for p in jax.tree.leaves(state.inference_params)))}


def train(workdir, *, steps=6, system=None, optimizer=None, config=CONFIG, **kwargs):
    spec = {"log_every": 1, "eval_every": 3, "checkpoint_every": 2}
    fit_arguments = {"evaluate": evaluate, "progress": False, "batch": batch}
    for name, value in kwargs.items():
        (fit_arguments if name in ("evaluate", "progress", "batch", "mesh", "tables_hash") else spec)[name] = value
    return fit(
        system or Tiny(),
        fit_arguments.pop("batch"),
        TrainSpec(steps=steps, **spec),
        optimizer or OptimizerSpec(learning_rate=0.01, warmup_steps=2, ema_decay=0.9),
        workdir=workdir,
        config=config,
        **fit_arguments,
    )


def main(workdir, steps, delay):
    """What the tests of signals run in a process of its own; every batch takes `delay` seconds."""
    import time

    def slow(step):
        time.sleep(delay)
        return batch(step)

    print("started", flush=True)
    state = train(workdir, steps=steps, batch=slow)
    print(f"stopped={state.stopped} step={int(state.step)}", flush=True)
    sys.exit(130 if state.stopped == "SIGINT" else 0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
