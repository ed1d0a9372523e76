"""Bytes to words, by a rule that never looks ahead: what has been decided about a prefix stays decided.

The rule is the word splitter of hierarchical autoregressive transformers (https://arxiv.org/abs/2501.10322): Unicode
word boundaries (UAX #29), a split after every punctuation mark and inside camelCase, then a lone space joined to the
word after it and punctuation to whatever precedes it.

Stated per character, a piece starts before a character unless one of these holds. "Base" is the nearest preceding
character that is not a combining mark, format character or joiner.

- The character is a mark, format character or joiner, and no line end or punctuation directly precedes it (WB4).
- It is the line feed of a CR LF (WB3), or the pictograph right after a joiner (WB3c).
- It is a space of the class WSegSpace and so is the character before it (WB3d; this merges runs of spaces).
- The base and it are letters or digits (WB5, 8-10), both Katakana (WB13), or a connector and any of these (WB13a/b);
  but a lower-case letter directly followed by an upper-case one is split.
- The base and it are the first and second of a pair of regional indicators (WB15/16).
- The character before it is a lone U+0020, and it is not white space.
- It is punctuation, and the base is neither a line end nor white space other than a lone U+0020.

A piece longer than the cap is cut before the character that would pass it.

Text is first cut into segments, after each line feed and before the character that would take a segment past
`SEGMENT_BYTES`. Every rule restarts in a new segment, so a stream never has to carry more than one segment.
"""

import codecs
import itertools
from collections.abc import Iterator

import numpy as np

from tokjax.core.types import Tables
from tokjax.text import unicode_tables as uc

SEGMENT_BYTES = 65_536
MIN_CAP = 4  # the longest UTF-8 character, so that a cut never has to go through one

_WORD = {uc.LOWER, uc.UPPER, uc.ALNUM}
_LINE_END = {uc.NEWLINE, uc.CARRIAGE_RETURN, uc.LINE_FEED}
_SPACES = {uc.SPACE, uc.WIDE_SPACE}
_WHITE = _LINE_END | _SPACES | {uc.WHITE}


def piece_lengths(raw: bytes, cap: int, tables: Tables) -> np.ndarray:
    """Returns the lengths in bytes of the pieces of `raw`, int32 [W], in order; they sum to `len(raw)`.

    Splitting a prefix gives the same pieces, except that its last piece may be a part of one or more of them. A byte
    that is not UTF-8 is a character of its own, of no particular class.

    Args:
      raw: any bytes.
      cap: the longest piece, in bytes, at least `MIN_CAP`.
      tables: from `unicode_tables.unicode_tables`.
    """
    classes = uc.dense_classes(tables)
    parts = [_split_block(raw[start:end], cap, classes, end == len(raw)) for start, end in _blocks(raw)]
    return np.concatenate(parts, dtype=np.int32) if parts else np.empty(0, np.int32)


def split(raw: bytes, cap: int, tables: Tables) -> list[bytes]:
    """Returns the pieces themselves; their concatenation is `raw`."""
    ends = np.cumsum(piece_lengths(raw, cap, tables)).tolist()
    return [raw[start:end] for start, end in itertools.pairwise([0, *ends])]


def last_segment_end(raw: bytes) -> int:
    """Returns the largest n such that pieces(raw[:n]) + pieces(raw[n:] + more) == pieces(raw + more) for every `more`.

    Only ends of segments are considered; 0 when no segment is known to have ended.
    """
    ends = [end for _, end in _blocks(raw)]
    if ends:
        start = ends[-2] if len(ends) > 1 else 0
        ends[-1] = raw.rfind(b"\n", start) + 1  # the last block may end with a segment that can still grow
    return next((end for end in reversed(ends) if end and not _incomplete_tail(raw[max(end - 3, 0) : end])), 0)


def _blocks(raw: bytes) -> Iterator[tuple[int, int]]:
    """Yields spans of at most about `SEGMENT_BYTES` that hold whole segments; only the last may hold an open one."""
    start = 0
    while len(raw) - start > SEGMENT_BYTES:
        limit = start + SEGMENT_BYTES
        end = raw.rfind(b"\n", start, limit) + 1 or _segment_end(raw, limit)
        if not end:
            break
        yield start, end
        start = end
    if start < len(raw):
        yield start, len(raw)


def _segment_end(raw: bytes, limit: int) -> int:
    """Returns the last character boundary not after `limit`, or 0 while the bytes that would decide it are to come."""
    # A continuation byte decodes as a bad byte of width 1 here; only a whole character can reach past the limit.
    for start in range(limit - 3, limit):
        text, known = codecs.utf_8_decode(raw[start : start + 4], "surrogateescape", False)
        if not known:
            return 0
        if start + len(text[0].encode("utf-8", "surrogateescape")) > limit:
            return start
    return limit


def _incomplete_tail(raw: bytes) -> int:
    """Returns how many bytes at the end of `raw` could still become a character."""
    return len(raw) - codecs.utf_8_decode(raw, "surrogateescape", False)[1]


def _split_block(block: bytes, cap: int, table: np.ndarray, at_end: bool) -> np.ndarray:
    """Returns the piece lengths of one span of whole segments."""
    if block.isascii():
        ascii_classes = (table[:256] & uc.CLASS_MASK).tobytes()
        classes = np.frombuffer(bytearray(block).translate(ascii_classes), np.uint8)
        _mark_runs_of_spaces(classes)
        return _lengths(_starts(classes, classes), np.arange(len(block) + 1), cap)
    text, known = codecs.utf_8_decode(block, "surrogateescape", not at_end)
    codepoints = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    flagged = table[codepoints]
    classes = flagged & uc.CLASS_MASK
    _mark_runs_of_spaces(classes)
    starts = _starts(_as_seen_by_the_next(classes), classes)
    starts[1:] &= ~((classes[:-1] == uc.JOINER) & (flagged[1:] >= uc.PICTOGRAPHIC))
    widths = _utf8_widths(codepoints)
    if known < len(block):
        # Not in the published rule: a character still arriving belongs to the last piece of its segment, so that no
        # prefix shows a piece that the whole character would take back.
        starts = np.append(starts, not len(classes) or classes[-1] == uc.LINE_FEED)
        widths = np.append(widths, len(block) - known)
    return _lengths(starts, np.concatenate([[0], np.cumsum(widths)]), cap)


def _mark_runs_of_spaces(classes: np.ndarray) -> None:
    """Files each U+0020 that follows a space under `WIDE_SPACE`, in place: what stays `SPACE` opens its run."""
    continues = (classes[1:] == uc.SPACE) & ((classes[:-1] == uc.SPACE) | (classes[:-1] == uc.WIDE_SPACE))
    classes[1:] += continues  # WIDE_SPACE is SPACE + 1


def _as_seen_by_the_next(classes: np.ndarray) -> np.ndarray:
    """Returns the class that each character shows to the one after it: for a mark, what its base has become."""
    if classes.max(initial=0) < uc.EXTEND:
        return classes
    shown = classes.copy()
    attached = (classes == uc.EXTEND) | (classes == uc.JOINER)
    regional = classes == uc.REGIONAL
    count = np.cumsum(regional)
    before_run = np.maximum.accumulate(np.where(regional | attached, 0, count))
    shown[regional & ((count - before_run) % 2 == 0)] = uc.OTHER  # the second of a pair takes no third
    base = np.maximum.accumulate(np.where(attached, 0, np.arange(len(classes))))
    return np.where(attached, _WITH_MARK[shown[base]], shown)


def _starts(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Returns where pieces start, bool like `right`, from each character's class and what is shown to its left."""
    starts = np.ones(len(right), bool)
    pairs = (left[:-1] << 4) | right[1:]
    starts[1:] = np.frombuffer(pairs.tobytes().translate(_SPLITS), bool)
    return starts


def _utf8_widths(codepoints: np.ndarray) -> np.ndarray:
    """Returns the bytes that each code point came from, 1 for the lone surrogates that stand for bad bytes."""
    widths = 1 + (codepoints > 0x7F).astype(np.int32) + (codepoints > 0x7FF) + (codepoints > 0xFFFF)
    widths[(codepoints >> 11) == 0xD800 >> 11] = 1
    return widths


def _lengths(starts: np.ndarray, offsets: np.ndarray, cap: int) -> np.ndarray:
    """Returns piece lengths in bytes, pieces over `cap` cut at character boundaries.

    Args:
      starts: bool [N], where pieces start.
      offsets: int [N + 1], the byte at which each character starts, then the end.
      cap: in bytes.
    """
    bounds = np.append(np.flatnonzero(starts), len(starts))
    lengths = np.diff(offsets[bounds])
    long = lengths > cap
    if not long.any():
        return lengths
    starts[_cuts(bounds[:-1][long], bounds[1:][long], offsets, cap)] = True
    return np.diff(offsets[np.append(np.flatnonzero(starts), len(starts))])


def _cuts(first: np.ndarray, last: np.ndarray, offsets: np.ndarray, cap: int) -> np.ndarray:
    """Returns the characters before which the pieces [first, last) are cut, each as late as `cap` bytes allow.

    Where a cut falls depends on the one before it, so the chain is followed by doubling: after k rounds the first 2^k
    cuts of every piece are known, which bounds the work on a text without any boundary.
    """
    counts = last - first
    ends = np.cumsum(counts)
    total = int(ends[-1])
    characters = np.arange(total) + np.repeat(first - (ends - counts), counts)  # of the long pieces, side by side
    widths = offsets[characters + 1] - offsets[characters]
    byte_ends = np.cumsum(widths)
    character_of_byte = np.append(np.repeat(np.arange(total), widths), total)
    reach = character_of_byte[np.minimum(byte_ends - widths + cap, byte_ends[-1])]
    following = np.append(np.minimum(reach, np.repeat(ends, counts)), total)
    cut = np.zeros(total + 1, bool)
    cut[ends - counts] = True
    most = -(-int((offsets[last] - offsets[first]).max()) // (cap - MIN_CAP + 1))
    for _ in range(most.bit_length()):
        cut[following[cut]] = True
        following = following[following]
    return characters[cut[:-1]]


def _splits(left: int, right: int) -> bool:
    """Whether a piece starts between two classes; `left` as its base shows it, so never a mark."""
    words = {*_WORD, uc.CONNECTOR}
    attaches = right in (uc.EXTEND, uc.JOINER) and left not in _LINE_END | {uc.PUNCTUATION}
    same_word = left in words and right in words and (left, right) != (uc.LOWER, uc.UPPER)
    katakana = uc.KATAKANA in (left, right) and {left, right} <= {uc.KATAKANA, uc.CONNECTOR}
    line_end = (left, right) == (uc.CARRIAGE_RETURN, uc.LINE_FEED)
    spaces = left in _SPACES and right in _SPACES
    flag = left == right == uc.REGIONAL
    after_lone_space = left == uc.SPACE and right not in _WHITE
    punctuation = right == uc.PUNCTUATION and left not in _WHITE
    return not (attaches or same_word or katakana or line_end or spaces or flag or after_lone_space or punctuation)


def _with_mark(base: int) -> int:
    """What a character shows once marks follow it: no lone space, no case; marks that attach to nothing stand alone.

    Not in UAX #29: marks after punctuation do not join it to the letter behind them, as every split is a fresh start.
    """
    if base in _SPACES:
        return uc.WHITE
    if base in _WORD:
        return uc.ALNUM
    return uc.OTHER if base in _LINE_END | {uc.PUNCTUATION, uc.EXTEND, uc.JOINER} else base


_SPLITS = bytes(_splits(left, right) for left in range(16) for right in range(16))
_WITH_MARK = np.array([_with_mark(base) for base in range(16)], np.uint8)
