"""What the word splitter leaves possible after a text: which characters would start a word, and which bytes lead there.

The splitter tells characters apart by their class and, because of the cap, by their width in UTF-8. So one example of
each such kind, split behind the text, answers for all of them, and the splitter itself stays the only place where the
rule is written.

Letters: `K` kinds of character.
"""

import dataclasses

import numpy as np

from tokjax.core.cached import cached_engine
from tokjax.core.types import Tables
from tokjax.text.splitter import piece_lengths
from tokjax.text.unicode_tables import dense_classes

_LOWEST = (0x00, 0x80, 0x800, 0x10000, 0x110000)  # first code point of each width, and the end
_LEADS = (0x00, 0xC0, 0xE0, 0xF0)  # high bits of the first byte of each width
_SURROGATES = slice(0xD800, 0xE000)  # code points that no UTF-8 encodes
_NO_CHARACTER = b"\xff"  # a byte of no character: before it, everything is decided


@dataclasses.dataclass(frozen=True, eq=False)
class Alphabet:
    """Every character by what the splitter sees of it.

    Attributes:
      kind: int16 [0x110000], of each code point; -1 where it is no character.
      examples: K encoded characters, one of each kind.
      first_bytes: bool [256, K], which kinds have a character that begins with a byte.
    """

    kind: np.ndarray
    examples: tuple[bytes, ...]
    first_bytes: np.ndarray


def alphabet(tables: Tables) -> Alphabet:
    """Returns the kinds of character that `tables`, of `unicode_tables.unicode_tables`, tell apart."""
    return _alphabet(None, tables)


@cached_engine
def _alphabet(spec: None, tables: Tables) -> Alphabet:
    del spec
    label = dense_classes(tables).astype(np.int16) << 2
    for width, lowest in enumerate(_LOWEST[:-1]):
        label[lowest : _LOWEST[width + 1]] |= width
    label[_SURROGATES] = -1
    _, first, kind = np.unique(label, return_index=True, return_inverse=True)
    examples = tuple(chr(code_point).encode() for code_point in first[1:].tolist())
    kind = (kind - 1).astype(np.int16)  # the smallest label is that of the surrogates
    first_bytes = np.stack([_found(kind[_code_points(bytes([byte]))], len(examples)) for byte in range(256)])
    return Alphabet(kind=kind, examples=examples, first_bytes=first_bytes)


def _found(kinds: np.ndarray, count: int) -> np.ndarray:
    """Returns which of `count` kinds are among `kinds`, bool [count]."""
    found = np.zeros(count, bool)
    found[kinds[kinds >= 0]] = True
    return found


def width_of(lead: int) -> int:
    """Returns how many bytes a character has that begins with the byte `lead`."""
    return 1 + sum(lead >= bits for bits in _LEADS[1:])


def kinds_from(letters: Alphabet, prefix: bytes) -> np.ndarray:
    """Returns which kinds have a character that begins with the bytes `prefix` (one or more), bool [K]."""
    return _found(letters.kind[_code_points(prefix)], len(letters.examples))


def next_bytes(letters: Alphabet, prefix: bytes, kinds: np.ndarray) -> np.ndarray:
    """Returns which bytes, bool [256], can follow `prefix` in a character of one of `kinds`, bool [K]."""
    if not prefix:
        return (letters.first_bytes & kinds).any(axis=1)
    possible = np.zeros(256, bool)
    for byte in range(0x80, 0xC0):
        possible[byte] = (kinds_from(letters, prefix + bytes([byte])) & kinds).any()
    return possible


def starting_kinds(letters: Alphabet, text: bytes, cap: int, tables: Tables) -> np.ndarray:
    """Returns of which kinds a character right after `text` would start a word, bool [K].

    Args:
      letters: `alphabet(tables)`.
      text: whole characters (as `held` leaves them), from the start of a segment on.
      cap: the longest word, in bytes.
      tables: of the splitter.
    """
    lasts = [piece_lengths(text + example, cap, tables)[-1] for example in letters.examples]
    return np.asarray(lasts) == np.asarray([len(example) for example in letters.examples])


def held(letters: Alphabet, raw: bytes) -> int:
    """Returns how many bytes at the end of `raw` begin a character that is still to be completed, 0 to 3."""
    for count in range(1, min(3, len(raw)) + 1):
        tail = raw[-count:]
        if tail[0] >= _LEADS[1]:
            return count if count < width_of(tail[0]) and kinds_from(letters, tail).any() else 0
    return 0


def decided_lengths(text: bytes, cap: int, tables: Tables) -> np.ndarray:
    """Returns the lengths of the words of `text` once more follows it, int32 [W]; the last one may still grow.

    They differ from `piece_lengths` only where `text` ends in bytes that look like the start of a character and that no
    byte completes.
    """
    lengths = piece_lengths(text + _NO_CHARACTER, cap, tables)
    lengths[-1] -= len(_NO_CHARACTER)
    return lengths[lengths > 0]


def _code_points(prefix: bytes) -> slice:
    """Returns the code points whose UTF-8 begins with `prefix`, surrogates included; an empty slice when none does."""
    width = width_of(prefix[0])
    continues = all(0x80 <= byte < 0xC0 for byte in prefix[1:])
    if 0x80 <= prefix[0] < 0xC0 or not continues or len(prefix) > width:
        return slice(0, 0)
    value = prefix[0] - _LEADS[width - 1]
    for byte in prefix[1:]:
        value = value << 6 | byte & 0x3F
    open_bits = 6 * (width - len(prefix))
    low, high = value << open_bits, (value + 1) << open_bits
    return slice(max(low, _LOWEST[width - 1]), max(0, min(high, _LOWEST[width])))
