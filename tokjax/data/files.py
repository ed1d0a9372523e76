"""Local files as sources: whole files, paragraphs, and JSON lines; gzip and Zstandard are decompressed."""

import functools
import gzip
import io
import itertools
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from tokjax.core.errors import SourceError, nearest
from tokjax.core.registry import sources
from tokjax.data.address import matching_files, split_options
from tokjax.data.documents import Documents, open_documents

Span = tuple[int, int]  # first byte and the byte after the last, in the decompressed file
_WHOLE_FILE: Span = (0, -1)


@sources.register("file")
def file(rest: str) -> Documents:
    """Local files, one document each, or one per paragraph: file:GLOB[?records=paragraphs].

    Paragraphs are runs of lines between blank lines; the blank lines themselves belong to no document.

    Raises:
      SourceError: a path, archive or option that cannot be used, or nothing to read.
    """
    pattern, options = split_options("file", rest, records="files")
    if options["records"] not in ("files", "paragraphs"):
        raise SourceError(f"file:{rest}: records={options['records']}; expected 'files' or 'paragraphs'.")
    paths = matching_files("file", pattern)
    if options["records"] == "paragraphs":
        records = FileRecords(paths, [_listed(_paragraphs(path)) for path in paths])
        return open_documents(f"file:{rest}", records, advice="Add files")
    records = FileRecords(paths, [[_WHOLE_FILE] for _ in paths])
    advice = f"Add files, or make every paragraph a document with 'file:{pattern}?records=paragraphs'"
    return open_documents(f"file:{rest}", records, advice=advice)


@sources.register("jsonl")
def jsonl(rest: str) -> Documents:
    """Local JSON lines, one document per line, its text in one field: jsonl:GLOB[?field=text].

    Raises:
      SourceError: a path or archive that cannot be used, a line that is no JSON object with that text field.
    """
    pattern, options = split_options("jsonl", rest, field="text")
    field, paths = options["field"], matching_files("jsonl", pattern)
    spans = [_listed(_text_lines(path, field)) for path in paths]
    records = FileRecords(paths, spans, lambda line: _text_field(line, field, where=f"jsonl:{rest}"))
    return open_documents(f"jsonl:{rest}", records, advice="Add lines")


class FileRecords:
    """Spans of files, read on access.

    Args:
      paths: the files.
      spans: the spans of the records in each file.
      convert: from the bytes of a span to the record.
    """

    def __init__(
        self, paths: list[Path], spans: Sequence[Sequence[Span] | np.ndarray], convert: Callable[[bytes], bytes] = bytes
    ):
        self._paths = paths
        self._files = np.repeat(np.arange(len(paths), dtype=np.int32), [len(of_file) for of_file in spans])
        self._spans = np.concatenate([np.asarray(of_file, np.int64).reshape(-1, 2) for of_file in spans])
        self._convert = convert
        # Neighbouring spans of an archive are usually read one after the other: decompress it once for them all.
        self._read_archive = functools.lru_cache(maxsize=1)(read_file)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> bytes:
        path, (start, stop) = self._paths[self._files[index]], self._spans[index].tolist()
        if (start, stop) == _WHOLE_FILE:
            return self._convert(read_file(path))
        if path.suffix.lower() in _DECOMPRESS:
            return self._convert(self._read_archive(path)[start:stop])
        return self._convert(_read_range(path, start, stop))


def read_file(path: Path) -> bytes:
    """Returns the content of a file, decompressed if its name ends in .gz or .zst.

    Raises:
      SourceError: it cannot be read, or is no complete archive.
    """
    content = _read_range(path, 0, None)
    decompress = _DECOMPRESS.get(path.suffix.lower())
    return decompress(path, content) if decompress else content


def _read_range(path: Path, start: int, stop: int | None) -> bytes:
    try:
        with path.open("rb") as opened:
            opened.seek(start)
            return opened.read(-1 if stop is None else stop - start)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> SourceError:
    return SourceError(f"{path}: cannot be read: {error.strerror}. Check that it exists and its rights.")


def _gunzip(path: Path, content: bytes) -> bytes:
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise SourceError(f"{path}: not a complete gzip file ({error}). Fetch it again, or rename it.") from error


def _unzstd(path: Path, content: bytes) -> bytes:
    try:
        import zstandard
    except ImportError as error:
        raise SourceError(f'{path}: reading .zst needs zstandard. Run: pip install "tokjax[data]".') from error
    parts = []
    try:
        while content:  # one frame at a time: only a single frame reports whether it is complete
            frame = zstandard.ZstdDecompressor().decompressobj()
            parts.append(frame.decompress(content))
            if not frame.eof:
                raise zstandard.ZstdError("ends early")
            content = frame.unused_data
    except zstandard.ZstdError as error:
        raise SourceError(f"{path}: not a complete Zstandard file ({error}). Fetch it again, or rename it.") from error
    return b"".join(parts)


_DECOMPRESS: dict[str, Callable[[Path, bytes], bytes]] = {".gz": _gunzip, ".zst": _unzstd}


def _listed(spans: Iterator[Span]) -> np.ndarray:
    """Returns the spans as int64 [N, 2], an eighth of what a list of them takes."""
    return np.fromiter(itertools.chain.from_iterable(spans), np.int64).reshape(-1, 2)


def _lines(path: Path) -> Iterator[tuple[int, Span, bytes]]:
    """Yields the number, from 1, span and content of each line that is not blank; only archives are read whole."""
    start = 0
    for number, line in enumerate(_raw_lines(path), start=1):
        if line.strip():
            content = line.removesuffix(b"\n").rstrip(b"\r")
            yield number, (start, start + len(content)), content
        start += len(line)


def _raw_lines(path: Path) -> Iterator[bytes]:
    if path.suffix.lower() in _DECOMPRESS:
        yield from io.BytesIO(read_file(path))
        return
    try:
        with path.open("rb") as opened:
            yield from opened
    except OSError as error:
        raise _unreadable(path, error) from error


def _paragraphs(path: Path) -> Iterator[Span]:
    """Yields the span of each run of lines that are not blank."""
    lines = _lines(path)
    number, (start, stop), _ = next(lines, (0, (0, 0), b""))
    for next_number, span, _ in lines:
        if next_number > number + 1:
            yield start, stop
            start = span[0]
        number, stop = next_number, span[1]
    if stop:
        yield start, stop


def _text_lines(path: Path, field: str) -> Iterator[Span]:
    """Yields the spans of the lines of a JSON lines file, after checking that each holds the text field."""
    for number, span, line in _lines(path):
        _text_field(line, field, where=f"{path}, line {number}")
        yield span


def _text_field(line: bytes, field: str, *, where: str) -> bytes:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise SourceError(f"{where}: not valid JSON ({error}).") from error
    if not isinstance(value, dict):
        raise SourceError(f"{where}: expected an object such as {{{json.dumps(field)}: ...}}, got {line[:40]!r}.")
    if field not in value:
        raise SourceError(f"{where}: no field {field!r}.{nearest(field, value)} Choose one with '?field='.")
    if not isinstance(value[field], str):
        raise SourceError(f"{where}: field {field!r} holds {type(value[field]).__name__}, expected text.")
    return value[field].encode("utf-8", "surrogatepass")  # JSON may escape lone surrogates
