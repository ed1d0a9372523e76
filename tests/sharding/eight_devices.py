"""What test_devices.py runs in a process with eight simulated devices. Prints one JSON line per check."""

import json
import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from tiny_system import Tiny, train

from tokjax.core.errors import SpecError
from tokjax.sharding import MeshSpec, constrain, make_mesh, put_batch, use_mesh
from tokjax.train import OptimizerSpec, load_for_inference, read_metrics

MESHES = {
    "data": MeshSpec(),
    "fsdp": MeshSpec(data=4, fsdp=2),
    "cube": MeshSpec(data=2, fsdp=2, tensor=2),
    "sequence": MeshSpec(data=2, tensor=2, sequence=2),
}
OPTIMIZER = OptimizerSpec(learning_rate=0.01, ema_decay=0.9)


def say(**values):
    print(json.dumps(values), flush=True)


def run(workdir, mesh, **kwargs):
    state = train(workdir, mesh=mesh, optimizer=OPTIMIZER, **kwargs)
    return state, [line["loss"] for line in read_metrics(workdir)]


def message(function):
    try:
        function()
    except SpecError as error:
        return str(error)
    return ""


def main():
    assert len(jax.devices()) == 8
    one = make_mesh(MeshSpec(), jax.devices()[:1])
    with tempfile.TemporaryDirectory() as folder:
        state, losses = run(f"{folder}/one", one)
        say(check="one", losses=losses, first=np.asarray(state.params["first"]).tolist())
        for name, spec in MESHES.items():
            mesh = make_mesh(spec)
            state, losses = run(f"{folder}/{name}", mesh)
            first = state.params["first"]
            say(
                check=name,
                losses=losses,
                first=np.asarray(first).tolist(),
                parts=[
                    first.size // shard.data.size
                    for array in (
                        first,
                        state.ema["first"],
                        *(x for x in jax.tree.leaves(state.opt_state) if x.ndim == 2),
                    )
                    for shard in array.addressable_shards[:1]
                ],
                loaded=bool(np.array_equal(load_for_inference(f"{folder}/{name}")[0]["first"], state.ema["first"])),
            )
        # A run begun on eight devices goes on, on one, and the other way round.
        for start, end in ((one, make_mesh(MESHES["cube"])), (make_mesh(MESHES["cube"]), one)):
            workdir = tempfile.mkdtemp(dir=folder)
            constant = OptimizerSpec(learning_rate=0.01, schedule="constant")
            train(workdir, mesh=start, steps=3, optimizer=constant)
            moved = train(workdir, mesh=end, steps=6, optimizer=constant)
            say(check="moved", devices=len(moved.params["first"].devices()), step=int(moved.step))
    cube = make_mesh(MESHES["cube"])
    with use_mesh(cube):
        hinted = jax.jit(lambda x: constrain(x, "batch", "mlp"))(jnp.ones((8, 4)))
        say(check="constrain", spec=hinted.sharding.spec == PartitionSpec(("data", "fsdp"), "tensor"))
        uneven = jax.jit(lambda x: constrain(x, "batch", "mlp") + 1)(jnp.ones((1, 3)))
        say(check="uneven", sum=float(uneven.sum()))
        inside = jax.shard_map(
            lambda x: constrain(x, "batch", None),
            mesh=cube,
            in_specs=PartitionSpec("data"),
            out_specs=PartitionSpec("data"),
        )
        say(check="inside", sum=float(jax.jit(inside)(jnp.ones((8, 3))).sum()))
        conflict = message(lambda: jax.jit(lambda x: constrain(x, "batch", "embed"))(jnp.ones((8, 4))))
    say(
        check="errors",
        conflict=conflict,
        uneven_param=message(lambda: train(tempfile.mkdtemp(), mesh=cube, system=Tiny(hidden=15))),
        uneven_batch=message(lambda: put_batch({"ids": np.zeros((6, 2))}, cube)),
    )


if __name__ == "__main__":
    sys.exit(main())
