"""Whole training steps compiled for pods that are not here: memory, traffic between chips and FLOPs of each device.

    python -m benchmarks.programs        (needs the extra `compile`, on Python 3.12)

Every row is the sharded step of a recipe at `paper` scale, compiled ahead of time. `argument_gib` is parameters,
optimizer state and batch, `temporary_gib` what exists only within a step. `received_gib` is what collectives bring to
one device in a step, `collectives` their number. `teraflops` are of forward and backward pass on one device by the
system's own count; a step that computes activations again does a third more.
"""

import argparse
import os
from typing import Any

from benchmarks import common

GIB = 2**30
# Recipe, topology, mesh, and what is changed so that a step fits the memory of its devices.
CASES: tuple[tuple[str, str, dict[str, int], dict[str, int]], ...] = (
    ("lm", "v5e:4x4", {"fsdp": 16}, {"accumulate_steps": 2}),
    ("lm", "h100:4", {"fsdp": 4}, {"accumulate_steps": 4}),
    ("hat", "v5e:4x4", {"fsdp": 16}, {"accumulate_steps": 2}),
    ("hat", "h100:4", {"fsdp": 4}, {"accumulate_steps": 4}),
)


def row(recipe: str, topology: str, mesh: dict[str, int], optimizer: dict[str, int]) -> dict[str, Any]:
    """Compiles one case."""
    from tokjax.core.platform import compiling_for
    from tokjax.experiment.abstract import abstract_step
    from tokjax.experiment.config import load_config
    from tokjax.measure.programs import program_cost
    from tokjax.sharding import MeshSpec, make_mesh
    from tokjax.sharding.topologies import chips

    config = load_config(f"{recipe}:paper").to_dict()
    config["optimizer"] |= optimizer
    devices = chips(topology)
    with compiling_for("gpu" if topology.startswith("h100") else "tpu"):
        step = abstract_step(config, make_mesh(MeshSpec(data=1, **mesh), devices))
        cost = program_cost(step.lowered.compile())
    return {
        "recipe": f"{recipe}:paper",
        "topology": topology,
        "mesh": " x ".join(f"{axis} {size}" for axis, size in mesh.items()),
        **optimizer,
        "argument_gib": round(cost.argument_bytes / GIB, 3),
        "temporary_gib": round(cost.temporary_bytes / GIB, 3),
        "received_gib": {kind: round(size / GIB, 3) for kind, size in sorted(cost.received_bytes.items())},
        "collectives": dict(sorted(cost.collectives.items())),
        "teraflops": round(step.flops / len(devices) / 1e12, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("XLA_FLAGS", "--xla_gpu_autotune_level=0")
    common.write("programs", [row(*case) for case in CASES])


if __name__ == "__main__":
    main()
