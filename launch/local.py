#!/usr/bin/env python3
"""Starts `tokjax train` as several processes on this machine, or on each host of a list through SSH.

    python launch/local.py --processes 2 --config hat:smoke --workdir runs/hat
    python launch/local.py --hosts node1,node2 --config hat:small --workdir /shared/runs/hat

Needs: tokjax installed; with --hosts, SSH that asks for no password, this directory and this Python at the same paths
on every host, and a --workdir that all of them see. Options that it does not know go to `tokjax train`.

Every line of output begins with the number of its process. SIGTERM and Ctrl-C reach all processes, which save and end.
The first that fails ends the others, and its exit code is the launcher's. To go on, run the same command again.
"""

import argparse
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import IO

GRACE_S = 60  # for what is asked to end, before it is killed
FORWARDED = ("JAX_", "TOKJAX_", "XLA_", "PYTHONPATH")
# SSH forwards no signals. The far shell reads a pipe that ends when the launcher closes it, or the connection breaks.
FAR = (
    "cd {directory} || exit; exec 3<&0; env {variables} {command} </dev/null 3<&- & child=$!; "
    "{{ cat <&3; kill -TERM $child; }} >/dev/null 2>&1 & wait $child"
)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="on each host (default: 1)")
    parser.add_argument("--hosts", metavar="HOST,...", help="where; the first must be reachable from the others")
    parser.add_argument("--gpus", type=int, metavar="N", help="GPUs of each process (default: all of its host)")
    parser.add_argument("--port", type=int, help="where process 0 listens (default: a free port, 8476 with --hosts)")
    arguments, train = parser.parse_known_args()
    if arguments.processes < 1:
        parser.error(f"--processes: got {arguments.processes}; give 1 or more.")

    hosts = arguments.hosts.split(",") if arguments.hosts else [None]
    port = arguments.port or (8476 if arguments.hosts else free_port())
    coordinator = f"{hosts[0].rpartition('@')[2] if hosts[0] else 'localhost'}:{port}"
    places = [(host, rank) for host in hosts for rank in range(arguments.processes)]
    # In place before the first process is, so that no signal finds one without the others.
    processes: list[subprocess.Popen[str]] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: tell(processes, number))
    for process, (host, rank) in enumerate(places):
        command = [sys.executable, "-m", "tokjax", "train", *train, "--coordinator", coordinator]
        command += ["--processes", str(len(places)), "--process", str(process)]
        own = range(rank * (arguments.gpus or 0), (rank + 1) * (arguments.gpus or 0))
        variables = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, own))} if own else {}
        processes.append(start(command, variables, host))
    printers = [
        threading.Thread(target=relay, args=(number, stream, out), daemon=True)
        for number, process in enumerate(processes)
        for stream, out in ((process.stdout, sys.stdout), (process.stderr, sys.stderr))
    ]
    for printer in printers:
        printer.start()
    code = wait(processes)
    for printer in printers:
        printer.join(timeout=10)
    return code


def start(command: list[str], variables: dict[str, str], host: str | None) -> subprocess.Popen[str]:
    """Starts one process, in a session of its own: a Ctrl-C reaches it once, through the launcher."""
    variables = {"PYTHONUNBUFFERED": "1", **variables}
    if host is not None:
        forwarded = {name: value for name, value in os.environ.items() if name.startswith(FORWARDED)} | variables
        script = FAR.format(
            directory=shlex.quote(os.getcwd()),
            variables=" ".join(f"{name}={shlex.quote(value)}" for name, value in forwarded.items()),
            command=shlex.join(command),
        )
        command = ["ssh", "-o", "BatchMode=yes", host, f"sh -c {shlex.quote(script)}"]
    return subprocess.Popen(
        command,
        env={**os.environ, **variables},
        stdin=subprocess.PIPE if host else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )


def tell(processes: list[subprocess.Popen[str]], number: int) -> None:
    """Sends a signal, SIGTERM to those on other hosts, to all that still run."""
    for process in processes:
        if process.stdin is not None:
            process.stdin.close()
        else:
            process.send_signal(number)  # does nothing where it has ended


def wait(processes: list[subprocess.Popen[str]]) -> int:
    """Returns 0 when all have ended well, or the code of the first that did not, having ended the others."""
    while True:
        codes = [process.poll() for process in processes]
        failed = [code for code in codes if code]
        if failed or None not in codes:
            break
        time.sleep(0.1)
    if not failed:
        return 0
    tell(processes, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_S
    for process in processes:
        try:
            process.wait(max(deadline - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return failed[0] if failed[0] > 0 else 128 - failed[0]


def relay(process: int, stream: IO[str], out: IO[str]) -> None:
    for line in stream:
        out.write(f"[{process}] {line}")
        out.flush()


def free_port() -> int:
    with socket.create_server(("localhost", 0)) as server:
        return server.getsockname()[1]


if __name__ == "__main__":
    sys.exit(main())
