"""What a training step is, in numbers: traced once from a configuration, then laid over any mesh.

Nothing is compiled and nothing allocated. Parameters, optimizer and batch are those that training makes, so that their
bytes are exact. Activations are what JAX keeps for the backward pass of a row, read off the traced gradient: they know
of recomputation as the program does, but not of what a compiler fuses.
"""

import dataclasses
import functools
import math
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, AxisType

from tokjax.core.errors import SpecError
from tokjax.core.platform import compiling_for
from tokjax.core.spec import build
from tokjax.core.types import System
from tokjax.experiment.abstract import abstract_batch, abstract_system, batch_flops, positions
from tokjax.measure.pods import Weight, Work
from tokjax.nn.param import Param, count, decay_mask, materialize
from tokjax.sharding import RULES, partition, sharding_of
from tokjax.train import OptimizerSpec
from tokjax.train.optimizer import make_transform
from tokjax.train.state import TrainState, initializer, state_shardings

_FEW, _MORE = 3, 5  # rows of two traces: what grows from one to the other is of rows
_KEY_AND_RATE = 8 + 4  # bytes of what a step takes beside state and batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Activation:
    """An array kept for the backward pass.

    Attributes:
      size: bytes of one row.
      layers: of a stack whose layers each keep as much; 1 outside stacks.
      split: whether the mesh axis `tensor` splits it.
    """

    size: float
    layers: int
    split: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class TracedStep:
    """A training step of a configuration, before it is laid over a mesh.

    Attributes:
      system: as the configuration builds it.
      optimizer: as the configuration has it.
      data: fields of the configuration's data.
      flops: forward FLOPs of a row on the platform it was traced for.
      kept: what is kept for the backward pass.
      made: what would be kept if nothing were computed again.
      inputs: what is kept if all layers are.
    """

    system: System
    optimizer: OptimizerSpec
    data: dict[str, Any]
    flops: float
    kept: tuple[Activation, ...]
    made: tuple[Activation, ...]
    inputs: tuple[Activation, ...]

    @property
    def parameters(self) -> int:
        """Trained numbers."""
        return count(self.system.declare())

    @property
    def positions(self) -> int:
        """Positions of a row."""
        return positions(self.system, self.data)

    @property
    def recomputes(self) -> bool:
        """Whether layers are run again in the backward pass."""
        return any(getattr(spec, "remat", False) for spec in _specs(self.system))

    def with_rows(self, rows: int, micro_batches: int) -> "TracedStep":
        """Returns the step of another batch."""
        optimizer = dataclasses.replace(self.optimizer, accumulate_steps=micro_batches)
        return dataclasses.replace(self, data=self.data | {"batch_size": rows}, optimizer=optimizer)


def traced_step(config: dict[str, Any], platform: str) -> TracedStep:
    """Traces the training step of a configuration.

    Args:
      config: as of `load_config(...).to_dict()`.
      platform: `cpu`, `gpu` or `tpu`, which determines the implementations that the system takes.

    Raises:
      SpecError: fields that do not fit, or a system that only another run's codes determine.
    """
    with compiling_for(platform), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a kernel cannot run here: it will run elsewhere
        system = abstract_system(config)
        trace = functools.partial(_activations, data=config["data"])
        return TracedStep(
            system=system,
            optimizer=build(OptimizerSpec, config["optimizer"], where="optimizer"),
            data=config["data"],
            flops=batch_flops(system, config["data"]) / config["data"]["batch_size"],
            kept=trace(_changed(system, scan_layers=True)),
            made=trace(_changed(system, scan_layers=True, remat=False)),
            inputs=trace(_changed(system, scan_layers=True, remat=True)),
        )


def work_on(step: TracedStep, mesh: dict[str, int]) -> Work:
    """Returns what `step` is on a mesh.

    Args:
      step: as traced.
      mesh: devices per axis of `MESH_AXES`.

    Raises:
      SpecError: an array that does not divide over the mesh, or micro-batches that do not.
    """
    rows, micro_batches = step.data["batch_size"], step.optimizer.accumulate_steps
    state = _state_bytes(step, mesh)
    devices = mesh["data"] * mesh["fsdp"]
    if rows % (micro_batches * devices):
        raise SpecError(
            f"optimizer.accumulate_steps: {micro_batches} parts of a batch of {rows} rows are no whole rows on each of "
            f"{devices} devices (mesh axes data, fsdp); make data.batch_size a multiple of {micro_batches * devices}."
        )

    def total(activations: tuple[Activation, ...]) -> dict[int, float]:
        """Bytes of a row on a device, by the layers of the stack that keeps them."""
        sizes: dict[int, float] = {}
        for one in activations:
            parts = mesh["sequence"] * (mesh["tensor"] if one.split else 1)
            sizes[one.layers] = sizes.get(one.layers, 0.0) + one.size / parts
        return sizes

    made, kept, inputs = (total(of) for of in (step.made, step.kept, step.inputs))
    ends = kept.pop(1, 0.0)
    made.pop(1, None)
    inputs.pop(1, None)
    leaves = jax.tree.leaves(step.system.declare(), is_leaf=lambda x: isinstance(x, Param))
    return Work(
        weights=tuple(_weight(p, mesh) for p in leaves),
        number=2 if any(getattr(spec, "dtype", "") == "bfloat16" for spec in _specs(step.system)) else 4,
        flops=step.flops * rows,
        rows=rows,
        micro_batches=micro_batches,
        recomputes=step.recomputes,
        kept=sum(kept.values()),
        layer=max((size / layers for layers, size in made.items()), default=0.0),
        layers=sum(made.values()),
        ends=ends,
        inputs=sum(inputs.values()) * mesh["sequence"],
        state=state,
    )


def _weight(param: Param, mesh: dict[str, int]) -> Weight:
    spec = partition(param.axes, mesh, name="parameter")
    split = tuple(axis for entry in spec for axis in ((entry,) if isinstance(entry, str) else entry or ()))
    layers = param.shape[0] if param.axes and param.axes[0] == "layers" else 1
    return Weight(size=math.prod(param.shape), layers=layers, split=split)


def _state_bytes(step: TracedStep, sizes: dict[str, int]) -> dict[str, int]:
    """Bytes of what a step is given, on one device, by what it is; exactly those of the program's arguments."""
    mesh = AbstractMesh(tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))
    transform, shapes = _state(step.system, dataclasses.replace(step.optimizer, accumulate_steps=1))
    where: TrainState = state_shardings(step.system, transform, shapes, mesh)  # type: ignore[arg-type]

    def size(shapes: Any, shardings: Any) -> int:
        return sum(
            math.prod(sharding.shard_shape(x.shape)) * x.dtype.itemsize
            for x, sharding in zip(jax.tree.leaves(shapes), jax.tree.leaves(shardings), strict=True)
        )

    def laid(path: Any, x: Any) -> Any:
        axes, name = ("batch", *[None] * (x.ndim - 1)), f"batch{jax.tree_util.keystr(path)}"
        return sharding_of(axes, x.shape, mesh, name=name)  # type: ignore[arg-type]

    batch = abstract_batch(step.system, step.data)
    found = {
        "parameters": size(shapes.params, where.params),
        "optimizer": size(shapes.opt_state, where.opt_state),
        "average of parameters": size(shapes.ema, where.ema),
        "other state": size((shapes.step, shapes.system_state), (where.step, where.system_state)),
        "batch": size(batch, jax.tree_util.tree_map_with_path(laid, batch)) + _KEY_AND_RATE,
    }
    return {name: size for name, size in found.items() if size}


@functools.lru_cache(maxsize=4)
def _state(system: System, optimizer: OptimizerSpec) -> tuple[optax.GradientTransformation, TrainState]:
    """The optimizer and the shapes of the state that it trains."""
    transform = make_transform(optimizer, decay_mask(system.declare()))
    init = initializer(system, transform, ema=optimizer.ema_decay is not None)
    return transform, jax.eval_shape(lambda: init(jax.random.key(0)))


def _specs(spec: Any) -> Iterator[Any]:
    """`spec` and every spec inside it."""
    yield spec
    for field in dataclasses.fields(spec):
        value = getattr(spec, field.name)
        if dataclasses.is_dataclass(value):
            yield from _specs(value)


def _changed(spec: Any, **fields: Any) -> Any:
    """Returns `spec` with other values of those fields that it, or a spec inside it, has."""
    new = {}
    for field in dataclasses.fields(spec):
        value = getattr(spec, field.name)
        if field.name in fields:
            new[field.name] = fields[field.name]
        elif dataclasses.is_dataclass(value):
            new[field.name] = _changed(value, **fields)
    return dataclasses.replace(spec, **new)


@functools.lru_cache(maxsize=4)
def _kept(system: System, rows: int, data: tuple[tuple[str, Any], ...]) -> tuple[jax.ShapeDtypeStruct, ...]:
    """The arrays that the gradient of a batch of so many rows keeps from the forward pass."""
    batch = abstract_batch(system, dict(data) | {"batch_size": rows})
    shapes = jax.eval_shape(
        lambda key: (materialize(system.declare(), key), system.init_state(key), key), jax.random.key(0)
    )

    def backward(arrays: Any, batch: Any) -> Any:
        params, state, key = arrays
        return jax.vjp(lambda params: system.loss(params, state, batch, key), params, has_aux=True)[1]

    return tuple(jax.tree.leaves(jax.eval_shape(backward, shapes, batch)))


def _activations(system: System, data: dict[str, Any]) -> tuple[Activation, ...]:
    """What the gradient keeps of each row."""
    hashable = tuple((name, data[name]) for name in ("length", "codes") if name in data)
    few, more = (_kept(system, rows, hashable) for rows in (_FEW, _MORE))
    layers = {getattr(spec, "layers", 1) for spec in _specs(system)} - {1}
    leaves = jax.tree.leaves(system.declare(), is_leaf=lambda x: isinstance(x, Param))
    named = ((axis, size) for p in leaves for axis, size in zip(p.axes, p.shape, strict=True))
    split = {size for axis, size in named if "tensor" in RULES.get(axis or "", ())}
    split = (split | {getattr(system, "vocab_size", 0)}) - {positions(system, data)}
    found = []
    for one, other in zip(few, more, strict=True):
        grown = [small != large for small, large in zip(one.shape, other.shape, strict=True)]
        if any(grown):
            stacked = one.shape[0] in layers and not grown[0]
            own = [n for n, grows in zip(one.shape, grown, strict=True) if not grows][stacked:]
            size = (math.prod(other.shape) - math.prod(one.shape)) * jnp.dtype(one.dtype).itemsize / (_MORE - _FEW)
            found.append(
                Activation(size=size, layers=one.shape[0] if stacked else 1, split=bool(split.intersection(own)))
            )
    return tuple(found)
