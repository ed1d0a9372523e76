"""What a run reports: a JSON line per logged step and per evaluation, to files and to sinks, and an alarm."""

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from tokjax.core.errors import NumericsError, OutputError, SourceError
from tokjax.core.files import write_text
from tokjax.train.sinks import Sink, heartbeats, progress_bar, tensorboard
from tokjax.train.speed import Speed
from tokjax.train.spikes import HISTORY, LossSpikes
from tokjax.train.step import Part, StepMetrics

if TYPE_CHECKING:
    from tokjax.train.loop import TrainSpec

METRICS_FILE = "metrics.jsonl"
EVALUATIONS_FILE = "evaluations.jsonl"
RUN_FILE = "run.json"


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
    return whole_lines(path.read_bytes())


def is_evaluated(workdir: Path, step: int) -> bool:
    """Whether an evaluation of `step` has been reported."""
    path = workdir / EVALUATIONS_FILE
    return path.exists() and any(line["step"] == step for line in whole_lines(path.read_bytes()))


def whole_lines(content: bytes) -> list[dict[str, Any]]:
    """Parses every complete line of a file of metrics; one that a crash or a reader cut short is left out."""
    lines = []
    for text in content.split(b"\n"):
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append(line)
    return lines


class MetricsFile:
    """An append-only file of JSON lines, of which a reader sees whole lines only.

    Attributes:
      kept: the last `HISTORY` lines that were there when it was opened.
    """

    def __init__(self, path: Path, last_step: int):
        """Opens `path` and drops every line past `last_step`: those steps are about to run again."""
        self._path = path
        temporary = path.with_suffix(".tmp")
        with self._named_errors():
            lines = whole_lines(path.read_bytes()) if path.exists() else []
            kept = [line for line in lines if line["step"] <= last_step]
            with open(temporary, "wb") as file:
                file.write(b"".join(_encode(line) for line in kept))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
        self.kept = kept[-HISTORY:]

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
    return json.dumps(_finite(line), allow_nan=False).encode() + b"\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def summary(metrics: StepMetrics, parts: Sequence[Part]) -> dict[str, Any]:
    """Turns host metrics into numbers: each (sum, count) into its ratio. A metric 'loss' replaces the objective.

    Args:
      metrics: of one step.
      parts: what each of `gradient_norms` is of; those of a block become one number.
    """
    values: dict[str, Any] = {"loss": float(metrics.loss)}
    for name, (total, count) in metrics.aux.items():
        values[name] = float(total) / float(count) if count else math.nan
    values["learning_rate"] = float(metrics.learning_rate)
    squares = np.square(metrics.gradient_norms.astype(np.float64))
    blocks = dict.fromkeys((part.block for part in parts), 0.0)
    for part, square in zip(parts, squares, strict=True):
        blocks[part.block] += float(square)
    values["grad_norm"] = math.sqrt(float(np.sum(squares)))
    values["gradient_norms"] = {block: math.sqrt(square) for block, square in blocks.items()}
    values["update_norm"] = float(metrics.update_norm)
    return values


def check_finite(step: int, metrics: StepMetrics, parts: Sequence[Part]) -> None:
    """Raises unless the loss, every gradient and the update of `step` are finite.

    Args:
      step: which step.
      metrics: of that step.
      parts: what each of `gradient_norms` is of.

    Raises:
      NumericsError: names the step and the first part of the parameters whose gradient is not finite.
    """
    bad = [part.name for part, norm in zip(parts, metrics.gradient_norms, strict=True) if not np.isfinite(norm)]
    if not bad and np.isfinite(metrics.loss) and np.isfinite(metrics.update_norm):
        return
    where = (
        f"the gradient of {bad[0]} is not finite ({len(bad)} of {len(parts)} parts)"
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
        speed: Speed,
        parts: Sequence[Part],
        *,
        is_logged: Callable[[int], bool],
        sinks: Sequence[Sink],
    ):
        self._steps_file, self._evaluations_file = steps_file, evaluations_file
        self._speed, self._parts = speed, parts
        self._is_logged, self._sinks = is_logged, sinks
        # Only where lines are kept is it known which losses came before.
        self._spikes = None if steps_file is None else LossSpikes(steps_file.kept)
        self._pending: tuple[int, StepMetrics] | None = None

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
        check_finite(step, metrics, self._parts)
        self._speed.count(metrics)
        if not self._is_logged(step):
            return
        line = {"step": step, **summary(metrics, self._parts), **self._speed.lap(step)}
        if self._spikes is not None:
            line |= self._spikes.judge(step, line["loss"])
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
def recording(
    workdir: Path,
    speed: Speed,
    parts: Sequence[Part],
    spec: "TrainSpec",
    metadata: Mapping[str, Any],
    *,
    start: int,
    progress: bool,
) -> Iterator[Recorder]:
    """Opens everything that a run reports to; the first process of a run reports, the others leave heartbeats.

    Args:
      workdir: directory of the run.
      speed: of its steps.
      parts: what each gradient norm is of.
      spec: see `loop.TrainSpec`.
      metadata: JSON values that describe the run, as of `checkpoint.run_metadata`, for those who watch it.
      start: steps already made; later lines of an earlier run are dropped.
      progress: show a progress bar.
    """
    first = jax.process_index() == 0
    with contextlib.ExitStack() as stack:

        def open_file(name: str) -> MetricsFile | None:
            return stack.enter_context(contextlib.closing(MetricsFile(workdir / name, start))) if first else None

        steps_file, evaluations_file = open_file(METRICS_FILE), open_file(EVALUATIONS_FILE)
        if first:
            write_text(workdir / RUN_FILE, json.dumps(_description(metadata, spec)))
        yield Recorder(
            steps_file,
            evaluations_file,
            speed,
            parts,
            is_logged=lambda step: step % spec.log_every == 0 or step == spec.steps,
            sinks=[
                stack.enter_context(progress_bar(start, spec.steps, enabled=progress and first)),
                stack.enter_context(tensorboard(workdir / "tensorboard", start, enabled=spec.tensorboard and first)),
                stack.enter_context(heartbeats(workdir, start)),
            ],
        )


def _description(metadata: Mapping[str, Any], spec: "TrainSpec") -> dict[str, Any]:
    """What is the same in every line, for those who watch the run."""
    return {
        **metadata,
        "steps": spec.steps,
        "log_every": spec.log_every,
        "started": time.time(),
        "processes": jax.process_count(),
        "devices": jax.device_count(),
        "device_kind": jax.devices()[0].device_kind,
    }
