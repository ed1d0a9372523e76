"""One process of several: trains, and makes other checks that tests ask for. Prints a JSON line per check."""

import json
import sys

import numpy as np


def train(recipe, workdir, *overrides):
    """Trains a recipe's smoke variant; what a command would, but several of them one after another."""
    from tokjax.experiment.config import load_config, override
    from tokjax.experiment.encoder import train_encoder
    from tokjax.experiment.images import train_image_tokenizer
    from tokjax.experiment.run import train_model

    config = override(load_config(f"{recipe}:smoke"), list(overrides)).to_dict()
    of_recipe = {"hat": train_model, "byte2word": train_encoder, "titok": train_image_tokenizer}[recipe]
    model, _ = of_recipe(config, workdir, progress=False)
    return model.step


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


CHECKS = {"train": train, "batch": batch, "agree": agree}

if __name__ == "__main__":
    from tokjax.sharding import start_processes

    with start_processes():
        for name, *arguments in json.loads(sys.argv[1]):
            print(f"said {json.dumps(CHECKS[name](*arguments))}", flush=True)  # beside what others print
