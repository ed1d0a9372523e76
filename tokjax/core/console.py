"""What a command-line process shares with its terminal, pipes and signals."""

import contextlib
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from tokjax.core.errors import OutputError, SourceError

INTERRUPTED = 130  # what shells report for a program ended by Ctrl-C
TERMINATED = 143  # and by SIGTERM: to a scheduler, a run that saved and stopped half-way is not one that is done


@contextlib.contextmanager
def exit_on_interrupt() -> Iterator[None]:
    """Ends the process at once on Ctrl-C: libraries that are being loaded crash on the exception, or swallow it."""

    def leave(*_: Any) -> None:
        os.write(sys.stderr.fileno(), b"tokjax: interrupted\n")
        os._exit(INTERRUPTED)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def drop_output() -> None:
    """Gives up what standard output has not taken, so that the interpreter does not try again at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """One line on standard error, without the place in the code."""
    del category
    print(f"tokjax: warning: {message}", file=sys.stderr)


@contextlib.contextmanager
def reading(path: str | None) -> Iterator[BinaryIO]:
    """Standard input, or a file.

    Raises:
      SourceError: the file cannot be read.
    """
    if path is None:
        yield sys.stdin.buffer
        return
    try:
        file = open(path, "rb")  # noqa: SIM115  (closed below)
    except OSError as error:
        raise SourceError(f"Cannot read {path}: {error.strerror}.") from error
    with file:
        yield file


@contextlib.contextmanager
def writing(path: str | None) -> Iterator[BinaryIO]:
    """Standard output, or a file that appears under its name only when whole.

    Raises:
      OutputError: the place is full, read-only or no file.
    """
    name, temporary = path or "standard output", None
    try:
        if path is None:
            with open(sys.stdout.fileno(), "wb", closefd=False) as file:  # whole writes, under PYTHONUNBUFFERED too
                yield file
            return
        target = Path(path)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with os.fdopen(handle, "wb") as file:
            yield file
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
        temporary = None
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"Cannot write {name}: {error.strerror}.") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
