"""Does a training step fit a pod, and how fast is it: arithmetic on what chips, links and the step itself are.

No compiler and no chip is needed, and no array is made. What a step is comes in as numbers (`Work`), what a device
holds and sends goes out (`Estimate`). Every assumption is a constant of this module or stands where it is made.
"""

import dataclasses
import math
import re

from tokjax.core.errors import SpecError
from tokjax.measure.peaks import BFLOAT16

GIB = 2**30
USABLE = 0.92  # of a chip's memory: the runtime keeps some, and memory in use is never without gaps
PRODUCTS = 0.7  # of the peak, what large matrix products reach
STREAMS = 0.8  # of the bandwidth of memory and links, what long transfers reach


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """What its vendor says of a chip.

    Attributes:
      flops: FLOP/s of bfloat16 products.
      flops_float32: FLOP/s of float32 products as JAX runs them: on a TPU of bfloat16 pieces, on a GPU of TF32.
      memory: bytes.
      bandwidth: bytes/s between memory and chip.
      link: bytes/s that one link carries one way.
      axes: axes of the torus that TPUs of a slice form, two links to an axis; 0 where every chip reaches every other
        of its machine over one link.
      wrap: an axis of a multiple of so many chips is closed to a ring.
      machine: chips of a machine.
      network: bytes/s from one chip to those of another machine; 0 where links reach it.
      largest: chips of the largest slice.
    """

    flops: float
    flops_float32: float
    memory: float
    bandwidth: float
    link: float
    axes: int
    wrap: int
    machine: int
    network: float
    largest: int


# Cloud TPU's pages on v5e, v5p and v6e; NVIDIA's data sheet of the H100 SXM and of DGX H100 (NVLink 900 GB/s both ways,
# a network card of 400 Gb/s for each GPU).
CHIPS = {
    "v5e": Chip(
        flops=BFLOAT16["TPU v5e"], flops_float32=197e12, memory=16 * GIB, bandwidth=819e9,
        link=50e9, axes=2, wrap=16, machine=8, network=0.0, largest=256,
    ),
    "v5p": Chip(
        flops=BFLOAT16["TPU v5p"], flops_float32=459e12, memory=95 * GIB, bandwidth=2765e9,
        link=100e9, axes=3, wrap=4, machine=4, network=0.0, largest=8960,
    ),
    "v6e": Chip(
        flops=BFLOAT16["TPU v6e"], flops_float32=918e12, memory=32 * GIB, bandwidth=1640e9,
        link=112e9, axes=2, wrap=16, machine=8, network=0.0, largest=256,
    ),
    "h100": Chip(
        flops=BFLOAT16["NVIDIA H100 80GB HBM3"], flops_float32=494e12, memory=80e9, bandwidth=3350e9,
        link=450e9, axes=0, wrap=0, machine=8, network=50e9, largest=16384,
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Topology:
    """Chips and how they lie.

    Attributes:
      name: as in `v5p:4x4x4`.
      chip: of which kind all are.
      shape: chips along each axis of the torus; of GPUs, their number.
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]

    @property
    def devices(self) -> int:
        """The number of chips."""
        return math.prod(self.shape)

    def speed(self, along: int, inner: int) -> float:
        """Returns bytes/s that each chip gets from the `along` chips of a mesh axis in a ring.

        A mesh axis of n of the N chips of a torus has log n / log N of its axes: exact where mesh axes are whole axes
        of the torus. An open axis gives half of what a ring does: its last chip hears from one side.

        Args:
          along: chips of the mesh axis.
          inner: chips of all mesh axes that vary faster.
        """
        chip = self.chip
        if chip.network and along * inner > chip.machine:
            return chip.network
        if not chip.axes:
            return chip.link
        links = sum(2 if size % chip.wrap == 0 else 1 for size in self.shape if size > 1)
        return chip.link * max(1.0, links * math.log(along) / math.log(self.devices))


def topology(name: str) -> Topology:
    """Returns what `name` stands for, as in `v5e:4x4`, `v5p:4x4x4`, `v6e:8x8` or `h100:8`.

    Raises:
      SpecError: an unknown chip, a shape it does not come in, or more chips than there are.
    """
    kind, _, text = name.partition(":")
    if kind not in CHIPS:
        raise SpecError(f"topology: got {name!r}; use a chip of {', '.join(CHIPS)} and a shape, as in 'v5e:4x4'.")
    chip = CHIPS[kind]
    example = "x".join("4" * chip.axes) or "8"
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", text) or text.count("x") != example.count("x"):
        raise SpecError(f"topology: got {name!r}; give {kind} a shape as in '{kind}:{example}'.")
    found = Topology(name=name, chip=chip, shape=tuple(map(int, text.split("x"))))
    if found.devices > chip.largest:
        raise SpecError(f"topology: got {name!r}; there are at most {chip.largest:,} chips of {kind} together.")
    if not chip.axes and found.devices > chip.machine and found.devices % chip.machine:
        raise SpecError(f"topology: got {name!r}; beyond one machine, use a multiple of its {chip.machine} chips.")
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weight:
    """A parameter as a mesh sees it.

    Attributes:
      size: numbers.
      layers: equal parts that are used one after another.
      split: mesh axes that split it.
    """

    size: int
    layers: int
    split: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """A training step on one mesh, in numbers. Bytes of activations are those of one row on one device.

    Attributes:
      weights: all parameters.
      number: bytes of a number that is computed with: 2 of bfloat16, 4 of float32.
      flops: forward FLOPs of a batch.
      rows: of a batch, over all devices.
      micro_batches: parts that a batch is computed in, one after another.
      recomputes: whether layers are run again in the backward pass.
      kept: bytes that all layers keep for the backward pass.
      layer: bytes that one layer makes, the largest if they differ.
      layers: bytes that all layers make.
      ends: bytes that is made outside the layers.
      inputs: bytes that all layers read of one another.
      state: bytes of parameters, optimizer and batch on a device, by name.
    """

    weights: tuple[Weight, ...]
    number: int
    flops: float
    rows: int
    micro_batches: int
    recomputes: bool
    kept: float
    layer: float
    layers: float
    ends: float
    inputs: float
    state: dict[str, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a step takes of each device. Bytes are of one device and one step.

    Attributes:
      memory: bytes by what they hold; they exist at the same time.
      given: names of what a step is given and gives back; the rest of `memory` exists only within it.
      limit: bytes that a program may take.
      traffic: bytes that a device receives, by kind of collective: `gather` of parameters, `reduce` of gradients,
        `tensor` and `sequence` of activations. A reduction over n devices is a scatter and a gather.
      compute_seconds: of matrix products.
      memory_seconds: of what is bound by memory: activations and the optimizer.
      hidden_seconds: of the traffic of parameters and gradients, which products hide as far as they last.
      exposed_seconds: of the traffic of activations, which everything waits for.
      mfu: share of the peak that the FLOPs of forward and backward pass reach, what is computed again not counted.
    """

    memory: dict[str, float]
    given: tuple[str, ...]
    limit: float
    traffic: dict[str, float]
    compute_seconds: float
    memory_seconds: float
    hidden_seconds: float
    exposed_seconds: float
    mfu: float

    @property
    def bytes(self) -> float:
        """All memory."""
        return sum(self.memory.values())

    @property
    def fits(self) -> bool:
        """Whether that is within the limit."""
        return self.bytes <= self.limit

    @property
    def headroom(self) -> float:
        """Bytes left of the limit; negative where it does not fit."""
        return self.limit - self.bytes

    @property
    def step_seconds(self) -> float:
        """Of a step whose parameters and gradients travel while products run."""
        return max(self.compute_seconds + self.memory_seconds, self.hidden_seconds) + self.exposed_seconds

    @property
    def slowest_seconds(self) -> float:
        """Of a step in which nothing is done at the same time."""
        return self.compute_seconds + self.memory_seconds + self.hidden_seconds + self.exposed_seconds


def estimate(work: Work, mesh: dict[str, int], pod: Topology) -> Estimate:
    """Returns what a step of `work` takes of each device of `pod`.

    Args:
      work: what the step is on this mesh.
      mesh: devices per mesh axis, outermost first; their product is `pod.devices`.
      pod: the devices.
    """
    rows = work.rows / work.micro_batches / (mesh["data"] * mesh["fsdp"])  # of a micro-batch on a device
    traffic, seconds = _communication(work, mesh, pod, rows)
    flops = work.flops / pod.devices
    peak = pod.chip.flops if work.number == 2 else pod.chip.flops_float32
    compute = (4.0 if work.recomputes else 3.0) * flops / (PRODUCTS * peak)
    moved = _moved(work, mesh, rows) / (STREAMS * pod.chip.bandwidth)
    found = Estimate(
        memory=_memory(work, mesh, rows),
        given=tuple(work.state),
        limit=USABLE * pod.chip.memory,
        traffic=traffic,
        compute_seconds=compute,
        memory_seconds=moved,
        hidden_seconds=seconds["gather"] + seconds["reduce"],
        exposed_seconds=seconds["tensor"] + seconds["sequence"],
        mfu=0.0,
    )
    return dataclasses.replace(found, mfu=3.0 * flops / peak / found.step_seconds)


def _part(weight: Weight, mesh: dict[str, int], without: tuple[str, ...] = ()) -> float:
    """Numbers of `weight` that a device holds, but for the axes that are gathered."""
    return weight.size / math.prod(mesh[axis] for axis in weight.split if axis not in without)


def _memory(work: Work, mesh: dict[str, int], rows: float) -> dict[str, float]:
    own = sum(_part(weight, mesh) for weight in work.weights)
    whole = [_part(weight, mesh, ("fsdp",)) / weight.layers for weight in work.weights]
    layer = sum(size for size, weight in zip(whole, work.weights, strict=True) if weight.layers > 1)
    outside = max((size for size, weight in zip(whole, work.weights, strict=True) if weight.layers == 1), default=0.0)
    # One layer's parameters in use, the next one's on their way, and a gradient; and the largest array outside.
    gathered = work.number * (3 * layer + outside)
    # In a layer's backward pass, what it made and as many gradients; outside, either comes before any layer's.
    made = rows * max(2 * work.layer, 2 * work.ends)
    return {
        **work.state,
        # Those of a micro-batch are added to those of the ones before it.
        "gradients": 4 * own * (1 if work.micro_batches == 1 else 2),
        "gathered parameters": gathered,
        "kept activations": rows * work.kept,
        "one layer": made,
    }


def _moved(work: Work, mesh: dict[str, int], rows: float) -> float:
    """Bytes between memory and chip: what is made is written and read in every pass, its gradients once more."""
    passes = 2 + 2 + 2 + (2 if work.recomputes else 0)
    activations = work.micro_batches * rows * passes * (work.layers + work.ends)
    own = sum(_part(weight, mesh) for weight in work.weights)
    return activations + 28 * own  # float32: parameter, two averages read and written, gradient read


def _communication(
    work: Work, mesh: dict[str, int], pod: Topology, rows: float
) -> tuple[dict[str, float], dict[str, float]]:
    """Returns bytes and seconds by kind."""
    inner: dict[str, int] = {}
    for axis in reversed(mesh):
        inner[axis] = math.prod(mesh[a] for a in inner)
    traffic = dict.fromkeys(("gather", "reduce", "tensor", "sequence"), 0.0)
    seconds = dict(traffic)

    def ring(kind: str, axis: str, size: float) -> None:
        """Every device of `axis` gets what it lacks of `size` bytes, all but its own part."""
        received = size * (mesh[axis] - 1) / mesh[axis]
        traffic[kind] += received
        if received:
            seconds[kind] += received / (STREAMS * pod.speed(mesh[axis], inner[axis]))

    times = work.micro_batches
    for weight in work.weights:
        reduced = set(mesh)
        if "fsdp" in weight.split:
            gathered = work.number * _part(weight, mesh, ("fsdp",))
            ring("gather", "fsdp", 2 * times * gathered)  # for each pass
            ring("reduce", "fsdp", times * gathered)
            reduced.remove("fsdp")
        for axis in ("data", "fsdp", "sequence"):  # a reduction is a scatter and a gather
            if axis in reduced and mesh[axis] > 1:
                ring("reduce", axis, 2 * times * work.number * _part(weight, mesh))
    # Two sums a layer and pass, after attention and MLP; when a layer is run again, the last one is not needed.
    sums = 5 if work.recomputes else 4
    inputs = times * rows * work.inputs / mesh["sequence"]
    ring("tensor", "tensor", 2 * sums * inputs)
    # Keys and values, at most as wide as what a layer reads: gathered in each pass, their gradients scattered.
    ring("sequence", "sequence", 2 * (3 if work.recomputes else 2) * inputs * mesh["sequence"])
    return traffic, seconds
