"""Unicode characters as tokens: the most frequent of a text have an id each, every other one is its UTF-8 bytes.

Letters: `T` tokens, `V` vocabulary.
"""

import codecs
import collections
import dataclasses
import sys

import jax
import numpy as np

from tokjax.core import vocabulary
from tokjax.core.cached import cached_engine
from tokjax.core.registry import tokenizers
from tokjax.core.spec import check
from tokjax.core.types import Source, Tables, Tokenizer
from tokjax.text.bytes import BYTES
from tokjax.text.pretokenize import valid_runs

_SPELLED = -1  # in the table of ids: a character that is written as its bytes
_ESCAPED = 0xDC00  # a byte that is not UTF-8 decodes to this lone surrogate plus its value
_UTF8 = 4  # bytes of the longest character


@tokenizers.register("characters")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Characters(Tokenizer):
    """One id per character, learned from the text; rarer characters and invalid UTF-8 are bytes.

    Ids 0 to 255 are the bytes, of which the first 128 are the ASCII characters. Then come the other characters, the
    most frequent first.

    Attributes:
      vocab_size: at most how many ids, bytes included; a text with fewer characters gives fewer.
    """

    vocab_size: int = 4096

    def __post_init__(self):
        check(self.vocab_size >= BYTES, "vocab_size", self.vocab_size, f"use at least {BYTES}: the bytes come first.")

    def fit(self, source: Source, key: jax.Array | None = None) -> Tables:
        """Counts the characters of every record; of those equally frequent, the lower code point comes first."""
        del key
        counts: collections.Counter[str] = collections.Counter()
        for record in source:
            if not record.isascii():
                counts.update("".join(run for run in valid_runs(record) if isinstance(run, str)))
        learned = sorted((c for c in counts if not c.isascii()), key=lambda c: (-counts[c], c))
        characters = [c.encode() for c in learned[: self.vocab_size - BYTES]]
        return vocabulary.pack([bytes([byte]) for byte in range(BYTES)] + characters)

    def encode(self, tables: Tables, raw: bytes) -> np.ndarray:
        codepoints = np.frombuffer(raw.decode("utf-8", "surrogateescape").encode("utf-32-le", "surrogatepass"), "<u4")
        ids = _ids_of_codepoints(self, tables)[codepoints]
        spelled = ids == _SPELLED
        if not spelled.any():
            return ids
        rare = codepoints[spelled].tobytes().decode("utf-32-le")
        widths = np.ones(len(ids), np.int64)
        widths[spelled] = [len(c.encode()) for c in rare]
        ids = np.repeat(ids, widths)
        ids[ids == _SPELLED] = np.frombuffer(rare.encode(), np.uint8)
        return ids

    def decode(self, tables: Tables, ids: np.ndarray) -> bytes:
        return vocabulary.decode(tables, ids)

    def units(self, tables: Tables, ids: np.ndarray) -> np.ndarray:
        return vocabulary.units(tables, ids)

    def size(self, tables: Tables) -> int:
        return vocabulary.size(tables)

    def safe_cut(self, tables: Tables, raw: bytes) -> int:
        """Everything but a character that is still arriving."""
        del tables
        return whole_characters(raw)


def whole_characters(raw: bytes) -> int:
    """Returns how many bytes of `raw` stand before a character that is still arriving at its end."""
    tail = raw[max(len(raw) - _UTF8 + 1, 0) :]
    _, known = codecs.utf_8_decode(tail, "surrogateescape", False)
    return len(raw) - len(tail) + known


@cached_engine
def _ids_of_codepoints(spec: Characters, tables: Tables) -> np.ndarray:
    """Returns the id of every code point, int32 [0x110000]; `_SPELLED` for those without one."""
    del spec
    ids = np.full(sys.maxunicode + 1, _SPELLED, np.int32)
    ascii_bytes, others = np.arange(128), np.arange(128, BYTES)
    ids[ascii_bytes] = ascii_bytes
    ids[_ESCAPED + others] = others
    learned = [ord(token.decode()) for token in vocabulary.unpack(tables)[BYTES:]]
    ids[learned] = np.arange(BYTES, BYTES + len(learned))
    return ids
