"""Trains one system's smoke recipe on one device and on meshes of eight simulated ones; prints a JSON line per mesh."""

import json
import math
import sys

import jax
import numpy as np

from tokjax.core.registry import systems
from tokjax.core.spec import build
from tokjax.data.windows import token_stream, train_batch
from tokjax.data.word_rows import cut_rows, train_rows
from tokjax.data.words import word_stream
from tokjax.experiment.abstract import abstract_batch, abstract_system
from tokjax.experiment.config import load_config
from tokjax.experiment.encoder import build_encoder, is_encoder
from tokjax.experiment.run import build_system
from tokjax.measure.programs import collectives
from tokjax.objectives.language import LanguageSystem
from tokjax.sharding import MeshSpec, make_mesh, put_batch, replicated, use_mesh
from tokjax.text import fit_tokenizer
from tokjax.train import OptimizerSpec
from tokjax.train.compile_cache import programs

STEPS = 5
MESHES = {
    "one": {"data": 1},
    "8,1": {"data": 8},
    "4,2": {"data": 4, "tensor": 2},
    "2,2,2": {"data": 2, "fsdp": 2, "tensor": 2},
}
SEQUENCE = {"sequence": {"data": 2, "tensor": 2, "sequence": 2}}  # of systems whose rows are text
LARGE = 4096  # numbers
TEXT = [f"Paragraph {i} of the text says that {i * i} is a square.".encode() for i in range(300)]


def config_of(name):
    config = load_config(f"{name}:smoke").to_dict()
    config["data"]["batch_size"] = 8
    if "length" in config["data"]:
        config["data"]["length"] = 64
    if "vocab_size" in config.get("tokenizer", {}):
        config["tokenizer"]["vocab_size"] = 639  # and the end of a document: what two devices can split
    if name == "maskgit":
        config["system"] |= {"tokens": 16, "vocab_size": 64, "classes": 4}
    return config


def prepared(name):
    """Returns the configuration, the system, and a function that gives the batch of a step."""
    config = config_of(name)
    if issubclass(systems[config["system"]["name"]], LanguageSystem):
        fields = dict(config["tokenizer"])
        fitted = fit_tokenizer(fields.pop("name"), TEXT, **fields)
        text, shape = token_stream(TEXT, fitted), {key: config["data"][key] for key in ("batch_size", "length")}
        return config, build_system(config["system"], fitted), lambda step: train_batch(text, step, seed=0, **shape)
    if is_encoder(config["system"]):
        fields = dict(config["tokenizer"])
        fitted = fit_tokenizer(fields.pop("name"), TEXT, **fields)
        system = build_encoder(config["system"], fitted)
        words = word_stream(TEXT, fitted, cap=system.cap)
        rows, size = cut_rows(words, system.row_shape(config["data"]["length"])), config["data"]["batch_size"]
        return config, system, lambda step: train_rows(rows, step, seed=0, batch_size=size, rate=system.mask_rate)
    system = abstract_system(config)
    shapes = abstract_batch(system, config["data"])

    def batch(step):
        random = np.random.default_rng(step)

        def fill(x):
            if np.issubdtype(x.dtype, np.integer):
                return random.integers(0, 4, x.shape).astype(x.dtype)
            return random.uniform(-1.0, 1.0, x.shape).astype(x.dtype) if x.ndim > 1 else np.ones(x.shape, x.dtype)

        return jax.tree.map(fill, shapes)

    return config, system, batch


def train(name, sizes):
    """Returns the losses of a few steps, how the state lies on the mesh, and what the step sends."""
    config, system, batch = prepared(name)
    mesh = make_mesh(MeshSpec(**sizes), jax.devices()[: math.prod(sizes.values())])
    with use_mesh(mesh):
        made = programs(system, build(OptimizerSpec, config["optimizer"]), mesh)
        key = jax.device_put(jax.random.key(0), replicated(mesh))
        state, losses = made.init(key), []
        arrays = jax.tree_util.tree_leaves_with_path((state.params, state.opt_state))
        parts = {
            jax.tree_util.keystr(path): array.size // array.addressable_shards[0].data.size
            for path, array in arrays
            if array.size >= LARGE
        }
        step = made.compile_step(put_batch(batch(0), mesh), key)
        sent = collectives(step.as_text()).result_bytes
        for number in range(STEPS):
            state, metrics = step(state, put_batch(batch(number), mesh), key, np.float32(1e-3))
            losses.append(float(metrics.loss))
    parameters = sum(array.nbytes for array in jax.tree.leaves(state.params))
    return {"losses": losses, "parts": parts, "sent": sent, "parameter_bytes": parameters}


if __name__ == "__main__":
    name = sys.argv[1]
    text = issubclass(systems[config_of(name)["system"]["name"]], LanguageSystem)
    for mesh, sizes in (MESHES | (SEQUENCE if text else {})).items():
        print(json.dumps({"mesh": mesh, **train(name, sizes)}), flush=True)
