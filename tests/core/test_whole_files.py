"""Files are whole or absent, damage is named, and a directory has one user."""

import errno
import os
import subprocess
import sys

import pytest

from tokjax.core.errors import CheckpointError, OutputError
from tokjax.core.files import only_user, read_json, write_bytes, write_text


def test_a_written_file_is_read_back(tmp_path):
    write_text(tmp_path / "new" / "a.json", '{"a": 1}')
    assert read_json(tmp_path / "new" / "a.json", needs=("a",)) == {"a": 1}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_a_write_that_fails_keeps_the_old_file_and_nothing_else(tmp_path, monkeypatch, error):
    path = tmp_path / "a"
    write_bytes(path, b"old")

    def fail(descriptor):
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises((KeyboardInterrupt, OutputError)):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"{bad", b"\xff\x00", b"[1]", b"7", b"null", b"{}"])
def test_damaged_json_is_named(tmp_path, content):
    path = tmp_path / "row.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"row\.json: damaged .*Delete it"):
        read_json(path, needs=("seed",))


def test_a_directory_has_one_user_at_a_time(tmp_path):
    with only_user(tmp_path), pytest.raises(OutputError, match="another process"), only_user(tmp_path):
        pass
    with only_user(tmp_path):
        pass


def test_a_killed_user_lets_go(tmp_path):
    code = f"""
import os, signal, pathlib
from tokjax.core.files import only_user
with only_user(pathlib.Path({str(tmp_path)!r})):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    with only_user(tmp_path):
        pass


def test_a_place_below_a_file_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Not a directory"), only_user(tmp_path / "file" / "below"):
        pass
