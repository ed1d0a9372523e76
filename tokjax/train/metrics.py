"""What a run reports: a JSON line per logged step and per evaluation, a progress bar, TensorBoard, and an alarm."""

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from tokjax.core.errors import NumericsError, OutputError, SourceError, SpecError
from tokjax.train.step import StepMetrics

if TYPE_CHECKING:
    from tokjax.train.loop import TrainSpec

METRICS_FILE = "metrics.jsonl"
EVALUATIONS_FILE = "evaluations.jsonl"


class Stopwatch:
    """Seconds spent stepping, over all resumes: evaluation, saving and compilation do not count."""

    def __init__(self, seconds: float = 0.0):
        self._before = seconds
        self._since: float | None = None

    def start(self) -> None:
        """Starts counting."""
        self._since = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Total so far."""
        return self._before + (0.0 if self._since is None else time.perf_counter() - self._since)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stops counting within a block, if it has started."""
        running = self._since is not None
        self._before, self._since = self.seconds, None
        try:
            yield
        finally:
            if running:
                self.start()


def read_metrics(workdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Returns the logged training steps of a run, in order.

    Raises:
      SourceError: no run has reported in `workdir`.
    """
    return _read(Path(workdir) / METRICS_FILE)


def read_evaluations(workdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Returns the evaluations of a run, in order; 'split' names the data.

    Raises:
      SourceError: no run has reported in `workdir`.
    """
    return _read(Path(workdir) / EVALUATIONS_FILE)


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise SourceError(f"{path}: no such file; give the directory of a run that has started.")
    return _whole_lines(path)


def is_evaluated(workdir: Path, step: int) -> bool:
    """Whether an evaluation of `step` has been reported."""
    path = workdir / EVALUATIONS_FILE
    return path.exists() and any(line["step"] == step for line in _whole_lines(path))


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """Parses every complete line; a line that a crash cut short is left out."""
    lines = []
    for text in path.read_bytes().split(b"\n"):
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append(line)
    return lines


class MetricsFile:
    """An append-only file of JSON lines, of which a reader sees whole lines only."""

    def __init__(self, path: Path, last_step: int):
        """Opens `path` and drops every line past `last_step`: those steps are about to run again."""
        self._path = path
        temporary = path.with_suffix(".tmp")
        with self._named_errors():
            kept = [line for line in _whole_lines(path) if line["step"] <= last_step] if path.exists() else []
            with open(temporary, "wb") as file:
                file.write(b"".join(_encode(line) for line in kept))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)

    def write(self, line: Mapping[str, Any]) -> None:
        """Appends one line in one system call.

        Raises:
          OutputError: the disk is full or the file cannot be written; the file keeps its whole lines.
        """
        data = _encode(line)
        with self._named_errors():
            size = os.fstat(self._descriptor).st_size
            written = os.write(self._descriptor, data)
            if written < len(data):
                os.ftruncate(self._descriptor, size)
                raise OSError("the disk is full")

    def close(self) -> None:
        """Releases the file."""
        os.close(self._descriptor)

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(f"{self._path}: cannot write metrics ({error}); free space or change workdir.") from error


def _encode(line: Mapping[str, Any]) -> bytes:
    """One line of strict JSON: what is not finite becomes null."""
    values = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
    return json.dumps(values, allow_nan=False).encode() + b"\n"


def summary(metrics: StepMetrics) -> dict[str, float]:
    """Turns host metrics into numbers: each (sum, count) into its ratio. A metric 'loss' replaces the objective."""
    values = {"loss": float(metrics.loss)}
    for name, (total, count) in metrics.aux.items():
        values[name] = float(total) / float(count) if count else math.nan
    values["learning_rate"] = float(metrics.learning_rate)
    values["grad_norm"] = float(np.linalg.norm(metrics.gradient_norms.astype(np.float64)))
    values["update_norm"] = float(metrics.update_norm)
    return values


def check_finite(step: int, metrics: StepMetrics, names: list[str]) -> None:
    """Raises unless the loss, every gradient and the update of `step` are finite.

    Args:
      names: path of each parameter, in the order of `gradient_norms`.

    Raises:
      NumericsError: names the step and the first parameter whose gradient is not finite.
    """
    bad = [name for name, norm in zip(names, metrics.gradient_norms, strict=True) if not np.isfinite(norm)]
    if not bad and np.isfinite(metrics.loss) and np.isfinite(metrics.update_norm):
        return
    where = (
        f"the gradient of {bad[0]} is not finite ({len(bad)} of {len(names)} parameters)"
        if bad
        else "every gradient is finite, but the loss or the update is not"
    )
    raise NumericsError(
        f"step {step}: loss {float(metrics.loss)}; {where}. The update is not saved, and a rerun resumes from the last "
        "checkpoint; lower optimizer.learning_rate, lengthen the warm-up or tighten clip_norm."
    )


class Recorder:
    """Reads the metrics of step n once step n + 1 is on its way, checks them, and reports the logged ones."""

    def __init__(
        self,
        steps_file: MetricsFile | None,
        evaluations_file: MetricsFile | None,
        watch: Stopwatch,
        names: list[str],
        *,
        start: int,
        is_logged: Callable[[int], bool],
        sinks: list[Callable[[int, dict[str, Any]], None]],
    ):
        self._steps_file, self._evaluations_file = steps_file, evaluations_file
        self._watch, self._names = watch, names
        self._is_logged, self._sinks = is_logged, sinks
        self._pending: tuple[int, StepMetrics] | None = None
        self._last = (start, watch.seconds)

    def push(self, step: int, metrics: StepMetrics) -> None:
        """Takes the metrics of a step just dispatched, and reports those of the step before.

        Raises:
          NumericsError: the step before was not finite.
        """
        self.flush()
        self._pending = (step, metrics)

    def flush(self) -> None:
        """Waits for the last pushed step and reports it.

        Raises:
          NumericsError: it was not finite.
        """
        if self._pending is None:
            return
        (step, metrics), self._pending = self._pending, None
        metrics = jax.device_get(metrics)
        check_finite(step, metrics, self._names)
        if not self._is_logged(step):
            return
        seconds = self._watch.seconds
        steps_per_second = (step - self._last[0]) / max(seconds - self._last[1], 1e-9)
        self._last = (step, seconds)
        line = {"step": step, **summary(metrics), "seconds": seconds, "steps_per_second": steps_per_second}
        self._send(self._steps_file, line)

    def evaluation(self, line: dict[str, Any]) -> None:
        """Reports one evaluation."""
        self._send(self._evaluations_file, line)

    def _send(self, file: MetricsFile | None, line: dict[str, Any]) -> None:
        if file is not None:
            file.write(line)
        for sink in self._sinks:
            sink(line["step"], line)


@contextlib.contextmanager
def progress_bar(start: int, steps: int, *, enabled: bool) -> Iterator[Callable[[int, dict[str, Any]], None]]:
    """Shows a bar with loss, rate and remaining time on standard error; one line per report where it is no terminal.

    Args:
      start: steps already made.
      steps: the last step.
      enabled: False shows nothing.

    Yields:
      The function (step, line) -> None to call with every metrics line.
    """
    if not enabled:
        yield lambda step, line: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("compiling", total=steps, completed=start)

        def show(step: int, line: dict[str, Any]) -> None:
            text = " ".join(f"{name} {line[name]:.4g}" for name in ("loss", "bits_per_byte") if name in line)
            if "split" in line:
                text = f"{line['split']} {text}"
            if "steps_per_second" in line:
                text = f"{text} | {line['steps_per_second']:.3g} steps/s"
            bar.update(task, completed=step, description=text)
            if not console.is_terminal:
                console.print(f"step {step}/{steps} {text}", highlight=False)

        yield show


@contextlib.contextmanager
def tensorboard(directory: Path, start: int, *, enabled: bool) -> Iterator[Callable[[int, dict[str, Any]], None]]:
    """Writes every number for TensorBoard, and hides what an earlier run wrote past `start`.

    Raises:
      SpecError: asked for, but not installed.
    """
    if not enabled:
        yield lambda step, line: None
        return
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise SpecError("train.tensorboard: needs tensorboardX; pip install 'tokjax[tensorboard]'.") from error
    with SummaryWriter(str(directory), purge_step=start + 1) as writer:

        def show(step: int, line: dict[str, Any]) -> None:
            prefix = line.get("split", "train")
            for name, value in line.items():
                if isinstance(value, float):
                    writer.add_scalar(f"{prefix}/{name}", value, step)

        yield show


@contextlib.contextmanager
def recording(
    workdir: Path, watch: Stopwatch, names: list[str], spec: "TrainSpec", *, start: int, progress: bool
) -> Iterator[Recorder]:
    """Opens everything that a run reports to; only the first process of a run reports.

    Args:
      workdir: directory of the run.
      watch: seconds of stepping.
      names: path of each parameter.
      spec: see `loop.TrainSpec`.
      start: steps already made; later lines of an earlier run are dropped.
      progress: show a progress bar.
    """
    first = jax.process_index() == 0
    with contextlib.ExitStack() as stack:

        def open_file(name: str) -> MetricsFile | None:
            return stack.enter_context(contextlib.closing(MetricsFile(workdir / name, start))) if first else None

        bar = stack.enter_context(progress_bar(start, spec.steps, enabled=progress and first))
        board = stack.enter_context(tensorboard(workdir / "tensorboard", start, enabled=spec.tensorboard and first))
        yield Recorder(
            open_file(METRICS_FILE),
            open_file(EVALUATIONS_FILE),
            watch,
            names,
            start=start,
            is_logged=lambda step: step % spec.log_every == 0 or step == spec.steps,
            sinks=[bar, board],
        )
