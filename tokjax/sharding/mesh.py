"""The device mesh: how many devices each kind of parallelism gets."""

import contextlib
import dataclasses
import math
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
