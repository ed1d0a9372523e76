"""How long a training step waits for its batch, in each process of a run on this machine.

    python -m benchmarks.data_wait [--processes 1 2] [--steps 120]

The command `tokjax train` of `lm` is started in one and in several processes, on a corpus in memory, the same corpus
streamed, and a mixture of it and another. `wait_share` is the time the loop stood at `next(batches)` over all time
between the first and the last counted step, in the process that waited most; `batch_ms` what the thread beside it took
to make a batch, reading included, and `slowest_batch_ms` the slowest one. The first steps, in which programs compile
and the first blocks are read, do not count. All processes share the machine's cores, so the thread fights for them;
beside an accelerator it has the host for itself.
"""

import argparse
import contextlib
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from benchmarks import common

SKIPPED = 20  # steps
LENGTH, BATCH = 512, 8
CORPORA = {"code": "stdlib", "prose": "pydocs"}  # name -> what is tokenized
SOURCES = {
    "in memory": "tokenized:{code}",
    "streamed": "tokenized:{code}?stream=true",
    "mixture, streamed": "mix:0.7*tokenized:{code}?stream=true|0.3*tokenized:{prose}?stream=true",
}


def main() -> None:
    """Runs every source at every number of processes and writes results/data_wait.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--measure", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        sys.exit(_measure(arguments.measure))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        places = {name: _tokenized(address, pathlib.Path(folder) / name) for name, address in CORPORA.items()}
        for name, source in SOURCES.items():
            for processes in arguments.processes:
                workdir = pathlib.Path(folder) / f"run-{len(rows)}"
                found = _run(source.format(**places), workdir, processes, arguments.steps)
                rows.append({"source": name, "processes": processes, "rows": BATCH, "length": LENGTH, **found})
    common.write("data_wait", rows)


def _tokenized(address: str, place: pathlib.Path) -> str:
    from tokjax.data.tokenized.write import tokenize_source
    from tokjax.text import load_tokenizer

    tokenize_source(address, load_tokenizer("bytes"), place, workers=2)
    return str(place)


def _run(source: str, workdir: pathlib.Path, processes: int, steps: int) -> dict[str, Any]:
    """Trains on `source` in so many processes and returns what the one that waited most measured."""
    command = [
        sys.executable, "-m", "benchmarks.data_wait", "--measure", "train", "--config", "lm:smoke",
        "--workdir", str(workdir), f"--config.source={source}", "--config.tokenizer={}",
        f"--config.train.steps={steps}", f"--config.train.eval_every={steps}", "--config.data.eval_bytes=1000",
        f"--config.data.length={LENGTH}", f"--config.data.batch_size={BATCH}",
    ]  # fmt: skip
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    started = []
    for number in range(processes):
        together = {} if processes == 1 else {
            "JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(processes), "JAX_PROCESS_ID": str(number),
        }  # fmt: skip
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", **together}
        started.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    results = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        sys.exit(f"{source}: a process ended with {[process.returncode for process in started]}.")
    return max((json.loads(result.splitlines()[-1]) for result in results), key=lambda found: found["wait_share"])


def _measure(command: list[str]) -> int:
    """Runs a `tokjax` command in this process, and prints what its training loop waited for."""
    from tokjax.cli import main as tokjax
    from tokjax.train import loop

    making: list[float] = []
    waits: list[float] = []
    read_at: list[float] = []
    prefetch = loop.prefetch

    @contextlib.contextmanager
    def timed(batch: Any, *span: int, **options: Any) -> Iterator[Iterator[Any]]:
        def make(step: int) -> Any:
            start = time.perf_counter()
            made = batch(step)
            making.append(time.perf_counter() - start)
            return made

        def read(batches: Iterator[Any]) -> Iterator[Any]:
            while True:
                start = time.perf_counter()
                item = next(batches, None)
                if item is None:
                    return
                read_at.append(time.perf_counter())
                waits.append(read_at[-1] - start)
                yield item

        with prefetch(make, *span, **options) as batches:
            yield read(batches)

    loop.prefetch = timed  # type: ignore[assignment]
    if code := tokjax([*command, "--quiet"]):
        return code
    seconds = read_at[-1] - read_at[SKIPPED]
    found = {
        "steps": len(waits) - 1 - SKIPPED,
        "step_ms": 1e3 * seconds / (len(waits) - 1 - SKIPPED),
        "batch_ms": 1e3 * statistics.mean(making[SKIPPED:]),
        "slowest_batch_ms": 1e3 * max(making[SKIPPED:]),
        "wait_share": sum(waits[SKIPPED + 1 :]) / seconds,
    }
    print(json.dumps(found), flush=True)
    return 0


if __name__ == "__main__":
    main()
