"""What training carries from step to step, born already laid over the mesh."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from tokjax.core.keys import named
from tokjax.core.types import Params, System
from tokjax.nn.param import materialize
from tokjax.sharding import param_shardings, replicated


@flax.struct.dataclass
class TrainState:
    """Everything that a step reads and writes.

    Attributes:
      step: int32 scalar, updates made so far; also the position in the data.
      params: the trained parameters.
      opt_state: the optimizer's own arrays.
      system_state: what the system carries that gradients do not train.
      ema: average of the parameters, or None.
      stopped: why `fit` returned before the last step ('SIGTERM', 'SIGINT', 'time_limit'), or None. Static.
    """

    step: Any
    params: Params
    opt_state: Any
    system_state: Params
    ema: Params | None = None
    stopped: str | None = flax.struct.field(pytree_node=False, default=None)

    @property
    def inference_params(self) -> Params:
        """The averaged parameters where there are any, else the trained ones."""
        return self.params if self.ema is None else self.ema


def initializer(
    system: System, transform: optax.GradientTransformation, *, ema: bool
) -> Callable[[jax.Array], TrainState]:
    """Returns the pure function key -> state of step 0."""

    def init(key: jax.Array) -> TrainState:
        params = materialize(system.declare(), named(key, "params"))
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=transform.init(params),
            system_state=system.init_state(named(key, "state")),
            # The first update overwrites it; zeros of its own, because a donated buffer may appear once only.
            ema=jax.tree.map(jnp.zeros_like, params) if ema else None,
        )

    return init


def state_shardings(
    system: System, transform: optax.GradientTransformation, abstract: TrainState, mesh: Mesh
) -> TrainState:
    """Returns the sharding of every array of the state: averages of a parameter lie as the parameter does.

    Args:
      system: declares the logical axes of its parameters.
      transform: whose state has copies of the parameter tree in it.
      abstract: shapes of the state, from `jax.eval_shape`.
      mesh: the devices.

    Raises:
      SpecError: a parameter that does not fit the mesh, by name.
    """
    whole = replicated(mesh)
    params = param_shardings(system.declare(), mesh)
    return TrainState(
        step=whole,
        params=params,
        opt_state=optax.tree_utils.tree_map_params(
            transform, lambda _, sharding: sharding, abstract.opt_state, params, transform_non_params=lambda _: whole
        ),
        system_state=jax.tree.map(lambda _: whole, abstract.system_state),
        ema=None if abstract.ema is None else params,
    )
