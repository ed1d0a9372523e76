"""Lowers the training step of a recipe of images at `paper` scale for a mesh of 4 x 4 devices, every stage it has.

Prints the number of shardings in each program as JSON. No array of the model is allocated.
"""

import json
import sys

from tokjax.experiment.abstract import abstract_step
from tokjax.experiment.config import load_config
from tokjax.sharding import MeshSpec, make_mesh


def lowered(name: str) -> dict[str, int]:
    config = load_config(f"{name}:paper").to_dict()
    if name == "code_lm":  # of the codes of flextok, the classes of ImageNet and no class
        config["system"]["vocab_size"] = 64_000 + 1000 + 1
    stages = ("proxy", "pixels") if config["system"].get("stage", "single") == "proxy" else ("",)
    mesh = make_mesh(MeshSpec(data=1, fsdp=4, tensor=4))
    found = {}
    for stage in stages:
        system = config["system"] | ({"stage": stage} if stage else {})
        text = abstract_step({**config, "system": system}, mesh).lowered.as_text()
        found[stage] = text.count("sharding")
    return found


if __name__ == "__main__":
    print(json.dumps(lowered(sys.argv[1])))
