"""Logical axis names -> mesh axes: one table for parameters, batches and the hints inside models."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tokjax.core.errors import SpecError, nearest
from tokjax.nn.param import Param

Axes = tuple[str | None, ...]

# Logical name -> the mesh axes that split such a dimension; none means that every device holds all of it.
RULES: dict[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
    "length": ("sequence",),
    "embed": ("fsdp",),
    "mlp": ("tensor",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "vocab": ("tensor",),
    "head_dim": (),
    "layers": (),
}


def partition(axes: Axes, mesh_shape: dict[str, int], *, name: str) -> PartitionSpec:
    """Returns the mesh axes of every dimension, leaving out mesh axes of one device.

    Args:
      axes: a logical name, or None for a dimension that is not split, per dimension.
      mesh_shape: devices per mesh axis.
      name: the array's name, for messages.

    Raises:
      SpecError: an unknown logical name, or two dimensions on one mesh axis.
    """
    taken: dict[str, str] = {}
    entries: list[tuple[str, ...] | str | None] = []
    for logical in axes:
        if logical is not None and logical not in RULES:
            raise SpecError(f"{name}: no sharding rule for the axis {logical!r}.{nearest(logical, RULES)}")
        split = tuple(axis for axis in RULES.get(logical or "", ()) if mesh_shape.get(axis, 1) > 1)
        for axis in split:
            if axis in taken:
                raise SpecError(
                    f"{name}: dimensions {taken[axis]!r} and {logical!r} of {axes} are both split over the mesh axis "
                    f"{axis!r}; give one of them another logical name, or None."
                )
            taken[axis] = str(logical)
        entries.append(split[0] if len(split) == 1 else split or None)
    return PartitionSpec(*entries)


def sharding_of(axes: Axes, shape: tuple[int, ...], mesh: Mesh, *, name: str) -> NamedSharding:
    """Returns how an array of `shape` with logical `axes` is laid over `mesh`.

    Raises:
      SpecError: an unknown logical name, two dimensions on one mesh axis, or a dimension that does not divide.
    """
    spec = partition(axes, dict(mesh.shape), name=name)
    for dimension, (size, entry) in enumerate(zip(shape, spec, strict=True)):
        split = (entry,) if isinstance(entry, str) else tuple(entry or ())
        parts = math.prod(mesh.shape[axis] for axis in split)
        if size % parts:
            raise SpecError(
                f"{name}: dimension {dimension} ({axes[dimension]!r}) of shape {shape} has size {size}, which "
                f"{parts} devices (mesh axes {', '.join(split)}) do not divide; pad it to a multiple of {parts}, "
                "or change the mesh."
            )
    return NamedSharding(mesh, spec)


def param_shardings(declared: Any, mesh: Mesh) -> Any:
    """Returns the tree of shardings for a tree of `nn.param.Param` declarations.

    Raises:
      SpecError: as `sharding_of`, naming the parameter.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, p: sharding_of(p.axes, p.shape, mesh, name=jax.tree_util.keystr(path)),
        declared,
        is_leaf=lambda x: isinstance(x, Param),
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding under which every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Hints how the compiler should lay `x` out; returns `x` itself when no mesh is in use.

    Mesh axes that an enclosing `shard_map` already handles are left out.

    Args:
      x: an array inside a traced function.
      *axes: a logical name or None per dimension.

    Raises:
      SpecError: an unknown logical name, two dimensions on one mesh axis, or not one name per dimension.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    if len(axes) != x.ndim:
        raise SpecError(f"constrain{axes}: the array has {x.ndim} dimensions {x.shape}; name each, or give None.")
    spec = partition(axes, _automatic(mesh), name=f"constrain{axes}")
    return jax.lax.with_sharding_constraint(x, spec) if any(spec) else x


def over_mesh(
    function: Callable, inputs: tuple[Axes, ...], outputs: Any, *, whole: dict[str, int] | None = None
) -> Callable:
    """Returns `function` run by each device on its own part of the arrays: what a compiler cannot split by itself.

    `function` has to give the same for parts as for the whole. A dimension that the devices of its rule do not divide
    is not split; nothing is where no mesh is in use, or a `shard_map` around already handles its axes.

    Args:
      function: arrays -> array or tuple of arrays.
      inputs: logical axes of each array.
      outputs: logical axes of the result, or a tuple of those of each.
      whole: logical axis -> how many of its elements stay together.
    """
    mesh = jax.sharding.get_abstract_mesh()
    free = _automatic(mesh)
    if all(size == 1 for size in free.values()):
        return function

    def on_mesh(*arrays: jax.Array) -> Any:
        sizes: dict[str | None, int] = {}
        for axes, array in zip(inputs, arrays, strict=True):
            for axis, size in zip(axes, array.shape, strict=True):
                sizes[axis] = math.gcd(sizes.get(axis, size), size)
        sizes |= {axis: sizes[axis] // size for axis, size in (whole or {}).items()}

        def spec(axes: Axes) -> PartitionSpec:
            kept = tuple(axis if axis and sizes[axis] % _parts(axis, free) == 0 else None for axis in axes)
            return partition(kept, free, name=str(function))

        several = isinstance(outputs[0], tuple)
        out_specs = tuple(map(spec, outputs)) if several else spec(outputs)
        return jax.shard_map(
            function,
            in_specs=tuple(map(spec, inputs)),
            out_specs=out_specs,
            axis_names=set(free),
            check_vma=False,
        )(*arrays)

    return on_mesh


def devices_along(axis: str) -> int:
    """Returns how many devices of the mesh in use split dimensions of a logical axis; 1 where none is.

    Raises:
      SpecError: an unknown logical name.
    """
    if axis not in RULES:
        raise SpecError(f"no sharding rule for the axis {axis!r}.{nearest(axis, RULES)}")
    return _parts(axis, _automatic(jax.sharding.get_abstract_mesh()))


def mesh_axes(axis: str, size: int) -> tuple[str, ...]:
    """Returns the mesh axes over which `over_mesh` splits a dimension of a logical axis and a size; () for none.

    Raises:
      SpecError: an unknown logical name.
    """
    if size % devices_along(axis):
        return ()
    free = _automatic(jax.sharding.get_abstract_mesh())
    return tuple(name for name in RULES[axis] if free.get(name, 1) > 1)


def _parts(axis: str, mesh_shape: dict[str, int]) -> int:
    return math.prod(mesh_shape.get(name, 1) for name in RULES[axis])


def _automatic(mesh: Any) -> dict[str, int]:
    """Returns the sizes of the mesh axes that the compiler still splits arrays over."""
    if mesh.empty:
        return {}
    kinds = zip(mesh.shape.items(), mesh.axis_types, strict=True)
    return {axis: size for (axis, size), kind in kinds if kind is AxisType.Auto}
