"""The device mesh: how many devices each kind of parallelism gets, and what starts the processes that own them."""

import contextlib
import dataclasses
import math
import os
from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh

from tokjax.core.errors import SpecError
from tokjax.core.spec import check

MESH_AXES = ("data", "fsdp", "tensor", "sequence")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshSpec:
    """Devices per mesh axis; one of them may be -1, which takes the rest.

    Attributes:
      data: replicas that split the batch and hold every parameter.
      fsdp: devices that split the batch and the parameters.
      tensor: devices that split heads, hidden units and the vocabulary.
      sequence: devices that split the positions of a row.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    sequence: int = 1

    def __post_init__(self):
        for name, size in dataclasses.asdict(self).items():
            check(size == -1 or size >= 1, f"mesh.{name}", size, "give a number of devices, or -1 for the rest.")
        wildcards = [name for name, size in dataclasses.asdict(self).items() if size == -1]
        check(len(wildcards) <= 1, "mesh", wildcards, "only one axis can take the rest (-1).")


def make_mesh(spec: MeshSpec, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Lays the devices out as a mesh with the axes of `MESH_AXES`, in an order that suits their interconnect.

    Args:
      spec: devices per axis.
      devices: the devices to use, all of them by default.

    Raises:
      SpecError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [getattr(spec, axis) for axis in MESH_AXES]
    fixed = math.prod(size for size in sizes if size != -1)
    if len(devices) % fixed or (-1 not in sizes and fixed != len(devices)):
        asked = " x ".join(f"{axis} {size}" for axis, size in zip(MESH_AXES, sizes, strict=True))
        raise SpecError(
            f"mesh: {asked} does not fit {len(devices)} devices; make the product {len(devices)}, "
            "or set data=-1 to let it take the rest."
        )
    shape = tuple(len(devices) // fixed if size == -1 else size for size in sizes)
    # Auto: the compiler places intermediate arrays; models only hint, through `rules.constrain`.
    return jax.make_mesh(shape, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES), devices=devices)


def use_mesh(mesh: Mesh) -> contextlib.AbstractContextManager[Mesh]:
    """Context in which `rules.constrain` refers to `mesh`."""
    return jax.set_mesh(mesh)


def start_processes() -> None:
    """Joins the other processes of a multi-host run; does nothing for a single one. Call before any other use of JAX.

    A run has several processes when the launcher sets `JAX_COORDINATOR_ADDRESS` (with `JAX_NUM_PROCESSES` and
    `JAX_PROCESS_ID`), or when `TOKJAX_MULTIHOST=1` asks JAX to read Slurm, Open MPI or Cloud TPU by itself.

    Raises:
      SpecError: one of the three variables is missing or is not a number.
    """
    address = os.environ.get("JAX_COORDINATOR_ADDRESS")
    if not address:
        if os.environ.get("TOKJAX_MULTIHOST") == "1":
            jax.distributed.initialize()
        return
    numbers = {}
    for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        value = os.environ.get(name, "")
        check(value.isdigit(), name, value, "with JAX_COORDINATOR_ADDRESS set, give it a whole number.")
        numbers[name] = int(value)
    jax.distributed.initialize(address, numbers["JAX_NUM_PROCESSES"], numbers["JAX_PROCESS_ID"])
