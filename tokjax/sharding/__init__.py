"""Device meshes and the rules that lay arrays over them."""

from tokjax.sharding.agreement import on_first
from tokjax.sharding.batches import gathered, place, put_batch, share_of_process
from tokjax.sharding.mesh import MESH_AXES, MeshSpec, make_mesh, use_mesh
from tokjax.sharding.processes import is_lost_peer, start_processes
from tokjax.sharding.rules import (
    RULES,
    constrain,
    devices_along,
    mesh_axes,
    over_mesh,
    param_shardings,
    partition,
    replicated,
    sharding_of,
)

__all__ = [
    "MESH_AXES",
    "RULES",
    "MeshSpec",
    "constrain",
    "devices_along",
    "gathered",
    "is_lost_peer",
    "make_mesh",
    "mesh_axes",
    "on_first",
    "over_mesh",
    "param_shardings",
    "partition",
    "place",
    "put_batch",
    "replicated",
    "sharding_of",
    "share_of_process",
    "start_processes",
    "use_mesh",
]
