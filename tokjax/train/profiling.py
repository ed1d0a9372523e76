"""Traces of a few steps for TensorBoard or Perfetto: those that a run was told of, and the next ones on a signal."""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

ON_SIGNAL = 5  # steps that a signal traces


@contextlib.contextmanager
def profiler(directory: Path, steps: tuple[int, int] | None) -> Iterator[Callable[[int, Any], None]]:
    """Traces the steps from the first to the last of `steps`, and at each SIGUSR1 the next `ON_SIGNAL`.

    A trace lies in `directory`/step-N, where N is its first step; the traces of several processes each in a folder of
    its own there. Standard error gets a line that says where. A signal during a trace asks for no other.

    Outside the main thread, where Python allows no handlers, and where the system has no SIGUSR1, `steps` alone count.

    Yields:
      The function (step about to run, arrays to wait for) -> None to call before every step.
    """
    asked, reached = False, 0
    folder, first, last = directory, 0, 0  # of the trace being taken; `last` is 0 while there is none

    def ask(*_: Any) -> None:
        nonlocal asked
        asked = True

    def begin(step: int, until: int) -> None:
        nonlocal folder, first, last
        own = f"process-{jax.process_index()}" if jax.process_count() > 1 else ""
        folder, first, last = directory / f"step-{step}" / own, step, until
        jax.profiler.start_trace(str(folder))

    def end(made: int) -> None:
        nonlocal last
        last = 0
        try:
            jax.profiler.stop_trace()
            outcome = f"in {folder}"
        except (OSError, RuntimeError) as error:  # a full disk, say, ends the trace and not the run
            outcome = f"is lost: {error}"
        print(f"tokjax: trace of steps {first} to {made} {outcome}", file=sys.stderr, flush=True)

    def before(step: int, arrays: Any) -> None:
        nonlocal asked, reached
        told = steps if steps is not None and step == steps[0] else None
        if last and (told or step > last):
            jax.block_until_ready(arrays)
            end(reached)
            asked = False
        reached = step
        if told:
            begin(*told)
        elif asked and not last:
            asked = False
            begin(step, step + ON_SIGNAL - 1)

    with _handling(ask):
        try:
            yield before
        finally:
            if last:
                end(reached)


@contextlib.contextmanager
def _handling(ask: Callable[..., None]) -> Iterator[None]:
    """Calls `ask` at SIGUSR1 within a block."""
    if not hasattr(signal, "SIGUSR1") or threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGUSR1, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, previous)
