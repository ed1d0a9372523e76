"""Device meshes and the rules that lay arrays over them."""

from tokjax.sharding.mesh import MESH_AXES, MeshSpec, make_mesh, start_processes, use_mesh
from tokjax.sharding.rules import (
    RULES,
    constrain,
    devices_along,
    mesh_axes,
    over_mesh,
    param_shardings,
    partition,
    put_batch,
    replicated,
    sharding_of,
)

__all__ = [
    "MESH_AXES",
    "RULES",
    "MeshSpec",
    "constrain",
    "devices_along",
    "make_mesh",
    "mesh_axes",
    "over_mesh",
    "param_shardings",
    "partition",
    "put_batch",
    "replicated",
    "sharding_of",
    "start_processes",
    "use_mesh",
]
