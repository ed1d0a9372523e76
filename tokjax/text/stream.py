"""Encoding and decoding files of any length in bounded memory.

On the wire, ids are little-endian uint16 where the vocabulary has at most 65,536 ids, else uint32; or, as text, one
decimal number per line. There is no header, unless the tokenizer runs a neural network: then a first line, `#` and
JSON, says by which tables, versions and kind of device the ids were made, for only those decode them.
"""

import collections
import json
import os
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO

import numpy as np

from tokjax.coding.saved import check_signature
from tokjax.core.errors import TokenizerError
from tokjax.text.fitted import Fitted

BLOCK = 1 << 22  # bytes read at a time
WORKERS = min(4, os.cpu_count() or 1)  # blocks encoded at once
LONGEST_HEADER = 1 << 16  # bytes
LONGEST_LINE = 20  # digits and newline that one id can take as text

_HEADER = re.compile(rb'#\{"[^\n]{,4096}"tokenizer": "[0-9a-f]{16}"[^\n]*\}\n')
_LINES = re.compile(rb"(?:[0-9]{1,10}+\n)*+")


def wire_dtype(size: int) -> np.dtype:
    """The integer type of ids on the wire for a vocabulary of `size` ids."""
    return np.dtype("<u2" if size <= 1 << 16 else "<u4")


def encode_stream(
    fitted: Fitted, reader: BinaryIO, writer: BinaryIO, *, text: bool = False, block: int = BLOCK
) -> tuple[int, int]:
    """Encodes everything `reader` gives to `writer`, with the ids that encoding the whole at once gives.

    Memory is a few times `block`, unless the tokenizer knows no safe place to cut (some imported ones): then it
    grows with the stretch that has none.

    Args:
      fitted: the tokenizer.
      reader: raw bytes, read to the end.
      writer: receives the ids.
      text: writes decimal lines rather than binary.
      block: bytes to read at a time.

    Returns:
      (bytes read, ids written).
    """
    total = count = 0
    pending: collections.deque[Future[np.ndarray]] = collections.deque()

    def write_oldest() -> int:
        ids = pending.popleft().result()
        write_ids(ids, writer, fitted.size, text=text)
        return len(ids)

    writer.write(_header(fitted))
    workers = 1 if fitted.signature else WORKERS  # a neural engine is large and uses every core by itself
    with ThreadPoolExecutor(workers) as pool:  # engines that release the interpreter lock run side by side
        for chunk in _safe_chunks(fitted, reader, block):
            total += len(chunk)
            pending.append(pool.submit(fitted.encode, chunk))
            if len(pending) > workers:
                count += write_oldest()
        while pending:
            count += write_oldest()
    return total, count


def decode_stream(
    fitted: Fitted, reader: BinaryIO, writer: BinaryIO, *, text: bool = False, block: int = BLOCK
) -> tuple[int, int]:
    """Decodes the ids that `reader` gives, in the form `encode_stream` wrote, to `writer`.

    Args:
      fitted: the tokenizer that encoded them.
      reader: ids, read to the end.
      writer: receives raw bytes.
      text: reads decimal lines rather than binary.
      block: bytes to read at a time.

    Returns:
      (ids read, bytes written).

    Raises:
      TokenizerError: input that is cut short, is not ids, or holds ids outside the vocabulary; or a header that is
        missing or names another program.
    """
    count = total = 0
    if fitted.signature:
        _check_header(fitted, reader)
    for ids in _safe_ids(fitted, read_ids(reader, fitted.size, text=text, block=block)):
        raw = fitted.decode(ids)
        writer.write(raw)
        count, total = count + len(ids), total + len(raw)
    return count, total


def write_ids(ids: np.ndarray, writer: BinaryIO, size: int, *, text: bool = False) -> None:
    """Writes `ids` of a vocabulary of `size` ids as they are on the wire, or as decimal lines."""
    writer.write(_to_lines(ids) if text else ids.astype(wire_dtype(size)).tobytes())


def read_ids(reader: BinaryIO, size: int, *, text: bool = False, block: int = BLOCK) -> Iterator[np.ndarray]:
    """Yields the ids that `write_ids` wrote, `block` bytes at a time.

    Raises:
      TokenizerError: input that is cut short, or is not ids.
    """
    return _read_lines(reader, block) if text else _read_binary(reader, wire_dtype(size), block)


def _header(fitted: Fitted) -> bytes:
    if not fitted.signature:
        return b""
    return b"#" + json.dumps({"tokenizer": fitted.hash, **fitted.signature}, sort_keys=True).encode() + b"\n"


def _check_header(fitted: Fitted, reader: BinaryIO) -> None:
    line = bytearray()
    while len(line) < LONGEST_HEADER and (byte := reader.read(1)) and byte != b"\n":
        line += byte
    try:
        found = dict(json.loads(line.removeprefix(b"#"))) if line.startswith(b'#{"') else {}
        if "tokenizer" not in found:
            raise ValueError(line[:40])
    except (ValueError, RecursionError) as error:
        raise TokenizerError(
            "The ids do not begin with the header of a neural tokenizer: `tokjax encode` writes it. Were they cut off, "
            "or written by another tokenizer?"
        ) from error
    check_signature(found, {"tokenizer": fitted.hash, **json.loads(json.dumps(fitted.signature))})


def _safe_ids(fitted: Fitted, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Cuts the ids where the tokenizer can decode what comes before."""
    carry = np.zeros(0, np.int64)
    for block in blocks:
        ids = np.concatenate([carry, block])
        safe = fitted.safe_ids(ids)
        yield ids[:safe]
        carry = ids[safe:]
    if len(carry):
        yield carry


def _safe_chunks(fitted: Fitted, reader: BinaryIO, block: int) -> Iterator[bytes]:
    """Cuts the stream at places the tokenizer calls safe."""
    carry, want = b"", block
    while data := reader.read(want):
        carry += data
        cut = fitted.safe_cut(carry)
        if cut:
            yield carry[:cut]
            carry = carry[cut:]
        want = max(block, len(carry))  # doubling what is held keeps the search for a cut linear in the stream
    if carry:
        yield carry


def _to_lines(ids: np.ndarray) -> bytes:
    return b"".join(b"%d\n" % token for token in ids.tolist())


def _read_binary(reader: BinaryIO, dtype: np.dtype, block: int) -> Iterator[np.ndarray]:
    carry, first = b"", True
    while data := reader.read(block):
        carry += data
        if first and _HEADER.match(carry):
            raise TokenizerError("The ids begin with the header of a neural tokenizer, and this is not one.")
        first = False
        whole = len(carry) - len(carry) % dtype.itemsize
        yield np.frombuffer(carry[:whole], dtype)
        carry = carry[whole:]
    if carry:
        raise TokenizerError(
            f"The ids end in the middle of a {dtype.itemsize}-byte number: the file was cut short, or was written by "
            "a tokenizer of another size."
        )


def _read_lines(reader: BinaryIO, block: int) -> Iterator[np.ndarray]:
    carry, line = b"", 1
    while data := reader.read(block):
        carry += data
        lines, newline, rest = carry.rpartition(b"\n")
        lines += newline
        valid = _LINES.match(lines)
        if valid is None or valid.end() < len(lines) or len(rest) > LONGEST_LINE:
            bad = line + lines.count(b"\n", 0, valid.end() if valid else 0)
            raise TokenizerError(f"Line {bad} of the ids is not one decimal number. Is the input binary?")
        yield np.array([int(token) for token in lines.split()], np.int64)
        line, carry = line + lines.count(b"\n"), rest
    if carry:
        raise TokenizerError(f"Line {line} of the ids has no newline at its end: the file was cut short.")
