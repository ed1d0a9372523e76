"""What surrounds the steps on the host: signals, batches made ahead, agreement between processes."""

import contextlib
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import numpy as np

from tokjax.core.files import only_user
from tokjax.sharding import on_first
from tokjax.train.speed import Feed

STOP_REASONS = (None, "time_limit", "SIGINT", "SIGTERM")


class StopSignals:
    """Which signal has asked the run to stop, if any."""

    reason: str | None = None


@contextlib.contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Notes the first SIGTERM or SIGINT within a block instead of dying of it; the second one acts as before.

    Does nothing outside the main thread, where Python allows no handlers.
    """
    noted = StopSignals()
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        noted.reason = signal.Signals(number).name
        restore()

    for number in previous:
        signal.signal(number, note)
    try:
        yield noted
    finally:
        restore()


@contextlib.contextmanager
def prefetch(
    batch: Callable[[int], Any], start: int, stop: int, *, ahead: int = 2, feed: Feed | None = None
) -> Iterator[Iterator[Any]]:
    """Computes batch(start), batch(start + 1), ... in order on another thread, `ahead` of where they are read.

    An exception in `batch` is raised where its batch is read. `feed` measures how long is waited there.
    """
    feed = Feed() if feed is None else feed
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as executor:

        def read() -> Iterator[Any]:
            queue: deque[Future[Any]] = deque(executor.submit(batch, n) for n in range(start, min(start + ahead, stop)))
            for n in range(start + ahead, stop + ahead):
                if n < stop:
                    queue.append(executor.submit(batch, n))
                if not queue:
                    return
                yield feed.take(queue.popleft().result)

        try:
            yield read()
        finally:
            executor.shutdown(wait=False, cancel_futures=True)


@contextlib.contextmanager
def only_run(workdir: Path) -> Iterator[None]:
    """Keeps other runs out of `workdir` within a block; the processes of one run count as one.

    Raises:
      OutputError: another run is in it, or it cannot be written.
    """
    with contextlib.ExitStack() as stack:

        def enter() -> None:
            stack.enter_context(only_user(workdir))

        on_first(enter)
        yield


def agree(reason: str | None, step: int, every: int) -> str | None:
    """Returns why to stop, the same in every process of the run; several processes only ask each other now and then.

    Args:
      reason: one of `STOP_REASONS`, this process's own.
      step: steps made.
      every: steps between two agreements.
    """
    if jax.process_count() == 1:
        return reason
    if step % every:
        return None
    from jax.experimental import multihost_utils

    codes = multihost_utils.process_allgather(np.int32(STOP_REASONS.index(reason)))
    return STOP_REASONS[int(codes.max())]
