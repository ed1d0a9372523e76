"""A plan for a pod: on which mesh a configuration fits, how fast it is there, and what would fit if it does not."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from tokjax.core.errors import SpecError, nearest
from tokjax.core.platform import compiling_for
from tokjax.experiment.abstract import abstract_step
from tokjax.experiment.work import TracedStep, traced_step, work_on
from tokjax.measure.pods import GIB, Estimate, Topology, estimate, topology
from tokjax.measure.programs import program_cost
from tokjax.sharding import MESH_AXES, MeshSpec, make_mesh
from tokjax.sharding.mesh import mesh_sizes
from tokjax.sharding.topologies import chips

_TENSOR = (2, 4, 8)  # devices that split a layer: few, because everything waits for their sums


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """A mesh that was tried.

    Attributes:
      mesh: devices per axis.
      estimate: what a step takes there; None where an array does not divide.
      problem: why not, or None.
    """

    mesh: dict[str, int]
    estimate: Estimate | None
    problem: str | None

    @property
    def name(self) -> str:
        """The mesh as it is written: its axes of more than one device."""
        return mesh_name(self.mesh)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiled:
    """What the compiler says of a step. Bytes are of one device and one step.

    Attributes:
      arguments: bytes of parameters, optimizer and batch, as the device lays them out.
      temporary: bytes of what exists only meanwhile.
      traffic: bytes that collectives bring to a device, by kind; a reduction counts as a scatter and a gather.
    """

    arguments: int
    temporary: int
    traffic: dict[str, int]

    @property
    def bytes(self) -> int:
        """All memory."""
        return self.arguments + self.temporary


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """The answer for one configuration and topology.

    Attributes:
      config: its name.
      pod: the devices.
      step: the training step.
      candidates: the meshes that were tried, fastest first: those that fit, those that do not, those that cannot be.
      advice: what would fit if no mesh does, a line each.
    """

    config: str
    pod: Topology
    step: TracedStep
    candidates: tuple[Candidate, ...]
    advice: tuple[str, ...]

    @property
    def best(self) -> Candidate:
        """The fastest mesh that fits; the one that needs least memory where none does."""
        return self.candidates[0]

    @property
    def fits(self) -> bool:
        """Whether any mesh does."""
        return self.best.estimate is not None and self.best.estimate.fits


def mesh_name(mesh: dict[str, int]) -> str:
    """Returns `mesh` as it is written on the command line, as in 'fsdp=8,tensor=2'."""
    return ",".join(f"{axis}={size}" for axis, size in mesh.items() if size > 1) or "data=1"


def parse_mesh(text: str, devices: int) -> dict[str, int]:
    """Returns devices per axis of a mesh written as `fsdp=16,tensor=1`; what is left over splits the batch (`data`).

    Raises:
      SpecError: an unknown axis, no number, or sizes that do not multiply to `devices`.
    """
    sizes: dict[str, int] = {}
    for part in text.split(","):
        axis, _, number = part.partition("=")
        if axis not in MESH_AXES:
            raise SpecError(f"--mesh {text}: no axis {axis!r}.{nearest(axis, MESH_AXES)}")
        try:
            sizes[axis] = int(number)
        except ValueError:
            raise SpecError(f"--mesh {text}: {axis} needs a number of devices, as in {axis}=8.") from None
    if -1 in sizes.values():
        sizes.setdefault("data", 1)
    return mesh_sizes(MeshSpec(**sizes), devices)


def make_plan(name: str, config: dict[str, Any], pod: Topology, mesh: dict[str, int] | None = None) -> Plan:
    """Returns the plan of a configuration on a topology.

    Args:
      name: of the configuration, for messages.
      config: as of `load_config(...).to_dict()`.
      pod: the devices.
      mesh: devices per axis; sensible ones are tried if None.

    Raises:
      SpecError: a configuration or mesh that cannot be.
    """
    step = traced_step(config, _platform(pod))
    if mesh is not None:
        found = [Candidate(mesh=mesh, estimate=estimate(work_on(step, mesh), mesh, pod), problem=None)]
    else:
        found = _try(step, pod)
        if all(one.estimate is None for one in found):
            raise SpecError(f"{pod.name}: no mesh fits {name}; with {found[0].name}, {found[0].problem}")
    plan = Plan(config=name, pod=pod, step=step, candidates=tuple(found), advice=())
    return plan if plan.fits else dataclasses.replace(plan, advice=tuple(_advice(step, pod, mesh)))


def meshes(devices: int) -> Iterator[dict[str, int]]:
    """Yields the meshes that are tried: parameters split, copied, both, or layers split too."""
    yield _mesh(fsdp=devices)
    if devices == 1:
        return
    yield _mesh(data=devices)
    for copies in (2**power for power in range(1, devices.bit_length())):
        if devices % copies == 0 and 8 <= devices // copies < devices:
            yield _mesh(data=copies, fsdp=devices // copies)
    for tensor in _TENSOR:
        if devices % tensor == 0:
            yield _mesh(fsdp=devices // tensor, tensor=tensor)


def compile_step(config: dict[str, Any], pod: Topology, mesh: dict[str, int]) -> Compiled:
    """Returns what the compiler of the chip says of the step; minutes for the largest.

    Raises:
      SpecError: the compiler is not installed, or the configuration does not fit the mesh.
    """
    devices = chips(pod.name)
    options: Any = {} if pod.chip.axes else {"xla_gpu_autotune_level": 0}  # which would time kernels on a GPU
    with compiling_for(_platform(pod)):
        lowered = abstract_step(config, make_mesh(MeshSpec(**mesh), devices)).lowered
        cost = program_cost(lowered.compile(compiler_options=options))
    return Compiled(
        arguments=cost.argument_bytes,
        temporary=cost.temporary_bytes,
        traffic=dict(sorted(cost.received_bytes.items())),
    )


def _platform(pod: Topology) -> str:
    return "tpu" if pod.chip.axes else "gpu"


def _mesh(**sizes: int) -> dict[str, int]:
    return mesh_sizes(MeshSpec(**({"data": 1} | sizes)), math.prod(sizes.values()))


def _try(step: TracedStep, pod: Topology) -> list[Candidate]:
    """Returns every mesh, best first."""
    found = []
    for mesh in meshes(pod.devices):
        try:
            found.append(Candidate(mesh=mesh, estimate=estimate(work_on(step, mesh), mesh, pod), problem=None))
        except SpecError as error:
            found.append(Candidate(mesh=mesh, estimate=None, problem=str(error)))

    def order(one: Candidate) -> tuple[int, float]:
        if one.estimate is None:
            return 2, 0.0
        return (0, one.estimate.step_seconds) if one.estimate.fits else (1, one.estimate.bytes)

    return sorted(found, key=order)


def _fitting(step: TracedStep, pod: Topology, mesh: dict[str, int] | None) -> Candidate | None:
    """Returns the fastest mesh that fits, or `mesh` if that does; None where nothing fits."""
    if mesh is None:
        best = _try(step, pod)[0]
    else:
        try:
            best = Candidate(mesh=mesh, estimate=estimate(work_on(step, mesh), mesh, pod), problem=None)
        except SpecError:
            return None
    return best if best.estimate is not None and best.estimate.fits else None


def _in_parts(step: TracedStep, pod: Topology, mesh: dict[str, int] | None) -> tuple[int, Candidate] | None:
    """Returns the fewest micro-batches in which the batch fits, and where."""
    rows = step.data["batch_size"]
    for parts in range(step.optimizer.accumulate_steps, rows + 1):
        if rows % parts == 0:
            found = _fitting(step.with_rows(rows, parts), pod, mesh)
            if found is not None:
                return parts, found
    return None


def _advice(step: TracedStep, pod: Topology, mesh: dict[str, int] | None) -> Iterator[str]:
    """Yields what would fit: the batch in parts, a smaller batch, more devices."""

    def told(found: Candidate) -> str:
        assert found.estimate is not None
        size, seconds = found.estimate.bytes / GIB, found.estimate.step_seconds
        return f"{size:.1f} GiB a device, {seconds:.3g} s a step, on {found.name}"

    if not step.recomputes:
        yield "computing layers again in the backward pass keeps less: set remat=True in the stacks of the system"
    parts = _in_parts(step, pod, mesh)
    if parts is not None:
        yield f"optimizer.accumulate_steps={parts[0]} fits: {told(parts[1])}"
    else:
        sizes = (2**power for power in range(step.data["batch_size"].bit_length() - 1, -1, -1))
        smaller = ((rows, _fitting(step.with_rows(rows, 1), pod, mesh)) for rows in sizes)
        rows, found = next(((rows, found) for rows, found in smaller if found), (0, None))
        if found is None:
            yield f"no batch fits {pod.name}, however small"
        else:
            yield f"data.batch_size={rows} with optimizer.accumulate_steps=1 fits: {told(found)}"
    larger = _doubled(pod)
    while larger is not None:
        parts = _in_parts(step, larger, None)
        if parts is not None:
            yield f"{larger.name} fits with optimizer.accumulate_steps={parts[0]}: {told(parts[1])}"
            return
        larger = _doubled(larger)


def _doubled(pod: Topology) -> Topology | None:
    """Returns the topology of twice the devices, its shortest axis twice as long, or None where there is none."""
    shape = list(pod.shape)
    shape[shape.index(min(shape))] *= 2
    kind = pod.name.partition(":")[0]
    try:
        return topology(f"{kind}:{'x'.join(map(str, sorted(shape)))}")
    except SpecError:
        return None
