"""Starts several processes of `member.py` on this machine and collects what each of them prints."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import simulated

MEMBER = Path(__file__).parent / "member.py"


def free_port():
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def start(count, checks, *, devices=1, **environment):
    """Starts `count` processes that go through `checks`, with so many simulated devices each."""
    port = free_port()
    shared = {
        **simulated.environment(devices),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",  # losses are compared as users compute them
        "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
        "JAX_NUM_PROCESSES": str(count),
        **environment,
    }
    if count == 1:
        del shared["JAX_COORDINATOR_ADDRESS"]
    return [
        subprocess.Popen(
            [sys.executable, str(MEMBER), json.dumps(checks)],
            env={**shared, "JAX_PROCESS_ID": str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]


def run(count, checks, *, timeout=500, **options):
    """Returns what each process printed, a list per process; fails where one of them did."""
    members = start(count, checks, **options)
    try:
        said = [member.communicate(timeout=timeout) for member in members]
    finally:
        for member in members:
            member.kill()
    for member, (_, problems) in zip(members, said, strict=True):
        assert member.returncode == 0, problems[-3000:]
    lines = [output.splitlines() for output, _ in said]
    return [[json.loads(line[5:]) for line in of_one if line.startswith("said ")] for of_one in lines]
