"""Batches between hosts and devices: which rows a process makes, how they reach the mesh, what everyone can read."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tokjax.core.errors import SpecError
from tokjax.sharding.rules import RULES, sharding_of


@functools.lru_cache(maxsize=8)  # asked for every batch
def share_of_process(mesh: Mesh) -> tuple[int, int]:
    """Returns which part of a batch this process makes, and of how many equal parts.

    Processes whose devices hold the same rows, those that split heads or positions between them, make the same part.
    Where their devices hold rows in common without being alike, everyone makes the whole batch.
    """
    held: dict[int, set[int]] = {}
    shape = [mesh.shape[axis] for axis in mesh.axis_names]
    split = [mesh.axis_names.index(axis) for axis in RULES["batch"]]
    for place, device in np.ndenumerate(mesh.devices):
        part = np.ravel_multi_index([place[axis] for axis in split], [shape[axis] for axis in split])
        held.setdefault(device.process_index, set()).add(int(part))
    groups = sorted({tuple(sorted(parts)) for parts in held.values()})
    alike = len({len(group) for group in groups}) == 1
    if not alike or sum(map(len, groups)) != len(set().union(*groups)):
        return 0, 1
    return groups.index(tuple(sorted(held[jax.process_index()]))), len(groups)


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """Moves a pytree of host arrays to the devices, split along their first dimension.

    Where the devices of a process hold rows that are not neighbours, its rows are dealt to them in order: then rows lie
    elsewhere in the batch than on other meshes, and the batch has the same ones.

    Args:
      batch: host arrays [B, ...], where B are the rows of `share_of_process`; scalars are replicated.

    Raises:
      SpecError: B does not divide over the devices that split the batch.
    """
    _, parts = share_of_process(mesh)

    def put(path: Any, array: Any) -> jax.Array:
        array = np.asarray(array)
        if not array.ndim:
            return _from_host(array, NamedSharding(mesh, PartitionSpec()))
        shape = (array.shape[0] * parts, *array.shape[1:])
        sharding = _split_rows(shape, mesh, name=f"batch{jax.tree_util.keystr(path)}")
        if parts == 1:
            return _from_host(array, sharding)
        rows = sharding.shard_shape(shape)[0]
        indices = sharding.addressable_devices_indices_map(shape).values()
        starts = sorted({index[0].start or 0 for index in indices if index})

        def of_device(index: Any) -> np.ndarray:
            first = starts.index(index[0].start or 0) * rows
            return array[first : first + rows]

        return jax.make_array_from_callback(shape, sharding, of_device)

    return jax.tree_util.tree_map_with_path(put, batch)


def place(batch: Any) -> Any:
    """Returns a pytree of host arrays [B, ...], alike in every process, laid over the mesh in use, if there is one.

    Rows are split over the devices that split batches, where these divide B.
    """
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        return batch

    def put(array: Any) -> jax.Array:
        array = np.asarray(array)
        try:
            sharding = _split_rows(array.shape, mesh, name="batch")
        except SpecError:  # the last rows of an evaluation, say
            sharding = NamedSharding(mesh, PartitionSpec())
        return _from_host(array, sharding)

    return jax.tree.map(put, batch)


def gathered(tree: Any) -> Any:
    """Returns the arrays of a traced function such that every process can read them whole."""
    if jax.sharding.get_abstract_mesh().empty:
        return tree
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, PartitionSpec()), tree)


def _split_rows(shape: Sequence[int], mesh: Mesh, *, name: str) -> NamedSharding:
    axes = ("batch",) + (None,) * (len(shape) - 1) if len(shape) else ()
    return sharding_of(axes, tuple(shape), mesh, name=name)


def _from_host(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])
