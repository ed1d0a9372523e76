"""Compiled programs of a run, kept for the next run of the same shapes in this process.

A sweep over learning rates or seeds makes many runs that differ in arguments only; they compile once.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from tokjax.core.types import System
from tokjax.nn.param import decay_mask
from tokjax.sharding import replicated
from tokjax.train.optimizer import OptimizerSpec, make_transform
from tokjax.train.state import TrainState, initializer, state_shardings
from tokjax.train.step import make_step

KEPT = 8  # programs of each kind


@dataclasses.dataclass(frozen=True, eq=False)
class Programs:
    """What one system, optimizer and mesh run.

    Attributes:
      state: shapes, types and shardings of the state.
      init: (key) -> state of step 0.
      step: (state, batch, key, learning rate) -> (state, metrics), jitted; the state is donated.
    """

    state: TrainState
    init: Callable[[jax.Array], TrainState]
    step: Any

    def compile_step(self, batch: Any, key: jax.Array) -> Callable[..., Any]:
        """Returns the step compiled for batches of the shapes and shardings of `batch`."""
        leaves, tree = jax.tree.flatten(jax.tree.map(_abstract, batch))
        return self._compiled(tree, tuple(leaves), _abstract(key))

    @functools.lru_cache(maxsize=KEPT)  # noqa: B019  (instances live in a bounded cache themselves)
    def _compiled(self, tree: Any, leaves: tuple[Any, ...], key: Any) -> Callable[..., Any]:
        rate = jax.ShapeDtypeStruct((), jnp.float32)
        return self.step.lower(self.state, jax.tree.unflatten(tree, leaves), key, rate).compile()


def programs(system: System, optimizer: OptimizerSpec, mesh: Mesh) -> Programs:
    """Returns the programs of a run; call it with `mesh` in use.

    Raises:
      SpecError: a parameter that does not fit the mesh.
    """
    defaults = OptimizerSpec()
    schedule = ("learning_rate", "schedule", "warmup_steps", "final_fraction", "decay_fraction")
    # The learning rate is an argument of the step, so optimizers that differ in their schedules share programs.
    shared = dataclasses.replace(optimizer, **{name: getattr(defaults, name) for name in schedule})
    return _programs(system, shared, mesh)


@functools.lru_cache(maxsize=KEPT)
def _programs(system: System, optimizer: OptimizerSpec, mesh: Mesh) -> Programs:
    transform = make_transform(optimizer, decay_mask(system.declare()))
    init = initializer(system, transform, ema=optimizer.ema_decay is not None)
    shapes = jax.eval_shape(lambda: init(jax.random.key(0)))
    shardings = state_shardings(system, transform, shapes, mesh)
    return Programs(
        state=jax.tree.map(lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where), shapes, shardings),
        init=jax.jit(init, out_shardings=shardings),
        step=jax.jit(
            make_step(system, transform, optimizer), donate_argnums=0, out_shardings=(shardings, replicated(mesh))
        ),
    )


def _abstract(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
