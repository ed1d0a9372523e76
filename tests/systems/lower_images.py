"""Lowers the training step of a recipe of images at `paper` scale for a mesh of 4 x 4 devices, every stage it has.

Prints the number of shardings in each program as JSON. No array of the model is allocated.
"""

import dataclasses
import importlib
import json
import sys
from typing import Any

import jax
import jax.numpy as jnp

from tokjax.core.registry import systems
from tokjax.core.spec import build
from tokjax.core.types import Batch, System
from tokjax.data.images import ImageBatch, ProxyBatch
from tokjax.data.images.code_rows import CodeBatch
from tokjax.objectives.image import ImageTokenizer
from tokjax.objectives.language import LanguageSystem
from tokjax.sharding import MeshSpec, make_mesh, sharding_of, use_mesh
from tokjax.train import OptimizerSpec
from tokjax.train.compile_cache import programs


def lowered(name: str) -> dict[str, int]:
    config = importlib.import_module(f"tokjax.configs.vision.{name}").get_config("paper").to_dict()
    fields = dict(config["system"])
    if name == "code_lm":  # of the codes of flextok, the classes of ImageNet and no class
        fields["vocab_size"] = 64_000 + 1000 + 1
    system = build(systems[fields.pop("name")], fields)
    stages = {"": system}
    tokens = config["data"].get("codes")
    if getattr(system, "stage", "single") == "proxy":
        stages = {stage: dataclasses.replace(system, stage=stage) for stage in ("proxy", "pixels")}
    optimizer = build(OptimizerSpec, config["optimizer"])
    rows = config["data"]["batch_size"]
    return {stage: shardings(one, optimizer, rows, tokens) for stage, one in stages.items()}


def shardings(system: System, optimizer: OptimizerSpec, rows: int, tokens: int | None) -> int:
    mesh = make_mesh(MeshSpec(data=1, fsdp=4, tensor=4))

    def placed(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        axes = ("batch", *[None] * (len(shape) - 1))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding_of(axes, shape, mesh, name="batch"))

    with use_mesh(mesh):
        batch: Any = {"labels": placed((rows,), jnp.int32), "mask": placed((rows,), jnp.float32)}
        if isinstance(system, ImageTokenizer):
            batch["pixels"] = placed((rows, system.size, system.size, system.channels), jnp.float32)
            if getattr(system, "stage", "") == "proxy":
                batch = ProxyBatch(codes=placed((rows, system.patches), jnp.int32), **batch)
            else:
                batch = ImageBatch(**batch)
        elif isinstance(system, LanguageSystem):
            types = {"loss_mask": jnp.float32}
            names = [field.name for field in dataclasses.fields(Batch)]
            batch = Batch(**{name: placed((rows, tokens), types.get(name, jnp.int32)) for name in names})
        else:
            batch = CodeBatch(codes=placed((rows, system.tokens), jnp.int32), **batch)
        made = programs(system, optimizer, mesh)
        key = jax.eval_shape(lambda: jax.random.key(0))
        text = made.step.lower(made.state, batch, key, jax.ShapeDtypeStruct((), jnp.float32)).as_text()
    return text.count("sharding")


if __name__ == "__main__":
    print(json.dumps(lowered(sys.argv[1])))
