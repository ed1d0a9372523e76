"""What a step sends between devices as their number grows, and how fast one and two processes train.

    python -m benchmarks.scaling

`received_mb` is what all collectives of one step bring to one device, counted in the program that XLA compiled for so
many simulated devices: exact, whatever the machine. Strong scaling splits a batch of 16 rows over the devices, weak
scaling gives each two of its own. `rows_per_second` are of `tokjax train`, each process on a core of its own:
strong scaling keeps the batch, weak scaling doubles it. `of_one_process` is the ratio to a run of one process, and
`of_two_runs` to what two runs that have nothing to do with each other get done on the same cores together.
"""

import argparse
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
from typing import Any

from benchmarks import common

RECIPES = ("lm", "hat")
ROWS, EACH = 16, 2
DEVICES = (1, 2, 4, 8)
AXES = ("data", "fsdp", "tensor")


def traffic(recipe: str, axis: str, devices: int, rows: int) -> dict[str, Any]:
    """Compiles one step and counts what it sends."""
    import jax

    from tokjax.experiment.abstract import abstract_step
    from tokjax.experiment.config import load_config
    from tokjax.measure.programs import program_cost
    from tokjax.sharding import MeshSpec, make_mesh

    config = load_config(f"{recipe}:smoke").to_dict()
    config["data"]["batch_size"] = rows
    if recipe == "lm":  # heads and a vocabulary, with the end of a document, that eight devices divide
        config["system"]["backbone"]["heads"] = 8
        config["tokenizer"]["vocab_size"] = 511
    mesh = make_mesh(MeshSpec(**{"data": 1, axis: devices}), jax.devices()[:devices])
    cost = program_cost(abstract_step(config, mesh).lowered.compile())
    return {
        "state_mb": round(cost.argument_bytes / 1e6, 3),
        "received_mb": round(sum(cost.received_bytes.values()) / 1e6, 3),
        "collectives": {kind: round(size / 1e6, 3) for kind, size in sorted(cost.received_bytes.items())},
    }


def throughput(recipe: str, rows: int, steps: int, *, processes: int = 1, runs: int = 1) -> float:
    """Returns rows per second of runs at the same time, each the median of its reports after the first, together."""
    with tempfile.TemporaryDirectory() as folder:
        commands = []
        for run in range(runs):
            command = [
                sys.executable, "-m", "tokjax", "train", "--config", f"{recipe}:smoke", "--workdir", f"{folder}/{run}",
                "--quiet", f"--config.data.batch_size={rows}", f"--config.train.steps={steps}",
                f"--config.train.eval_every={steps}", "--config.train.log_every=10", "--processes", str(processes),
            ]  # fmt: skip
            if processes > 1:
                command += ["--coordinator", f"localhost:{_free_port()}"]
            commands += [[*command, "--process", str(process)] for process in range(processes)]
        members = [_on_core(core, command) for core, command in enumerate(commands)]
        if any([member.wait() for member in members]):
            raise RuntimeError(f"{recipe} on {processes} processes failed: see above.")
        metrics = [(pathlib.Path(folder) / str(run) / "metrics.jsonl").read_text().splitlines() for run in range(runs)]
        return sum(statistics.median(json.loads(line)["rows_per_second"] for line in lines[1:]) for lines in metrics)


def _on_core(core: int, command: list[str]) -> subprocess.Popen:
    """Starts a process that keeps to one core of this machine."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[core]})  # inherited by what is started now
    try:
        return subprocess.Popen(
            command, env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}, stdout=subprocess.DEVNULL
        )
    finally:
        os.sched_setaffinity(0, cores)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def main() -> None:
    """Counts traffic, measures processes, and writes results/scaling.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    steps = parser.parse_args().steps
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={max(DEVICES)}"
    rows: list[dict[str, Any]] = []
    for recipe in RECIPES:
        for scaling in ("strong", "weak"):
            for axis in AXES if recipe == "lm" and scaling == "strong" else ("data", "fsdp"):
                for devices in DEVICES:
                    batch = ROWS if scaling == "strong" else EACH * devices
                    found = traffic(recipe, axis, devices, batch)
                    rows.append({"recipe": recipe, "scaling": scaling, "axis": axis, "devices": devices, **found})
    for recipe in RECIPES:
        one, apart = throughput(recipe, ROWS, steps), throughput(recipe, ROWS, steps, runs=2)
        for scaling, batch in (("strong", ROWS), ("weak", 2 * ROWS)):
            two = throughput(recipe, batch, steps, processes=2)
            rates = {"rows_per_second": two, "of_one_process": two / one, "of_two_runs": two / apart}
            rows.append({"recipe": recipe, "scaling": scaling, "processes": 2, "rows": batch, **rates})
    common.write("scaling", rows)


if __name__ == "__main__":
    main()
