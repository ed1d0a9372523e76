"""What `tokjax plan` says of the largest recipes on three pods, beside what the chips' compilers say.

    python -m benchmarks.plan        (needs the extra `compile`, on Python 3.12; 20 minutes on two idle cores)

`estimate` is the arithmetic of `measure/pods.py`; `compiled` is read off the step compiled ahead of time. GiB are of a
device; `state` is parameters, optimizer and batch, `temporary` what exists only within a step, `traffic` what
collectives bring to a device in a step. Nothing has run on any of these chips: seconds and MFU are estimates alone.
"""

import argparse
import os
from typing import Any

from benchmarks import common

# Recipe, topology, mesh, and what is changed so that a step fits, as `tokjax plan` advises; on v5e, where that is close
# to call, also what leaves more room, and what does not fit.
CASES: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("lm_7b", "v5e:4x4", "fsdp=8,tensor=2", {"optimizer.accumulate_steps": 64}),
    ("lm_7b", "v5e:4x4", "fsdp=16", {"optimizer.accumulate_steps": 32}),
    ("lm_7b", "v5e:4x4", "fsdp=4,tensor=4", {"optimizer.accumulate_steps": 128}),
    ("lm_7b", "v5e:4x4", "fsdp=8,tensor=2", {"data.batch_size": 8}),
    ("lm_7b", "v5p:4x4x4", "fsdp=64", {}),
    ("lm_7b", "h100:8", "fsdp=8", {"optimizer.accumulate_steps": 16}),
    ("hat_7b", "v5e:4x4", "fsdp=8,tensor=2", {"optimizer.accumulate_steps": 64}),
    ("hat_7b", "v5e:4x4", "fsdp=16", {"optimizer.accumulate_steps": 32}),
    ("hat_7b", "v5p:4x4x4", "fsdp=64", {}),
    ("hat_7b", "h100:8", "fsdp=8", {"optimizer.accumulate_steps": 16}),
    ("titok_l32", "v5e:4x4", "fsdp=16", {}),
    ("titok_l32", "v5p:4x4x4", "fsdp=64", {}),
    ("titok_l32", "h100:8", "fsdp=8", {}),
)


def configuration(recipe: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Returns the recipe at `paper` scale, changed."""
    from tokjax.experiment.config import load_config, override

    return override(load_config(f"{recipe}:paper"), [f"{name}={value}" for name, value in changes.items()]).to_dict()


def estimated(recipe: str, topology_name: str, mesh: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Returns the estimates of one case."""
    from tokjax.experiment.plan import make_plan, parse_mesh
    from tokjax.measure.pods import GIB, topology

    pod = topology(topology_name)
    plan = make_plan(recipe, configuration(recipe, changes), pod, parse_mesh(mesh, pod.devices))
    found = plan.best.estimate
    assert found is not None
    state = sum(found.memory[name] for name in found.given)
    return {
        "recipe": f"{recipe}:paper",
        "topology": topology_name,
        "mesh": mesh.replace(",", ", "),
        "batch": plan.step.data["batch_size"],
        "accumulate_steps": plan.step.optimizer.accumulate_steps,
        "state_gib": round(state / GIB, 3),
        "temporary_gib": round((found.bytes - state) / GIB, 3),
        "traffic_gib": round(sum(found.traffic.values()) / GIB, 1),
        "fits": "yes" if found.fits else "no",
        "step_s": round(found.step_seconds, 3),
        "mfu": round(found.mfu, 3),
    }


def row(recipe: str, topology_name: str, mesh: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Returns the estimates of one case, and what its compiler says."""
    from tokjax.experiment.plan import compile_step, parse_mesh
    from tokjax.measure.pods import GIB, topology

    pod = topology(topology_name)
    found = estimated(recipe, topology_name, mesh, changes)
    compiled = compile_step(configuration(recipe, changes), pod, parse_mesh(mesh, pod.devices))
    return found | {
        "compiled_state_gib": round(compiled.arguments / GIB, 3),
        "compiled_temporary_gib": round(compiled.temporary / GIB, 3),
        "compiled_traffic_gib": round(sum(compiled.traffic.values()) / GIB, 1),
        "compiled_fits": "yes" if compiled.bytes <= pod.chip.memory else "no",
        "compiled_traffic": {kind: round(size / GIB, 1) for kind, size in compiled.traffic.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    rows = []
    for case in CASES:
        rows.append(row(*case))
        print(rows[-1], flush=True)
    common.write("plan", rows)


if __name__ == "__main__":
    main()
