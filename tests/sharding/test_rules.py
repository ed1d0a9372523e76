"""The table of logical axes: no mesh axis twice, nothing that does not divide, nothing without a rule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import PartitionSpec

from tokjax.core.errors import SpecError
from tokjax.nn.param import Param, zeros
from tokjax.sharding import MESH_AXES, RULES, MeshSpec, constrain, make_mesh, param_shardings, partition, put_batch

names = st.lists(st.sampled_from([None, *RULES]), max_size=4).map(tuple)
shapes = st.fixed_dictionaries({axis: st.sampled_from([1, 2, 4]) for axis in MESH_AXES})


@given(axes=names, mesh_shape=shapes)
def test_a_partition_uses_each_mesh_axis_once_or_names_the_array(axes, mesh_shape):
    wanted = [axis for name in axes if name for axis in RULES[name] if mesh_shape[axis] > 1]
    if len(wanted) != len(set(wanted)):
        with pytest.raises(SpecError, match="array_x: dimensions"):
            partition(axes, mesh_shape, name="array_x")
        return
    spec = partition(axes, mesh_shape, name="array_x")
    used = [axis for entry in spec if entry for axis in ((entry,) if isinstance(entry, str) else entry)]
    assert used == wanted and len(spec) == len(axes)


def test_every_rule_refers_to_a_mesh_axis():
    assert {axis for split in RULES.values() for axis in split} <= set(MESH_AXES)


def test_a_name_without_a_rule_gets_the_nearest():
    with pytest.raises(SpecError, match=r"w: no sharding rule for the axis 'embedd'\. Did you mean 'embed'"):
        partition(("embedd",), {}, name="w")


def test_one_device_holds_everything():
    mesh = make_mesh(MeshSpec(), jax.devices()[:1])
    declared = {"w": Param((3, 5), ("embed", "mlp"), zeros)}
    assert param_shardings(declared, mesh)["w"].spec == PartitionSpec(None, None)


def test_put_batch_keeps_values_and_types():
    mesh = make_mesh(MeshSpec(), jax.devices()[:1])
    batch = {"ids": np.arange(6, dtype=np.int32).reshape(2, 3), "scale": np.float32(2)}
    placed = put_batch(batch, mesh)
    assert isinstance(placed["ids"], jax.Array) and placed["ids"].dtype == jnp.int32
    np.testing.assert_array_equal(placed["ids"], batch["ids"])
    assert placed["scale"].shape == ()


def test_constrain_is_nothing_without_a_mesh():
    x = jnp.ones((2, 3))
    assert constrain(x, "batch", None) is x
    assert constrain(x, "not", "checked") is x
