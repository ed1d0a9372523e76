"""Compiles steps for eight simulated devices and prints, as JSON, what they take and what was estimated of them."""

import json
import sys

from tokjax.experiment.abstract import abstract_step
from tokjax.experiment.config import load_config, override
from tokjax.experiment.plan import parse_mesh
from tokjax.experiment.work import traced_step, work_on
from tokjax.measure.pods import estimate, topology
from tokjax.measure.programs import program_cost
from tokjax.sharding import MeshSpec, make_mesh


def found(reference: str, mesh: str, *changes: str) -> dict:
    config = override(load_config(reference), changes).to_dict()
    sizes = parse_mesh(mesh, 8)
    cost = program_cost(abstract_step(config, make_mesh(MeshSpec(**sizes))).lowered.compile())
    step = traced_step(config, "cpu")
    estimated = estimate(work_on(step, sizes), sizes, topology("h100:8"))
    return {
        "mesh": sizes,
        "arguments": cost.argument_bytes,
        "state": sum(estimated.memory[name] for name in estimated.given),
        "received": cost.received_bytes,
        "traffic": estimated.traffic,
    }


if __name__ == "__main__":
    print(json.dumps([found(*case) for case in json.loads(sys.argv[1])]))
