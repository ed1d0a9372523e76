"""A view of a run in the terminal, read from its files while it writes them."""

import itertools
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tokjax.core.errors import SourceError
from tokjax.core.spec import check
from tokjax.report.run_files import RunStatus, open_folder, read_run
from tokjax.report.units import duration, plural, si, significant
from tokjax.train.heartbeat import Heartbeat

_BLOCKS, _ASCII = " ▁▂▃▄▅▆▇█", " .:-=+*#@"
_PLOT_ROWS = 5
_TALL = 40  # lines of a terminal that has room for everything
_SHOWN_EVALUATIONS = 3
_SHOWN_PROCESSES = 16
# Rows of the table of numbers: key of a line, name, unit.
_NUMBERS = (
    ("loss", "loss", ""),
    ("bits_per_byte", "bits per byte", ""),
    ("learning_rate", "learning rate", ""),
    ("grad_norm", "gradient norm", ""),
    ("update_norm", "update norm", ""),
    ("step_seconds", "step time", "time"),
    ("data_wait_fraction", "data wait", "%"),
    ("rows_per_second", "rows", "/s"),
    ("targets_per_second", "targets", "/s"),
    ("mfu", "MFU", "%"),
    ("device_memory_gib", "device memory", "GiB"),
    ("host_memory_gib", "host memory", "GiB"),
)


def watch(workdir: str, *, interval: float = 2.0, once: bool = False, console: Console | None = None) -> None:
    """Shows a run until it has ended; what is no terminal gets one view.

    Args:
      workdir: its directory or fsspec address.
      interval: seconds between two looks.
      once: show it once in a terminal, too.
      console: where to show it; standard output by default.

    Raises:
      SpecError: an interval that is not positive, or an address that needs what is not installed.
      SourceError: it is to be shown once, and no run has written there or it cannot be read.
    """
    check(interval > 0, "--interval", interval, "give a positive number of seconds.")
    console, folder = console or Console(), open_folder(workdir)
    if once or not console.is_terminal:
        console.print(View(read_run(folder)))
        return
    with Live(console=console, auto_refresh=False) as live:
        while True:
            try:
                status = read_run(folder)
            except SourceError as error:  # it may yet begin, or the network come back
                live.update(Text(f"{error}\nLooking again every {interval:g} s; Ctrl-C ends this."), refresh=True)
            else:
                live.update(View(status), refresh=True)
                if status.ended:
                    return
            time.sleep(interval)


class View:
    """What rich prints of a run."""

    def __init__(self, status: RunStatus):
        self._status = status

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        status, width = self._status, min(options.max_width, 100)
        levels = _BLOCKS if options.encoding.startswith("utf") else _ASCII
        yield _heading(status)
        yield _progress(status, width)
        yield _outcomes(status)
        if status.lines:
            if not console.is_terminal or console.height >= _TALL:  # the rest says more on fewer lines
                yield Text()
                yield _loss_plot(status.lines, width, levels)
            yield Text()
            yield _numbers(status.lines, width, levels)
        if status.processes:
            yield Text()
            yield _processes(status)
        if status.lines:
            yield from _gradient_norms(status.lines[-1].get("gradient_norms", {}), levels)


def bars(values: Sequence[float], width: int, rows: int = 1, levels: str = _BLOCKS) -> list[str]:
    """Draws values as columns, the least of them lowest and the largest as high as there is room.

    Args:
      values: numbers in order; neighbours are averaged where there are more than `width`.
      width: characters of a line at most.
      rows: lines.
      levels: characters from empty to full.

    Returns:
      The lines, the upper one first.
    """
    count = min(width, len(values))
    edges = [round(i * len(values) / count) for i in range(count + 1)] if count else [0]
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    low, high = min(means, default=0.0), max(means, default=0.0)
    full = len(levels) - 1
    heights = [1 + round((rows * full - 1) * ((mean - low) / (high - low) if high > low else 0.0)) for mean in means]
    lines = []
    for row in reversed(range(rows)):
        lines.append("".join(levels[min(max(height - row * full, 0), full)] for height in heights))
    return lines


def _heading(status: RunStatus) -> Group:
    about, config = status.description, status.description.get("config", {})
    words = [
        config.get("system", {}).get("name"),
        config.get("tokenizer", {}).get("name"),
        config.get("source"),
        f"{about['devices']} x {about['device_kind']}" if "devices" in about else None,
        f"started {duration(status.now - about['started'])} ago" if "started" in about else None,
    ]
    described = Text(", ".join(word for word in words if word), style="dim", overflow="fold")
    return Group(Text(status.workdir, style="bold", overflow="fold"), *([described] if described else []))


def _progress(status: RunStatus, width: int) -> Group:
    silent = sum(status.is_silent(beat) for beat in status.processes)
    left = status.seconds_left
    if status.ended:
        text, style = "done" if status.step == status.steps else "stopped", "green"
    elif silent:
        text, style = f"{silent} of {len(status.processes)} processes silent", "red"
    elif not status.lines:
        text, style = "starting", ""
    else:
        text, style = f"{duration(left)} left" if left is not None else "running", ""
    line = Text(f"step {status.step:,}" + (f" of {status.steps:,}" if status.steps else ""))
    line.append(f"  {text}", style=style)
    if not status.steps:
        return Group(line)
    bar = Table.grid()  # which ends its line; a bar alone does not
    bar.add_row(ProgressBar(total=status.steps, completed=status.step, width=width))
    return Group(line, bar)


def _loss_plot(lines: Sequence[dict[str, Any]], width: int, levels: str) -> Text:
    shown = _present(lines, "loss")
    if not shown:
        return Text("no loss yet")
    steps = f"steps {lines[0]['step']:,} to {lines[-1]['step']:,}"
    title = f"loss, {steps}: {min(shown):.4g} to {max(shown):.4g}"
    wide = [value for value in shown for _ in range(max(1, width // len(shown)))]
    return Text("\n".join([title, *bars(wide, width, _PLOT_ROWS, levels)]), no_wrap=True)


def _numbers(lines: Sequence[dict[str, Any]], width: int, levels: str) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_column(no_wrap=True)
    for key, name, unit in _NUMBERS:
        if history := _present(lines, key):  # MFU, for one, is not known of every device
            drawn = bars(history, min(40, width - 36), levels=levels)[0]
            table.add_row(name, _with_unit(lines[-1].get(key), unit), Text(drawn, style="cyan"))
    return table


def _present(lines: Iterable[dict[str, Any]], key: str) -> list[float]:
    return [line[key] for line in lines if line.get(key) is not None]


def _with_unit(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    if unit == "time":
        return f"{significant(1000 * value)} ms" if value < 1 else duration(value)
    if unit == "%":
        return f"{100 * value:.1f} %"
    if unit == "/s":
        return si(value) + " /s"
    if unit:
        return f"{value:.2f} {unit}"
    return f"{value:.4g}"


def _gradient_norms(norms: dict[str, float], levels: str) -> Iterator[RenderableType]:
    """One row a group of blocks: its own norm, and those of its layers as columns."""
    layers: dict[str, list[float]] = defaultdict(list)
    for name, norm in norms.items():
        group, _, layer = name.partition("/")
        if layer:
            layers[group].append(norm)
    if not norms:
        return
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_column(no_wrap=True)
    for group in dict.fromkeys(name.partition("/")[0] for name in norms):
        each = layers[group]
        text = Text(bars(each, 48, levels=levels)[0], style="cyan")
        if each:
            span = f"{each[0]:.3g}" if len(each) == 1 else f"{min(each):.3g} to {max(each):.3g}"
            text.append(f"  {plural(len(each), 'layer')}, {span}", style="default")
        table.add_row(group, f"{norms[group]:.3g}" if group in norms else "", text)
    yield Text()
    yield Text("gradient norms", style="dim")
    yield table


def _outcomes(status: RunStatus) -> Group:
    texts = []
    for line in status.evaluations[-_SHOWN_EVALUATIONS:]:
        numbers = [f"{k} {v:.4g}" for k, v in line.items() if isinstance(v, float)]
        texts.append(Text(f"step {line['step']:,}, {line.get('split', 'valid')}: " + ", ".join(numbers)))
    saved = "none yet" if status.checkpoint is None else f"step {status.checkpoint:,}"
    texts.append(Text(f"last checkpoint: {saved}"))
    count = status.lines[-1].get("loss_spikes", 0) if status.lines else 0
    if count:
        begun = [
            line["step"]
            for before, line in zip([{}, *status.lines], status.lines, strict=False)
            if line.get("loss_spikes", 0) > before.get("loss_spikes", count)
        ]
        where = f", the last at step {begun[-1]:,}" if begun else ""
        texts.append(Text(f"{plural(count, 'loss spike')}{where}", style="red"))
    return Group(*texts)


def _processes(status: RunStatus) -> Table:
    """Those that are silent or behind first, then those that wait longest for data."""

    def worst_first(beat: Heartbeat) -> tuple[bool, int, float]:
        return (not status.is_silent(beat), beat.step, -(beat.data_wait_fraction or 0.0))

    beats = sorted(status.processes, key=worst_first)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("process", "host", "step", "step time", "data wait", "memory", "last heard"):
        table.add_column(heading, justify="left" if heading == "host" else "right")
    for beat in beats[:_SHOWN_PROCESSES]:
        memory = beat.host_memory_gib if beat.device_memory_gib is None else beat.device_memory_gib
        age = f"{duration(max(0.0, status.now - beat.time))} ago"
        heard = f"silent, {age}" if status.is_silent(beat) else age if beat.running else f"left {age}"
        table.add_row(
            str(beat.index), beat.host, f"{beat.step:,}", _with_unit(beat.step_seconds, "time"),
            _with_unit(beat.data_wait_fraction, "%"), _with_unit(memory, "GiB"), heard,
            style="red" if status.is_silent(beat) else None,
        )  # fmt: skip
    if len(beats) > _SHOWN_PROCESSES:
        table.caption = f"and {len(beats) - _SHOWN_PROCESSES} more"
    return table
