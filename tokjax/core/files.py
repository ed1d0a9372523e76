"""Files that are whole or absent: written under a temporary name in the same directory, then renamed."""

import contextlib
import os
import tempfile
from pathlib import Path

from tokjax.core.errors import OutputError


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
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise OutputError(
            f"Cannot write {path}: {error.strerror or error}. Free space or choose another place."
        ) from error


def write_text(path: Path, text: str) -> None:
    """Writes `text` to `path` as UTF-8; as `write_bytes`."""
    write_bytes(path, text.encode())
