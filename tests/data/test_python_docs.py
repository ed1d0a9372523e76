"""The corpora of the running Python, built from a small library in a temporary folder."""

import sysconfig

import numpy as np
import pytest

from tokjax.core.errors import SourceError
from tokjax.data import load_source, python_docs


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A standard library of a few files, under a parent that is called 'test' on purpose."""
    module = b'"""Module b."""\nclass C:\n    """  Class.\n\n    More."""\n    async def f(): "\\d method"\n'
    files = {
        "test/lib/b.py": module,
        "test/lib/a/__init__.py": b"",
        "test/lib/a/x.py": b'"""Module b."""\nx = 1\n',
        "test/lib/a/tests/t.py": b'"""A test."""\n',
        "test/lib/site-packages/s.py": b'"""Installed."""\n',
        "test/lib/test.py": b"y = 2\n",
    }
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path / "test/lib")})
    monkeypatch.setattr(python_docs, "_topics", lambda: ["Topic."])
    monkeypatch.setenv("TOKJAX_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_stdlib_is_every_file_but_tests_and_packages(library):
    assert list(load_source("stdlib")) == [b"", b'"""Module b."""\nx = 1\n', *_contents(library, "b.py", "test.py")]


def _contents(library, *names):
    return [(library / "test/lib" / name).read_bytes() for name in names]


def test_pydocs_is_topics_and_distinct_docstrings(library):
    source = load_source("pydocs")
    assert list(source) == [b"Topic.", b"Module b.", b"Class.\n\nMore.", b"\\d method"]
    assert source.duplicates == 1


def test_cache_is_used_and_follows_the_library(library, monkeypatch):
    first = load_source("pydocs")
    with monkeypatch.context() as patch:
        patch.setattr(python_docs, "_docstrings", lambda files: pytest.fail("parsed again"))
        cached = load_source("pydocs")
    assert list(cached) == list(first)
    assert (cached.fingerprint, cached.duplicates) == (first.fingerprint, first.duplicates)
    (library / "test/lib/new.py").write_bytes(b'"""New."""')
    assert b"New." in list(load_source("pydocs"))
    assert not list((library / "cache").glob("*.tmp"))


@pytest.mark.parametrize("damage", [b"", b"not a zip", None])
def test_damaged_cache_is_built_again(library, damage):
    expected = list(load_source("pydocs"))
    (cache,) = (library / "cache").iterdir()
    content = bytearray(cache.read_bytes())
    content[len(content) // 4] ^= 0xFF
    cache.write_bytes(bytes(content) if damage is None else damage)
    assert list(load_source("pydocs")) == expected
    with np.load(cache) as arrays:
        assert arrays["ends"][-1] == len(arrays["content"])


def test_cache_that_cannot_be_written_is_no_error(library, monkeypatch):
    (library / "a file").write_bytes(b"")
    monkeypatch.setenv("TOKJAX_CACHE", str(library / "a file" / "below"))
    assert len(load_source("pydocs")) == 4


@pytest.mark.parametrize("name", ["pydocs", "stdlib"])
def test_python_without_sources_is_an_error(tmp_path, monkeypatch, name):
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path / "python311.zip")})
    with pytest.raises(SourceError, match=r"has no \.py files"):
        load_source(name)


@pytest.mark.parametrize("name", ["pydocs", "stdlib"])
def test_argument_is_an_error(name):
    with pytest.raises(SourceError, match="takes no argument"):
        load_source(f"{name}:3.11")


def test_broken_library_file_is_an_error(library):
    (library / "test/lib/bad.py").write_bytes(b"def")
    with pytest.raises(SourceError, match=r"bad\.py: not valid Python"):
        load_source("pydocs")
