"""Lowers the training step of a recipe at `paper` scale for a mesh of 4 x 4 devices, and prints what it found as JSON.

No array of the model is allocated: shapes alone go through initialisation, tracing and partitioning rules.
"""

import json
import sys
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp

from tokjax.core.registry import tokenizers
from tokjax.core.spec import build
from tokjax.core.types import System
from tokjax.data.word_rows import document_rows
from tokjax.data.words import word_stream
from tokjax.experiment.config import load_config
from tokjax.experiment.encoder import build_encoder, is_encoder
from tokjax.experiment.run import DataSpec, build_system
from tokjax.nn.param import count
from tokjax.objectives.language import stream_batch
from tokjax.objectives.masked import MaskedWordSystem
from tokjax.sharding import MeshSpec, make_mesh, sharding_of, use_mesh
from tokjax.text import fit_tokenizer
from tokjax.train import OptimizerSpec
from tokjax.train.compile_cache import programs


def lowered(name: str) -> dict[str, Any]:
    config = load_config(f"{name}:paper").to_dict()
    fields = dict(config["tokenizer"])
    chosen = fields.pop("name")
    spec = build(tokenizers[chosen], fields)
    fitted: Any = SimpleNamespace(name=chosen, spec=spec, size=getattr(spec, "vocab_size", None) or spec.size({}))
    system = (build_encoder if is_encoder(config["system"]) else build_system)(config["system"], fitted)
    mesh = make_mesh(MeshSpec(data=1, fsdp=4, tensor=4))

    def placed(x: Any) -> jax.ShapeDtypeStruct:
        axes = ("batch", *[None] * (x.ndim - 1))
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding_of(axes, x.shape, mesh, name="batch"))

    with use_mesh(mesh):
        made = programs(system, build(OptimizerSpec, config["optimizer"]), mesh)
        batch = jax.tree.map(placed, batch_of(system, build(DataSpec, config["data"])))
        key = jax.eval_shape(lambda: jax.random.key(0))
        text = made.step.lower(made.state, batch, key, jax.ShapeDtypeStruct((), jnp.float32)).as_text()
    parameters = {part: count(declared) for part, declared in system.declare().items()}
    return {"parameters": parameters, "shardings": text.count("sharding")}


def batch_of(system: System, data: DataSpec) -> Any:
    """A batch of the shapes that the recipe trains on."""
    if isinstance(system, MaskedWordSystem):
        words = word_stream([b"word"], fit_tokenizer("bytes", []), cap=system.cap)
        return next(document_rows(words, system.row_shape(data.length), batch_size=data.batch_size))
    return jax.eval_shape(stream_batch, jax.ShapeDtypeStruct((data.batch_size, data.length), jnp.int32))


if __name__ == "__main__":
    print(json.dumps(lowered(sys.argv[1])))
