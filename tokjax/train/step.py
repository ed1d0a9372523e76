"""One training step: gradients over micro-batches, the update, the parameter average, and what to report."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from tokjax.core.errors import SpecError
from tokjax.core.keys import named
from tokjax.core.types import Aux, Params, System
from tokjax.nn.param import stacked
from tokjax.train.optimizer import OptimizerSpec
from tokjax.train.state import TrainState


@flax.struct.dataclass
class StepMetrics:
    """What a step reports, all on the devices until somebody reads it.

    Attributes:
      loss: scalar that was minimized.
      aux: metric name -> (sum, count) over the whole batch.
      gradient_norms: [parts], L2 norm of the gradient of each of `parts` before clipping.
      update_norm: scalar, L2 norm of the change of all parameters.
      learning_rate: scalar used for this step.
    """

    loss: jax.Array
    aux: Aux
    gradient_norms: jax.Array
    update_norm: jax.Array
    learning_rate: jax.Array


class Part(NamedTuple):
    """A parameter, or one layer of a parameter that all layers of a stack share.

    Attributes:
      name: its path, and which layer.
      block: what it is reported with: the first key of its path, and the layer of a stack, as in 'backbone/3'.
    """

    name: str
    block: str


def parts(declared: Params) -> list[Part]:
    """Returns what `StepMetrics.gradient_norms` are of, in their order.

    Args:
      declared: as of `System.declare`.
    """
    found = []
    for path, layers in jax.tree_util.tree_leaves_with_path(stacked(declared)):
        name, block = jax.tree_util.keystr(path), jax.tree_util.keystr(path[:1], simple=True)
        if layers:
            found += [Part(f"layer {layer} of {name}", f"{block}/{layer}") for layer in range(layers)]
        else:
            found.append(Part(name, block))
    return found


def micro_batches(batch: Any, count: int) -> Any:
    """Splits every array [B, ...] of `batch` into [count, B / count, ...].

    Micro-batch i has rows i, i + count, ...: each device keeps the rows it already holds.

    Raises:
      SpecError: `count` does not divide B.
    """

    def split(array: jax.Array) -> jax.Array:
        if array.ndim == 0:
            return jnp.broadcast_to(array, (count,))
        if array.shape[0] % count:
            raise SpecError(
                f"optimizer.accumulate_steps: got {count}, which does not divide the batch of {array.shape[0]} rows."
            )
        return array.reshape(array.shape[0] // count, count, *array.shape[1:]).swapaxes(0, 1)

    return jax.tree.map(split, batch)


def accumulate_gradients(
    system: System, params: Params, state: Params, batch: Any, key: jax.Array, count: int
) -> tuple[jax.Array, Params, Params, Aux]:
    """Computes the loss and its gradient over `count` micro-batches, in the memory of one.

    Micro-batches are weighted by the count of the metric 'loss' (for language, the targets that count), so that the
    mean is that of the whole batch however the padding is spread; alike where a system reports no such metric.

    Args:
      batch: pytree of arrays [B, ...].
      count: micro-batches; must divide B.

    Returns:
      (scalar loss, gradients, new system state, metrics).
    """
    gradient = jax.value_and_grad(system.loss, has_aux=True)
    if count == 1:
        (loss, (state, aux)), gradients = gradient(params, state, batch, key)
        return loss, gradients, state, aux

    def body(carry: Any, inputs: Any) -> Any:
        state, total, weight_sum = carry
        index, rows = inputs
        (loss, (state, aux)), gradients = gradient(params, state, rows, jax.random.fold_in(key, index))
        weight = jnp.asarray(aux["loss"][1] if "loss" in aux else 1.0, jnp.float32)
        total = jax.tree.map(lambda t, g: t + weight * g, total, gradients)
        return (state, total, weight_sum + weight), (weight * loss, aux)

    start = (state, jax.tree.map(jnp.zeros_like, params), jnp.zeros((), jnp.float32))
    steps = (jnp.arange(count), micro_batches(batch, count))
    (state, total, weight_sum), (losses, aux) = jax.lax.scan(body, start, steps)
    scale = 1.0 / jnp.maximum(weight_sum, jnp.finfo(jnp.float32).tiny)
    gradients = jax.tree.map(lambda g: scale * g, total)
    return scale * jnp.sum(losses), gradients, state, jax.tree.map(lambda x: jnp.sum(x, axis=0), aux)


def update_ema(ema: Params, params: Params, decay: float, count: jax.Array) -> Params:
    """Moves the average towards `params`; the bias of a short history is corrected.

    After t updates it is sum_i decay^(t-i) params_i / sum_i decay^(t-i), whatever `ema` was before the first.

    Args:
      count: int scalar t >= 1, updates including this one.
    """
    # (1 - d) / (1 - d^t), through expm1 because d is close to 1; exactly 1 at first, so that what never changes is its
    # own average.
    rate = 1.0 if decay == 0.0 else jnp.where(count == 1, 1.0, (1.0 - decay) / -jnp.expm1(count * math.log(decay)))
    return jax.tree.map(lambda e, p: e + rate * (p - e), ema, params)


def make_step(
    system: System, transform: optax.GradientTransformation, optimizer: OptimizerSpec
) -> Callable[[TrainState, Any, jax.Array, jax.Array], tuple[TrainState, StepMetrics]]:
    """Returns the pure function (state, batch, run key, learning rate) -> (next state, what to report)."""
    layers = stacked(system.declare())

    def step(state: TrainState, batch: Any, key: jax.Array, learning_rate: jax.Array) -> tuple[TrainState, StepMetrics]:
        key = jax.random.fold_in(named(key, "loss"), state.step)
        loss, gradients, system_state, aux = accumulate_gradients(
            system, state.params, state.system_state, batch, key, optimizer.accumulate_steps
        )
        directions, opt_state = transform.update(gradients, state.opt_state, state.params)
        updates = jax.tree.map(lambda direction: learning_rate * direction, directions)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if optimizer.ema_decay is not None:
            ema = update_ema(ema, params, optimizer.ema_decay, state.step + 1)
        metrics = StepMetrics(
            loss=loss,
            aux=aux,
            gradient_norms=_norms(gradients, layers),
            update_norm=jnp.linalg.norm(_norms(updates, layers)),
            learning_rate=learning_rate,
        )
        return TrainState(state.step + 1, params, opt_state, system_state, ema), metrics

    return step


def _norms(tree: Params, layers: Any) -> jax.Array:
    """The L2 norm of every array of `tree`, of those that are stacked of every layer: [parts]."""

    def squares(x: jax.Array, count: int) -> jax.Array:
        return jnp.sum(jnp.square(x), axis=range(1, x.ndim)) if count else jnp.sum(jnp.square(x))[None]

    return jnp.sqrt(jnp.concatenate(jax.tree.leaves(jax.tree.map(squares, tree, layers))))
