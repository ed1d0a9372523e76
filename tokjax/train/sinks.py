"""Where the lines of metrics go beside their files: a progress bar, TensorBoard, the heartbeat of the process."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tokjax.core.errors import OutputError, SpecError
from tokjax.train import heartbeat

Sink = Callable[[int, dict[str, Any]], None]  # (step, line)


@contextlib.contextmanager
def progress_bar(start: int, steps: int, *, enabled: bool) -> Iterator[Sink]:
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
def tensorboard(directory: Path, start: int, *, enabled: bool) -> Iterator[Sink]:
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
            for name, value in flat(line):
                if name != "step":
                    writer.add_scalar(f"{line.get('split', 'train')}/{name}", value, step)

        yield show


def flat(line: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yields the numbers of `line`; the names of those in a dict within it are joined to the dict's by '/'."""
    for name, value in line.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}/{inner}", number) for inner, number in flat(value))
        elif isinstance(value, int | float):
            yield name, float(value)


@contextlib.contextmanager
def heartbeats(workdir: Path, start: int) -> Iterator[Sink]:
    """Keeps the heartbeat of this process at its last report, and says at the end that it has left.

    Raises:
      OutputError: it cannot be written.
    """
    step, measured = start, dict[str, Any]()

    def beat(now: int, line: dict[str, Any]) -> None:
        nonlocal step, measured
        if "split" not in line:
            step, measured = now, {name: line[name] for name in heartbeat.MEASURED}
        heartbeat.write(workdir, step=step, **measured)

    heartbeat.write(workdir, step=start)
    try:
        yield beat
    finally:
        with contextlib.suppress(OutputError):  # what ended the run is what there is to say
            heartbeat.write(workdir, step=step, running=False, **measured)
