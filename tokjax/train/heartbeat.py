"""A small file for each process of a run, that says how far it is: workdir/processes/INDEX.json."""

import dataclasses
import json
import os
import socket
import time
from collections.abc import Iterable
from pathlib import Path

import jax

from tokjax.core.errors import OutputError

FOLDER = "processes"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """What a process last said of itself.

    Attributes:
      index: of the process, from 0.
      processes: how many there are.
      step: steps made and reported.
      time: when it said so, seconds since 1970 by its own clock.
      running: False once it has left the training loop, for whatever reason it could still tell.
      host: name of its machine.
      pid: its number there.
      step_seconds, data_wait_fraction, device_memory_gib, host_memory_gib: as of metrics.jsonl, its own.
    """

    index: int
    processes: int
    step: int
    time: float
    running: bool
    host: str
    pid: int
    step_seconds: float | None = None
    data_wait_fraction: float | None = None
    device_memory_gib: float | None = None
    host_memory_gib: float | None = None


MEASURED = ("step_seconds", "data_wait_fraction", "device_memory_gib", "host_memory_gib")


def write(workdir: Path, *, step: int, running: bool = True, **measured: float | None) -> None:
    """Says how far this process is; a reader sees the old file or the new one.

    Args:
      workdir: directory of the run, which all processes share.
      step: steps made.
      running: whether it goes on.
      measured: numbers of `MEASURED`.

    Raises:
      OutputError: the file cannot be written.
    """
    index = jax.process_index()
    beat = Heartbeat(
        index=index, processes=jax.process_count(), step=step, time=time.time(), running=running,
        host=socket.gethostname(), pid=os.getpid(), **measured,
    )  # fmt: skip
    path = workdir / FOLDER / f"{index}.json"
    temporary = path.with_suffix(".tmp")
    try:
        path.parent.mkdir(exist_ok=True)
        temporary.write_text(json.dumps(dataclasses.asdict(beat), allow_nan=False))  # not synced: it is soon outdated
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error}); free space or change workdir.") from error


def read(workdir: Path) -> list[Heartbeat]:
    """Returns what each process of the run last said, in order; none of a run without any."""
    return parse(path.read_bytes() for path in (workdir / FOLDER).glob("*.json"))


def parse(files: Iterable[bytes]) -> list[Heartbeat]:
    """Returns what is in `files`, in the order of the processes.

    Those that an earlier start of the run with more processes left behind are left out, as is what another version of
    tokjax wrote.
    """
    beats = []
    for content in files:
        try:
            beats.append(Heartbeat(**json.loads(content)))
        except (ValueError, TypeError):
            continue
    if not beats:
        return []
    processes = max(beats, key=lambda beat: beat.time).processes
    return sorted((beat for beat in beats if beat.index < processes), key=lambda beat: beat.index)
