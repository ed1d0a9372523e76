"""File systems that tests mount, where that is permitted."""

import contextlib
import subprocess

import pytest


@contextlib.contextmanager
def tmpfs(path, option):
    """A file system in memory at `path` until the context ends; the test is skipped where it cannot be mounted."""
    path.mkdir()
    try:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", option, "tmpfs", str(path)], capture_output=True, text=True
        )
    except FileNotFoundError:
        pytest.skip("this machine has no mount")
    if done.returncode:
        pytest.skip(f"mounting is not permitted: {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)
