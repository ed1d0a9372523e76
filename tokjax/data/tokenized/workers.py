"""Tasks in processes of this machine, any of which may be killed at any time."""

import collections
import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from tokjax.core.errors import TokjaxError

ATTEMPTS = 3  # processes that may end at one task before it is given up

Task = Callable[[int], None]


def run_in_workers(
    task: Task, numbers: Iterable[int], *, workers: int, done: Callable[[int], None] = lambda number: None
) -> None:
    """Calls `task(number)` for every number in worker processes, and again where a process ended before it was done.

    A task may so be begun more than once: it must leave nothing behind before its end, and the same each time.
    Processes are spawned, for JAX does not survive a fork, and end with this one, however it ends.

    Args:
      task: a function that can be sent to another process.
      numbers: its arguments, begun in this order.
      workers: number of processes.
      done: called here after each.

    Raises:
      TokjaxError: what the task raised, or that process after process ended at it.
    """
    waiting = collections.deque(numbers)
    attempts: collections.Counter[int] = collections.Counter()
    idle: list[Connection] = []
    running: dict[Connection, int] = {}
    processes: dict[Connection, SpawnProcess] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                connection = idle.pop() if idle else _start(task, processes)
                running[connection] = waiting.popleft()
                with contextlib.suppress(OSError):  # its process has ended, which `recv` reports
                    connection.send(running[connection])
            ready = wait(list(running))
            for connection in [each for each in running if each in ready]:
                number = running.pop(connection)
                try:
                    error = connection.recv()
                except (EOFError, OSError):
                    attempts[number] += 1
                    _check_attempts(attempts[number], number, processes.pop(connection))
                    waiting.appendleft(number)
                    continue
                if error is not None:
                    raise error
                idle.append(connection)
                done(number)
    finally:
        for process in processes.values():
            process.kill()
        for process in processes.values():
            process.join()


def _start(task: Task, processes: dict[Connection, SpawnProcess]) -> Connection:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(task, theirs), daemon=True)
    with _without_interrupts():
        process.start()
        processes[ours] = process
    theirs.close()  # so that its end of the pipe closes with it
    return ours


def _check_attempts(attempts: int, number: int, process: SpawnProcess) -> None:
    process.join()
    if attempts == ATTEMPTS:
        code = process.exitcode or 0
        reason = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        raise TokjaxError(
            f"{ATTEMPTS} processes ended at shard {number}; the last {reason}. Signal 9 often means too little memory: "
            "use fewer --workers. The same command goes on from the finished shards."
        )


def _serve(task: Task, connection: Connection) -> None:
    """Runs in a worker: a number comes in, the error that it caused or None goes out."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            number = connection.recv()
        except (EOFError, ConnectionError):  # reset, where the parent was killed with an answer unread
            return
        error = None
        try:
            task(number)
        except TokjaxError as raised:
            error = raised
        with contextlib.suppress(ConnectionError):  # the next question does not come then
            connection.send(error)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Keeps Ctrl-C from a process that is started meanwhile, and from this one until the end of the block.

    A terminal sends it to every process; only the first shall act on it.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # the first process would start it, which lets interrupts through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
