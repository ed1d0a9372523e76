"""What a run has written so far, wherever its directory is: on this machine, or at an address that fsspec knows."""

import contextlib
import dataclasses
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from tokjax.core.errors import SourceError, SpecError
from tokjax.train import checkpoint, heartbeat
from tokjax.train.heartbeat import Heartbeat
from tokjax.train.metrics import EVALUATIONS_FILE, METRICS_FILE, RUN_FILE, whole_lines

_TAIL_BYTES = 2**19  # of a file of lines: some 500 of them, however long the run is
_RECENT = 10  # reports that a step's time is taken from
_SILENT_REPORTS = 5  # a process is silent when it has not reported for as long as this many reports usually take,
_SILENT_SECONDS = 60.0  # and for this long: evaluating and saving take their time


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunStatus:
    """Where a run stands.

    Attributes:
      workdir: its directory or address.
      now: when this was read, seconds since 1970.
      description: what run.json says; empty before there is one.
      lines: the last lines of metrics.jsonl, in order.
      evaluations: the last lines of evaluations.jsonl, in order.
      checkpoint: step of the newest checkpoint, None before there is one.
      processes: what each process last said.
    """

    workdir: str
    now: float
    description: dict[str, Any]
    lines: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    checkpoint: int | None
    processes: list[Heartbeat]

    @property
    def step(self) -> int:
        """Steps made and reported."""
        return max([line["step"] for line in self.lines[-1:]] + [beat.step for beat in self.processes], default=0)

    @property
    def steps(self) -> int | None:
        """The last step there will be, if known."""
        return self.description.get("steps")

    @property
    def ended(self) -> bool:
        """Whether every process has said that it left the training loop."""
        return bool(self.processes) and not any(beat.running for beat in self.processes)

    @property
    def seconds_left(self) -> float | None:
        """Of stepping, at the pace of the last reports; None where that is not known."""
        recent = [line["step_seconds"] for line in self.lines[-_RECENT:] if "step_seconds" in line]
        if not recent or self.steps is None:
            return None
        return (self.steps - self.step) * statistics.median(recent)

    def is_silent(self, beat: Heartbeat) -> bool:
        """Whether a process that has not said that it left has not been heard of for too long."""
        usual = self.description.get("log_every", 1) * (beat.step_seconds or 0.0)
        return beat.running and self.now - beat.time > max(_SILENT_SECONDS, _SILENT_REPORTS * usual)


class Folder(Protocol):
    """The directory of a run, to be read again and again."""

    name: str

    def tail(self, name: str) -> bytes:
        """The end of a file, from the beginning of a line; nothing where there is no file."""
        ...

    def files(self, name: str) -> list[bytes]:
        """What is in the JSON files of a folder; nothing where there is no folder."""
        ...

    def names(self, name: str) -> list[str]:
        """What a folder holds; nothing where there is none."""
        ...


def open_folder(workdir: str) -> Folder:
    """Returns the directory of a run.

    Args:
      workdir: a path, or an address with '://', such as gs://bucket/run, for which fsspec and, for most kinds, another
        package must be installed.

    Raises:
      SpecError: a package is missing, or nothing knows such an address.
    """
    if "://" not in workdir:
        return _Local(workdir)
    try:
        import fsspec

        files, path = fsspec.core.url_to_fs(workdir)
    except ImportError as error:
        raise SpecError(f"{workdir}: {error}; pip install 'tokjax[remote]' reads gs://, s3:// and ssh://.") from error
    except ValueError as error:
        raise SpecError(f"{workdir}: {error}. Give a path, or an address such as gs://bucket/run.") from error
    return _Remote(workdir, files, path)


def read_run(folder: Folder) -> RunStatus:
    """Returns where the run in `folder` stands, which may go on meanwhile.

    Raises:
      SourceError: no run has written there, or it cannot be read.
    """
    with _named_errors(folder.name):
        description, lines = folder.tail(RUN_FILE), whole_lines(folder.tail(METRICS_FILE))
        if not description and not lines:
            raise SourceError(f"{folder.name}: no run has written here; give the --workdir of one that trains.")
        steps = [int(name) for name in folder.names(checkpoint.FOLDER) if name.isdigit()]
        return RunStatus(
            workdir=folder.name,
            now=time.time(),
            description=json.loads(description or b"{}"),
            lines=lines,
            evaluations=whole_lines(folder.tail(EVALUATIONS_FILE)),
            checkpoint=max(steps, default=None),
            processes=heartbeat.parse(folder.files(heartbeat.FOLDER)),
        )


@contextlib.contextmanager
def _named_errors(workdir: str) -> Iterator[None]:
    try:
        yield
    except SourceError:
        raise
    except Exception as error:  # each kind of remote storage has errors of its own
        problem = str(error).partition("\n")[0] or type(error).__name__
        raise SourceError(f"{workdir}: cannot be read ({problem}); check the address, access and network.") from error


def _whole(content: bytes, cut: bool) -> bytes:
    """Leaves out what is before the first end of a line, of a file whose beginning was cut off."""
    return content.partition(b"\n")[2] if cut else content


class _Local:
    def __init__(self, workdir: str):
        self.name, self._path = workdir, Path(workdir)

    def tail(self, name: str) -> bytes:
        try:
            with open(self._path / name, "rb") as file:
                start = max(0, file.seek(0, 2) - _TAIL_BYTES)
                file.seek(start)
                return _whole(file.read(), start > 0)
        except (FileNotFoundError, NotADirectoryError):
            return b""

    def files(self, name: str) -> list[bytes]:
        return [self.tail(f"{name}/{each}") for each in self.names(name) if each.endswith(".json")]

    def names(self, name: str) -> list[str]:
        try:
            return [path.name for path in (self._path / name).iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            return []


class _Remote:
    def __init__(self, workdir: str, files: Any, path: str):
        self.name, self._files, self._path = workdir, files, path.rstrip("/")

    def tail(self, name: str) -> bytes:
        path = f"{self._path}/{name}"
        self._files.invalidate_cache()  # sizes and listings of a moment ago
        try:
            size = self._files.size(path)
            start = max(0, size - _TAIL_BYTES)
            return _whole(self._files.cat_file(path, start=start, end=size), start > 0)
        except FileNotFoundError:
            return b""

    def files(self, name: str) -> list[bytes]:
        paths = [f"{self._path}/{name}/{each}" for each in self.names(name) if each.endswith(".json")]
        return list(self._files.cat(paths, on_error="omit").values()) if paths else []

    def names(self, name: str) -> list[str]:
        try:
            paths = self._files.ls(f"{self._path}/{name}", detail=False)
        except FileNotFoundError:
            return []
        return [path.rstrip("/").rpartition("/")[2] for path in paths]
