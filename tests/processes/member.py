"""One process of several: commands of `tokjax`, and other checks that tests ask for. Prints a JSON line per check."""

import json
import sys

import numpy as np


def command(*arguments):
    from tokjax.cli import main

    return main(list(arguments))


def batch(rows, sizes):
    """The batch that the processes lay over a mesh together, read back whole."""
    import jax
    from jax.experimental import multihost_utils

    from tokjax.sharding import MeshSpec, make_mesh, put_batch, share_of_process

    mesh = make_mesh(MeshSpec(**sizes))
    part, parts = share_of_process(mesh)
    own = np.arange(rows * 3, dtype=np.int32).reshape(rows, 3)[rows // parts * part : rows // parts * (part + 1)]
    placed = put_batch({"ids": own, "scale": np.float32(2)}, mesh)
    whole = multihost_utils.process_allgather(placed["ids"], tiled=True)
    # What each device holds is what its place in the mesh says, on every mesh of neighbouring processes.
    right = all(np.array_equal(piece.data, whole[piece.index]) for piece in placed["ids"].addressable_shards)
    return {"part": part, "parts": parts, "rows": whole[:, 0].tolist(), "right": right, "process": jax.process_index()}


def agree(name, first_fails):
    """What `on_first` gives, or the error that it raises, in this process."""
    import jax

    from tokjax.core import errors
    from tokjax.sharding import on_first

    def decide():
        assert jax.process_index() == 0
        if first_fails:
            raise {"SpecError": errors.SpecError, "OSError": OSError, "ValueError": ValueError}[name]("it is full")
        return {"chosen": name}

    try:
        return {"value": on_first(decide)}
    except Exception as error:
        return {"error": type(error).__name__, "message": str(error)}


CHECKS = {"command": command, "batch": batch, "agree": agree}

if __name__ == "__main__":
    from tokjax.sharding import start_processes

    start_processes()
    for name, *arguments in json.loads(sys.argv[1]):
        print(json.dumps(CHECKS[name](*arguments)), flush=True)
