"""Cutting bytes before subwords: stream-safe segments, valid UTF-8 runs, and a regex of bounded pieces.

Three cuts, from coarse to fine. Every one is decided by bytes to its left and at most one to its right, so that a
stream cut at a segment's start gives the same ids as the whole:

1. `segments`: at most `SEGMENT` bytes, ending where the next piece always begins (after a line, as a rule).
2. `valid_runs`: maximal runs of valid UTF-8 as text, and the invalid bytes between them.
3. `piece_pattern`: words, digits, punctuation and white space, at most `PIECE` characters each, so that no engine
   sees a piece whose cost matters, whatever the input.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, get_args

import numpy as np

from tokjax.core.errors import SpecError

Digits = Literal["none", "single", "l2r", "r2l"]
DIGITS: tuple[str, ...] = get_args(Digits)
Boundary = Callable[[bytes, int, int], int]
EncodeBatch = Callable[[list[str]], Iterable[list[int]]]

SEGMENT = 1 << 16  # bytes; a longer line is cut here, between two characters
PIECE = 32  # characters in one piece
BATCH = 16  # segments given to an engine at once

_ESCAPED = re.compile("([\udc80-\udcff]+)")
_WORD_START = re.compile(rb"[A-Za-z] (?=[A-Za-z])")
_GROUP = 3

_DIGIT_PATTERNS = {
    "none": rf"\p{{N}}{{1,{PIECE}}}",
    "single": r"\p{N}",
    "l2r": r"\p{N}{1,3}",
    # Only the start of a run looks ahead: a short first group when whole threes follow it, then threes from the left.
    "r2l": r"(?<!\p{N})\p{N}{1,2}(?=(?>(?:\p{N}{3})+)(?!\p{N}))|\p{N}{1,3}",
}


def piece_pattern(digits: Digits) -> str:
    """Returns the regex whose matches are the pieces: every character is in exactly one.

    A newline run is a piece of its own, so a piece never spans a line start. The last space before a word or a
    punctuation run belongs to it.
    """
    return "|".join(
        (
            rf" ?[\p{{L}}\p{{M}}]{{1,{PIECE}}}",
            _DIGIT_PATTERNS[digits],
            rf" ?[^\s\p{{L}}\p{{M}}\p{{N}}]{{1,{PIECE}}}",
            rf"[\r\n]{{1,{PIECE}}}",
            rf"[^\S\r\n]{{1,{PIECE}}}(?!\S)",
            r"\s",
        )
    )


def group_digits(text: str, direction: Digits) -> list[str]:
    """Cuts a run of digits into groups that join to it: threes from the left or the right, single digits, or one run.

    Raises:
      SpecError: an unknown direction.

    Source: Singh and Strouse 2024, "Tokenization counts", section 3.
    """
    if direction not in DIGITS:
        raise SpecError(f"direction: got {direction!r}, expected one of {', '.join(DIGITS)}.")
    if direction == "none":
        return [text] if text else []
    width = 1 if direction == "single" else _GROUP
    first = len(text) % width if direction == "r2l" else 0
    starts = [0] if first else []
    starts.extend(range(first, len(text), width))
    return [text[start:stop] for start, stop in itertools.pairwise([*starts, len(text)])]


def line_boundary(raw: bytes, start: int, stop: int) -> int:
    """Returns the last line start in (start, stop] that `raw` itself shows to be one, or `start`.

    A line starts after a newline character that another does not follow; at the end of `raw` that is not known.
    """
    end = stop
    if end == len(raw) or raw[end] in b"\r\n":
        end = start + len(raw[start:end].rstrip(b"\r\n"))
    newline = raw.rfind(b"\n", start, end)
    return max(newline, raw.rfind(b"\r", max(newline, start), end)) + 1 or start


def word_boundary(raw: bytes, start: int, stop: int) -> int:
    """Returns the last place in (start, stop] between an ASCII letter and a space before a letter, or `start`.

    It is a boundary under the GPT-2, cl100k and o200k patterns, whose words all take one leading space.
    """
    reach = 256
    while True:  # looks back ever further, so that ordinary text costs a short search
        low = max(start, stop - reach)
        found = [match.start() + 1 for match in _WORD_START.finditer(raw, low, min(stop + 2, len(raw)))]
        if found or low == start:
            return found[-1] if found else start
        reach *= 8


def segments(raw: bytes, boundary: Boundary = line_boundary) -> Iterator[bytes]:
    """Cuts `raw` into stretches of at most `SEGMENT` bytes that are encoded on their own.

    Each ends at the last boundary within reach, or, where there is none, between two characters.
    """
    start = 0
    while len(raw) - start >= SEGMENT:
        stop = _cut(raw, start, boundary)
        yield raw[start:stop]
        start = stop
    if start < len(raw):
        yield raw[start:]


def safe_cut(raw: bytes, boundary: Boundary = line_boundary) -> int:
    """Returns the last place in `raw` where a segment may start whatever follows; 0 when there is none yet."""
    start = 0
    while len(raw) - start >= SEGMENT:
        start = _cut(raw, start, boundary)
    return boundary(raw, start, len(raw))


def _cut(raw: bytes, start: int, boundary: Boundary) -> int:
    stop = start + SEGMENT
    found = boundary(raw, start, stop)
    return found if found > start else _character_start(raw, stop)


def _character_start(raw: bytes, stop: int) -> int:
    """The start of the UTF-8 character that the bytes before `stop` leave unfinished, else `stop`."""
    for back in range(1, 4):
        lead = raw[stop - back]
        if lead >= 0xC0:
            length = 2 + (lead >= 0xE0) + (lead >= 0xF0)
            return stop - back if length > back else stop
        if lead < 0x80:
            return stop
    return stop


def valid_runs(raw: bytes) -> list[str | bytes]:
    """Cuts `raw` into maximal runs of valid UTF-8, as str, and of invalid bytes, as bytes."""
    try:
        return [raw.decode()]
    except UnicodeDecodeError:
        runs = _ESCAPED.split(raw.decode("utf-8", "surrogateescape"))
    return [run.encode("utf-8", "surrogateescape") if odd % 2 else run for odd, run in enumerate(runs) if run]


def training_texts(records: Iterable[bytes]) -> Iterator[str]:
    """The valid text of all records, in segments."""
    for record in records:
        for segment in segments(record):
            yield from (run for run in valid_runs(segment) if isinstance(run, str))


def encode_segments(
    raw: bytes,
    encode_batch: EncodeBatch,
    boundary: Boundary = line_boundary,
    byte_ids: Sequence[int] = range(256),
) -> np.ndarray:
    """Returns the int32 ids [T] of any bytes, given an engine for text.

    Args:
      raw: any bytes.
      encode_batch: texts -> the ids of each.
      boundary: where segments may end.
      byte_ids: the id of each byte, for those outside valid UTF-8.
    """
    parts = [np.zeros(0, np.int32)]
    stream = segments(raw, boundary)
    while group := list(itertools.islice(stream, BATCH)):
        runs = [run for segment in group for run in valid_runs(segment)]
        parts.append(encode_runs(runs, encode_batch, byte_ids))
    return np.concatenate(parts)


def encode_runs(runs: Sequence[str | bytes], encode_batch: EncodeBatch, byte_ids: Sequence[int]) -> np.ndarray:
    """Returns the int32 ids [T] of what `valid_runs` gave, in order."""
    encoded = iter(encode_batch([run for run in runs if isinstance(run, str)]))
    ids = (next(encoded) if isinstance(run, str) else [byte_ids[byte] for byte in run] for run in runs)
    return np.fromiter(itertools.chain.from_iterable(ids), np.int32)
