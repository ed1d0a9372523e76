#!/usr/bin/env python3
"""Starts `tokjax train` on an existing Ray cluster, one process a worker, and shows what they print.

    python launch/ray_train.py --workers 4 --gpus 8 --config hat:small --workdir /shared/runs/hat

Needs: pip install 'tokjax[ray]' on every node, this directory at the same path on all, and a --workdir that all of them
see; RAY_ADDRESS, or a node of the cluster to run this on. Options that it does not know go to `tokjax train`.

Workers are spread over nodes. SIGTERM and Ctrl-C reach all processes, which save and end; the first that fails ends the
others, and its exit code is the launcher's. To go on, after a node was lost say, run the same command again.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
from typing import Any

import ray
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

FORWARDED = ("JAX_", "TOKJAX_", "XLA_", "PYTHONPATH")


class Worker:
    """One process, on the node where Ray has placed it."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def address(self) -> str:
        """An address for process 0: this node's, and a port that is free on it."""
        with socket.create_server(("", 0)) as server:
            return f"{ray.util.get_node_ip_address()}:{server.getsockname()[1]}"

    def run(self, directory: str, train: list[str], coordinator: str, processes: int, process: int) -> int:
        """Runs the process to its end; returns its exit code."""
        place = ["--coordinator", coordinator, "--processes", str(processes), "--process", str(process)]
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-m", "tokjax", "train", *train, *place],
            cwd=directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        for line in self.process.stdout or ():
            print(f"[{process}] {line}", end="", flush=True)  # Ray brings it to the launcher's output
        code = self.process.wait()
        return code if code >= 0 else 128 - code

    def stop(self, number: int) -> None:
        """Sends the process a signal, if it runs."""
        if self.process is not None:
            self.process.send_signal(number)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--workers", type=int, required=True, metavar="N", help="processes")
    parser.add_argument("--cpus", type=float, default=1, metavar="N", help="of each (default: 1)")
    parser.add_argument("--gpus", type=float, default=0, metavar="N", help="of each (default: none)")
    parser.add_argument("--tpus", type=float, default=0, metavar="N", help="chips of each (default: none)")
    parser.add_argument("--wait", type=float, default=600, metavar="S", help="seconds for a place (default: 600)")
    arguments, train = parser.parse_known_args()
    if arguments.workers < 1:
        parser.error(f"--workers: got {arguments.workers}; give 1 or more.")

    variables = {name: value for name, value in os.environ.items() if name.startswith(FORWARDED)}
    address = os.environ.get("RAY_ADDRESS", "auto")
    host, _, port = address.rpartition(":")
    try:
        if port.isdigit():  # where nobody listens, Ray itself would try for minutes
            socket.create_connection((host.removeprefix("ray://"), int(port)), timeout=30).close()
        ray.init(address=address, runtime_env={"env_vars": variables})
    except OSError as error:
        parser.error(f"no Ray cluster at {address} ({error}); start one by `ray start --head`, or set RAY_ADDRESS.")
    bundle = {"CPU": arguments.cpus, "GPU": arguments.gpus, "TPU": arguments.tpus}
    bundle = {kind: number for kind, number in bundle.items() if number}
    group = placement_group([bundle] * arguments.workers, strategy="SPREAD")
    if not group.wait(arguments.wait):
        parser.error(f"no place for {arguments.workers} x {bundle} within {arguments.wait:g} s; see `ray status`.")
    return run(workers(group, bundle, arguments.workers), train)


def workers(group: Any, bundle: dict[str, float], count: int) -> list[Any]:
    """Returns an actor for each bundle; two threads each, one to stop what the other runs."""
    actor = ray.remote(Worker)
    resources = {"num_cpus": bundle.get("CPU", 0), "num_gpus": bundle.get("GPU", 0)}
    if "TPU" in bundle:
        resources["resources"] = {"TPU": bundle["TPU"]}
    return [
        actor.options(
            max_concurrency=2,
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index),
            **resources,
        ).remote()
        for index in range(count)
    ]


def run(actors: list[Any], train: list[str]) -> int:
    """Returns 0 when all processes have ended well, or the code of the first that did not, having ended the others."""

    def tell(number: int, _: Any = None) -> None:
        for actor in actors:
            actor.stop.remote(number)

    coordinator = ray.get(actors[0].address.remote())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, tell)
    waiting = [
        actor.run.remote(os.getcwd(), train, coordinator, len(actors), process) for process, actor in enumerate(actors)
    ]
    failed = 0
    while waiting:
        [ended], waiting = ray.wait(waiting, num_returns=1)
        try:
            code = ray.get(ended)
        except ray.exceptions.RayError as error:
            print(f"a worker is lost: {error}", file=sys.stderr)
            code = 1
        if code and not failed:
            failed = code
            tell(signal.SIGTERM)
    return failed


if __name__ == "__main__":
    sys.exit(main())
