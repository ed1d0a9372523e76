"""Trains one system's smoke recipe on meshes of eight simulated devices; prints the losses of each as JSON."""

import json
import sys
import tempfile

from tokjax.experiment.config import load_config
from tokjax.experiment.run import train_model
from tokjax.train import read_metrics

MESHES = ({"data": 8, "fsdp": 1, "tensor": 1}, {"data": 2, "fsdp": 2, "tensor": 2})


def losses(name: str, source: str, mesh: dict[str, int]) -> list[float]:
    config = load_config(f"{name}:smoke")
    config.source, config.mesh = source, mesh
    config.data.length = 64
    config.train.update({"steps": 3, "log_every": 1, "eval_every": 3, "checkpoint_every": 3})
    config.optimizer.warmup_steps = 1
    if "vocab_size" in config.tokenizer:
        config.tokenizer.vocab_size = 300
    with tempfile.TemporaryDirectory() as workdir:
        train_model(config.to_dict(), workdir, progress=False)
        return [line["loss"] for line in read_metrics(workdir)]


if __name__ == "__main__":
    name, source, devices = sys.argv[1:]
    meshes = MESHES if devices == "8" else ({"data": 1, "fsdp": 1, "tensor": 1},)
    print(json.dumps([losses(name, source, mesh) for mesh in meshes]))
