"""The device mesh: how many devices each kind of parallelism gets."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence

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


def mesh_sizes(spec: MeshSpec, devices: int) -> dict[str, int]:
    """Returns how many of `devices` each axis of `MESH_AXES` gets.

    Raises:
      SpecError: the sizes do not multiply to the number of devices.
    """
    sizes = dataclasses.asdict(spec)
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if devices % fixed or (-1 not in sizes.values() and fixed != devices):
        asked = " x ".join(f"{axis} {size}" for axis, size in sizes.items())
        raise SpecError(
            f"mesh: {asked} does not fit {devices} devices; make the product {devices}, "
            "or set data=-1 to let it take the rest."
        )
    return {axis: devices // fixed if size == -1 else size for axis, size in sizes.items()}


def make_mesh(spec: MeshSpec, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Lays the devices out as a mesh with the axes of `MESH_AXES`, in an order that suits their interconnect.

    Args:
      spec: devices per axis.
      devices: the devices to use, all of them by default.

    Raises:
      SpecError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    shape = tuple(mesh_sizes(spec, len(devices)).values())
    # Auto: the compiler places intermediate arrays; models only hint, through `rules.constrain`.
    return jax.make_mesh(shape, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES), devices=devices)


@contextlib.contextmanager
def use_mesh(mesh: Mesh) -> Iterator[Mesh]:
    """Context in which `rules.constrain` refers to `mesh`; gives the mesh."""
    with jax.set_mesh(mesh):
        yield mesh
