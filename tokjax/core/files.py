"""Files that are whole or absent, written under a temporary name and then renamed; directories with one user."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tokjax.core.errors import CheckpointError, OutputError


def write_bytes(path: Path, data: bytes) -> None:
    """Writes `data` to `path`, making its directory; the old file stays until the new one is whole.

    Raises:
      OutputError: the place is full, read-only or not a directory.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise OutputError(
            f"Cannot write {path}: {error.strerror or error}. Free space or choose another place."
        ) from error
    finally:  # also after Ctrl-C
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def check_vacant(path: Path) -> None:
    """Raises OutputError if there is a file at `path`, or a directory with something in it."""
    if path.exists() and any(path.iterdir() if path.is_dir() else [1]):
        raise OutputError(f"--out {path} exists and is not empty. Choose another place.")


def write_text(path: Path, text: str) -> None:
    """Writes `text` to `path` as UTF-8; as `write_bytes`."""
    write_bytes(path, text.encode())


def read_json(path: Path, *, needs: Iterable[str] = ()) -> dict[str, Any]:
    """Returns the JSON object that an earlier command wrote to `path`.

    Raises:
      CheckpointError: it cannot be read, is no JSON object, or lacks a key that it `needs`.
    """
    try:
        value = json.loads(path.read_bytes())
        missing = sorted(set(needs) - dict(value).keys())
        problem = f"lacks {', '.join(missing)}" if missing else None
    except (OSError, ValueError, TypeError) as error:
        problem = str(error)
    if problem:
        raise CheckpointError(f"{path}: damaged ({problem}). Delete it and give the command again.")
    return value


@contextlib.contextmanager
def only_user(directory: Path) -> Iterator[None]:
    """Makes `directory` and keeps other processes out of it within a block; a process that dies lets go of it.

    Does nothing where the system or the file system knows no locks.

    Raises:
      OutputError: another process is in it, or it cannot be written.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = open(directory / ".lock", "wb")  # noqa: SIM115  (closed below, after what may go wrong here)
    except OSError as error:
        raise OutputError(f"Cannot write {directory}: {error.strerror}. Choose another place.") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(
                f"{directory}: another process is running there. Wait for it, or choose another place."
            ) from None
        except OSError:
            pass  # no locks here
        yield
