"""A mesh uses every device it is given, or says which size is wrong."""

import jax
import pytest
from jax.sharding import AxisType

from tokjax.core.errors import SpecError
from tokjax.sharding import MESH_AXES, MeshSpec, make_mesh, use_mesh


def test_default_is_all_devices_on_the_batch():
    mesh = make_mesh(MeshSpec())
    assert mesh.axis_names == MESH_AXES and mesh.shape["data"] == mesh.size == len(jax.devices())
    assert set(mesh.axis_types) == {AxisType.Auto}


@pytest.mark.parametrize("values", [{"data": 3}, {"data": -1, "tensor": 3}, {"data": 2, "fsdp": 2}])
def test_sizes_that_do_not_multiply_to_the_devices(values):
    with pytest.raises(SpecError, match="does not fit 1 devices"):
        make_mesh(MeshSpec(**values), jax.devices()[:1])


@pytest.mark.parametrize("values", [{"data": 0}, {"fsdp": -2}, {"data": -1, "tensor": -1}])
def test_impossible_sizes(values):
    with pytest.raises(SpecError, match="mesh"):
        MeshSpec(**values)


def test_a_mesh_in_use_is_given_and_put_back():
    mesh = make_mesh(MeshSpec(), jax.devices()[:1])
    with use_mesh(mesh) as given:
        assert given is mesh and jax.sharding.get_mesh() == mesh
    assert jax.sharding.get_mesh().empty
