"""A process of a run that hangs: the others wait for it for a time, say who is behind, and end."""

import contextlib
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax

from tokjax.core.errors import PeerError
from tokjax.train import heartbeat
from tokjax.train.heartbeat import Heartbeat

_READS_S = 10.0  # for a few small files
_LOOKS = 20  # at the clock, within the time there is


@contextlib.contextmanager
def watchdog(workdir: Path, timeout_s: float) -> Iterator[Callable[[], None]]:
    """Ends this process within a block when it has got nowhere for `timeout_s`; a run of one process waits for no one.

    What a process waits in, a collective or a file system, cannot be interrupted, so the program ends where it stands:
    with a message on standard error and the exit code of `PeerError`. Checkpoints are whole, and a rerun goes on.

    Args:
      workdir: directory of the run, where processes say how far they are.
      timeout_s: longer than a step, an evaluation, a save or a compilation takes.

    Yields:
      The function () -> None to call after every step, evaluation and save.
    """
    if jax.process_count() == 1:
        yield lambda: None
        return
    last, over = [time.monotonic()], threading.Event()

    def advance() -> None:
        last[0] = time.monotonic()

    def look() -> None:
        while not over.wait(timeout_s / _LOOKS):
            if time.monotonic() - last[0] > timeout_s:
                said = _read(workdir)
                here = (jax.process_index(), jax.process_count(), _stands_at())
                message = hung(said, *here, timeout_s, now=time.time())
                print(f"tokjax: error: {message}", file=sys.stderr, flush=True)
                os._exit(PeerError.exit_code)

    threading.Thread(target=look, name="watchdog", daemon=True).start()
    try:
        yield advance
    finally:
        over.set()


def _read(workdir: Path) -> list[Heartbeat]:
    """Returns the heartbeats, or none where the disk that they are on is what hangs."""
    found: list[Heartbeat] = []
    reader = threading.Thread(target=lambda: found.extend(heartbeat.read(workdir)), daemon=True)
    reader.start()
    reader.join(_READS_S)
    return found


def _stands_at() -> str:
    """Says which line of Python the training loop is at, or waits in."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    place = traceback.extract_stack(frame)[-1]
    return f"{place.name} ({Path(place.filename).name}, line {place.lineno})"


def hung(
    said: Sequence[Heartbeat], process: int, processes: int, stands_at: str, timeout_s: float, *, now: float
) -> str:
    """Returns what to say of a run that got nowhere.

    Args:
      said: what each process last said.
      process: which one speaks.
      processes: how many there are.
      stands_at: where in the program it is.
      timeout_s: how long it waited.
      now: seconds since 1970.
    """
    others = sorted((beat for beat in said if beat.index != process), key=lambda beat: (beat.step, beat.time))
    silent = sorted(set(range(processes)) - {beat.index for beat in said} - {process})
    behind = [f"process {index} has said nothing" for index in silent]
    behind += [
        f"process {beat.index} on {beat.host} (pid {beat.pid}) was at step {beat.step} {now - beat.time:.0f} s ago"
        for beat in others
    ]
    return (
        f"process {process} of {processes} got no further for {timeout_s:g} s (train.peer_timeout_s): it stands at "
        f"{stands_at}. Of the others, furthest behind first: {'; '.join(behind[:4])}. Where this one only waits, look "
        "at what they printed. The same command goes on from the last checkpoint; where an evaluation or a save takes "
        "longer, raise train.peer_timeout_s."
    )
