"""Lowers the training step of a recipe at `paper` scale for a mesh of 4 x 4 devices, and prints what it found as JSON.

No array of the model is allocated: shapes alone go through initialisation, tracing and partitioning rules.
"""

import json
import sys
from typing import Any

from tokjax.experiment.abstract import abstract_step
from tokjax.experiment.config import load_config
from tokjax.nn.param import count
from tokjax.sharding import MeshSpec, make_mesh


def lowered(name: str) -> dict[str, Any]:
    step = abstract_step(load_config(f"{name}:paper").to_dict(), make_mesh(MeshSpec(data=1, fsdp=4, tensor=4)))
    parameters = {part: count(declared) for part, declared in step.system.declare().items()}
    return {"parameters": parameters, "shardings": step.lowered.as_text().count("sharding")}


if __name__ == "__main__":
    print(json.dumps(lowered(sys.argv[1])))
