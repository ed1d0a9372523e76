"""Corpora that every Python carries: the English of its documentation and the source of its standard library."""

import ast
import hashlib
import os
import sys
import sysconfig
import tempfile
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np

from tokjax.core.errors import SourceError
from tokjax.core.registry import sources
from tokjax.data.documents import Documents, open_documents

_SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
_EXTRACTION_VERSION = 1  # part of the cache's name; raise it when `_topics` or `_docstrings` change their result
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@sources.register("pydocs")
def pydocs(rest: str) -> Documents:
    """English: the reference topics and all docstrings of the running Python's standard library.

    Raises:
      SourceError: this Python has no `.py` files or no `pydoc_data`.
    """
    _require_no_argument("pydocs", rest)
    files = _stdlib_files()
    cache = _cache_file(files)
    texts = _read_texts(cache) if cache else None
    if texts is None:
        texts = [text.encode("utf-8", "surrogatepass") for text in [*_topics(), *_docstrings(files)]]
        if cache:
            _write_texts(cache, texts)
    return open_documents("pydocs", texts, advice="Use a larger source")


@sources.register("stdlib")
def stdlib(rest: str) -> Documents:
    """Python source: every file of the running Python's standard library, tests excluded.

    Raises:
      SourceError: this Python has no `.py` files.
    """
    _require_no_argument("stdlib", rest)
    return open_documents("stdlib", [_read(path) for path in _stdlib_files()], advice="Use a larger source")


def docstring_packages() -> dict[bytes, str]:
    """Returns the top-level module or package of each docstring in `pydocs`; one that stands in several has none.

    Raises:
      SourceError: this Python has no `.py` files.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    found: dict[bytes, set[str]] = {}
    for path in _stdlib_files():
        package = path.relative_to(root).parts[0].removesuffix(".py")
        for text in _docstrings([path]):
            found.setdefault(text.encode("utf-8", "surrogatepass"), set()).add(package)
    return {text: packages.pop() for text, packages in found.items() if len(packages) == 1}


def _require_no_argument(name: str, rest: str) -> None:
    if rest:
        raise SourceError(f"{name}:{rest}: this source takes no argument. Write {name!r}.")


def _stdlib_files() -> list[Path]:
    """Standard-library files by relative POSIX path, without test folders and installed packages."""
    root = Path(sysconfig.get_paths()["stdlib"])
    relative = (path.relative_to(root) for path in root.rglob("*.py"))
    kept = sorted(path.as_posix() for path in relative if not _SKIPPED_FOLDERS & set(path.parts[:-1]))
    files = [root / path for path in kept if (root / path).is_file()]
    if not files:
        raise SourceError(
            f"This Python ({sys.executable}) has no .py files under {root}: it is zipped or embedded. "
            "Use a Python installed with its library sources, or a 'file:' source."
        )
    return files


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path}: cannot read this standard-library file: {error.strerror}.") from error


def _topics() -> list[str]:
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise SourceError(
            "This Python has no 'pydoc_data' module. Use a Python installed with its full standard library."
        ) from error
    return [topics[name].strip() for name in sorted(topics)]


def _docstrings(files: list[Path]) -> list[str]:
    texts = []
    for path in files:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # old string escapes in library files are not the user's concern
                tree = ast.parse(_read(path))
        except (SyntaxError, ValueError) as error:
            raise SourceError(f"{path}: not valid Python ({error}). Repair or reinstall this Python.") from error
        texts += [(ast.get_docstring(node) or "").strip() for node in ast.walk(tree) if isinstance(node, _DOCUMENTED)]
    return [text for text in texts if text]


def _cache_file(files: list[Path]) -> Path | None:
    """Where the parsed corpus of this interpreter is kept: its name changes with the version and any library file."""
    try:
        folder = Path(os.environ.get("TOKJAX_CACHE") or Path.home() / ".cache" / "tokjax").expanduser()
    except RuntimeError:  # an account without a home directory
        return None
    key = hashlib.sha256(f"{_EXTRACTION_VERSION}\t{sys.version}".encode())
    for path in files:
        status = path.stat()
        key.update(f"\n{path}\t{status.st_size}\t{status.st_mtime_ns}".encode("utf-8", "surrogateescape"))
    return folder / f"pydocs-{key.hexdigest()[:16]}.npz"


def _read_texts(cache: Path) -> list[bytes] | None:
    """Returns the cached texts, or None when they are absent or damaged and must be built again."""
    try:
        with np.load(cache, allow_pickle=False) as arrays:
            content, ends = arrays["content"].tobytes(), arrays["ends"].tolist()
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    return [content[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _write_texts(cache: Path, texts: list[bytes]) -> None:
    """Writes the cache by rename, so that no reader meets half a file; does without if the place is read-only."""
    content, ends = np.frombuffer(b"".join(texts), np.uint8), np.cumsum([len(text) for text in texts])
    temporary = None
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cache.parent, suffix=".tmp", delete=False) as file:
            temporary = Path(file.name)
            np.savez(file, content=content, ends=ends)
        temporary.replace(cache)
    except OSError:
        if temporary:
            temporary.unlink(missing_ok=True)
