"""Lowers the training step of a recipe at `paper` scale for a mesh of 4 x 4 devices, and prints what it found as JSON.

Nothing is allocated: shapes alone go through tracing and partitioning rules.
"""

import json
import sys

import jax
import jax.numpy as jnp

from tokjax.core.registry import systems, tokenizers
from tokjax.core.spec import build
from tokjax.core.types import Batch
from tokjax.experiment.config import load_config
from tokjax.experiment.run import DataSpec
from tokjax.nn.param import count
from tokjax.sharding import MeshSpec, make_mesh, sharding_of, use_mesh
from tokjax.train import OptimizerSpec
from tokjax.train.compile_cache import programs


def lowered(name: str) -> dict[str, float]:
    config = load_config(f"{name}:paper").to_dict()
    data, fields = build(DataSpec, config["data"]), dict(config["system"])
    chosen = config["tokenizer"]
    tokenizer = build(tokenizers[chosen.pop("name")], chosen)
    size = getattr(tokenizer, "vocab_size", None) or tokenizer.size({})
    system = build(systems[fields.pop("name")], {"vocab_size": size + 1, **fields})
    mesh = make_mesh(MeshSpec(data=1, fsdp=4, tensor=4))
    with use_mesh(mesh):
        made = programs(system, build(OptimizerSpec, config["optimizer"]), mesh)
        shape = (data.batch_size, data.length)
        where = sharding_of(("batch", "length"), shape, mesh, name="batch")
        array = lambda dtype: jax.ShapeDtypeStruct(shape, dtype, sharding=where)  # noqa: E731
        batch = Batch(
            ids=array(jnp.int32), targets=array(jnp.int32), loss_mask=array(jnp.float32),
            segment_ids=array(jnp.int32), positions=array(jnp.int32), units=array(jnp.int32),
        )  # fmt: skip
        key = jax.eval_shape(lambda: jax.random.key(0))
        text = made.step.lower(made.state, batch, key, jax.ShapeDtypeStruct((), jnp.float32)).as_text()
    return {"parameters": count(system.declare()), "shardings": text.count("sharding")}


if __name__ == "__main__":
    print(json.dumps(lowered(sys.argv[1])))
