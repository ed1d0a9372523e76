"""The characters of a text and little else, for models to which every id that never occurs is a burden.

A lexinvariant model cannot know which ids are never used: all look alike until they are seen. `characters` keeps 256
ids for bytes; here what is not in the alphabet is spelled bit by bit, with two.

Letters: `T` tokens, `V` vocabulary.
"""

import collections
import dataclasses
import sys
from typing import ClassVar

import jax
import numpy as np

from tokjax.core import vocabulary
from tokjax.core.cached import cached_engine
from tokjax.core.registry import tokenizers
from tokjax.core.spec import check
from tokjax.core.types import Source, Tables, Tokenizer
from tokjax.text.characters import whole_characters

BITS = 2  # ids 0 and 1
_BYTE = 8  # bits
_SPELLED = -1  # in the table of ids: a character that is not in the alphabet


@tokenizers.register("alphabet")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Alphabet(Tokenizer):
    """One id per frequent character of the text and two to spare: any other byte is its eight bits.

    Ids 0 and 1 are bits, the highest of a byte first. Then come the characters, the most frequent first. Bytes are
    counted from the start of each run of bits; what is left over of a run stands for nothing.

    Attributes:
      vocab_size: at most how many ids, bits included; a text with fewer characters gives fewer.
    """

    context_free: ClassVar[bool] = False
    vocab_size: int = 132

    def __post_init__(self):
        check(self.vocab_size > BITS, "vocab_size", self.vocab_size, f"use more than {BITS}: bits come first.")

    def fit(self, source: Source, key: jax.Array | None = None) -> Tables:
        """Counts the characters of every record; of those equally frequent, the lower code point comes first."""
        del key
        counts: collections.Counter[str] = collections.Counter()
        for record in source:
            counts.update(record.decode("utf-8", "ignore"))
        learned = sorted(counts, key=lambda c: (-counts[c], c))[: self.vocab_size - BITS]
        return vocabulary.pack([b""] * BITS + [c.encode() for c in learned])

    def encode(self, tables: Tables, raw: bytes) -> np.ndarray:
        text = raw.decode("utf-8", "surrogateescape")
        codepoints = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
        ids = _ids_of_codepoints(self, tables)[codepoints]
        spelled = ids == _SPELLED
        if not spelled.any():
            return ids
        rare = [
            c.encode("utf-8", "surrogateescape")
            for c in codepoints[spelled].tobytes().decode("utf-32-le", "surrogatepass")
        ]
        widths = np.ones(len(ids), np.int64)
        widths[spelled] = [_BYTE * len(c) for c in rare]
        ids = np.repeat(ids, widths)
        bytes_ = np.frombuffer(b"".join(rare), np.uint8)
        ids[ids == _SPELLED] = np.unpackbits(bytes_)
        return ids

    def decode(self, tables: Tables, ids: np.ndarray) -> bytes:
        ids = vocabulary.check_ids(ids, vocabulary.size(tables))
        ends = np.flatnonzero(_ends_byte(ids))
        spelled = np.packbits(ids[ends[:, None] + np.arange(1 - _BYTE, 1)].astype(np.uint8), axis=1)[:, 0]
        tokens = [bytes([byte]) for byte in range(256)] + vocabulary.unpack(tables)[BITS:]
        place = ids + (256 - BITS)
        place[ends] = spelled
        return b"".join(map(tokens.__getitem__, place[_ends_byte(ids) | (ids >= BITS)].tolist()))

    def units(self, tables: Tables, ids: np.ndarray) -> np.ndarray:
        found = vocabulary.units(tables, ids)
        found[_ends_byte(np.asarray(ids))] = 1
        return found

    def size(self, tables: Tables) -> int:
        return vocabulary.size(tables)

    def safe_cut(self, tables: Tables, raw: bytes) -> int:
        """Everything but a character that is still arriving."""
        del tables
        return whole_characters(raw)

    def safe_ids(self, tables: Tables, ids: np.ndarray) -> int:
        """Everything but the first bits of a byte."""
        del tables
        ids = np.asarray(ids)
        return len(ids) - int(_bits_before(ids)[-1] % _BYTE) if len(ids) else 0


def _bits_before(ids: np.ndarray) -> np.ndarray:
    """Int [T]: how many bits the run of them has up to each of `ids`, itself included; 0 for a character."""
    place = np.arange(len(ids))
    return place - np.maximum.accumulate(np.where(ids < BITS, -1, place)) if len(ids) else place


def _ends_byte(ids: np.ndarray) -> np.ndarray:
    """Bool [T]: which of `ids` is the last bit of a byte."""
    run = _bits_before(ids)
    return (run > 0) & (run % _BYTE == 0)


@cached_engine
def _ids_of_codepoints(spec: Alphabet, tables: Tables) -> np.ndarray:
    """Returns the id of every code point, int32 [0x110000]; `_SPELLED` for those without one."""
    del spec
    ids = np.full(sys.maxunicode + 1, _SPELLED, np.int32)
    learned = [ord(token.decode()) for token in vocabulary.unpack(tables)[BITS:]]
    ids[learned] = np.arange(BITS, BITS + len(learned))
    return ids
