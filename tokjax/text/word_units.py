"""Words as runs of base units, each closed by an end-of-word id; and words as ids of their own, their baseline.

Letters: `T` tokens, `V` vocabulary.
"""

import collections
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, Literal, cast, get_args

import jax
import numpy as np

from tokjax.core import vocabulary
from tokjax.core.cached import cached_engine
from tokjax.core.registry import Paper, tokenizers
from tokjax.core.spec import check
from tokjax.core.types import Source, Tables, Tokenizer
from tokjax.text.bytes import BYTES, Bytes
from tokjax.text.characters import Characters
from tokjax.text.splitter import MIN_CAP, last_segment_end, split
from tokjax.text.subwords import BPE
from tokjax.text.unicode_tables import unicode_tables

Base = Literal["bytes", "characters", "bpe"]
_SMALLEST = {"bytes": BYTES + 1, "characters": BYTES + 1, "bpe": BPE.smallest + 1}
_WIDEST = 4  # bytes of the longest character
_REMEMBERED = 1 << 16  # spellings kept, so that each frequent word is encoded once

LEARN_YOUR_TOKENS = Paper(
    title="Learn Your Tokens: Word-Pooled Tokenization for Language Modeling",
    authors="Thawani, Ghanekar, Zhu, Pujara",
    year=2023,
    url="https://arxiv.org/abs/2310.11628",
)


@tokenizers.register("word_units", papers=(LEARN_YOUR_TOKENS,))
@dataclasses.dataclass(frozen=True, kw_only=True)
class WordUnits(Tokenizer):
    """The base units of each word and then an end-of-word id, the last of the vocabulary.

    Over bytes these are the ids of `words`.

    Attributes:
      base: what a word is made of: bytes, characters, or subwords learned inside words.
      cap: the longest word, in units; longer ones are cut, bytes between characters. No word passes 4 x cap bytes.
      vocab_size: at most how many ids, end of word included; bytes need 257.
    """

    base: Base = "characters"
    cap: int = 16
    vocab_size: int = 4096

    def __post_init__(self):
        check(self.base in get_args(Base), "base", self.base, f"use one of {', '.join(get_args(Base))}.")
        check(self.cap >= MIN_CAP, "cap", self.cap, f"a word must have room for one character: use {MIN_CAP} or more.")
        check(
            self.vocab_size >= _SMALLEST[self.base], "vocab_size", self.vocab_size,
            f"use at least {_SMALLEST[self.base]}: the bytes and the end of a word come first.",
        )  # fmt: skip

    def fit(self, source: Source, key: jax.Array | None = None) -> Tables:
        """Learns the base units, and adds the character classes of the installed Unicode version.

        Raises:
          SourceError: base 'bpe', and `source` has no valid text.
        """
        classes = unicode_tables()
        records: Any = source
        if self.base == "bpe":  # a word at a time, so that no subword spans two
            records = (word for record in source for word in split(record, self._splitter_cap, classes))
        return {**classes, **self._units.fit(cast(Source, records), key)}

    def encode(self, tables: Tables, raw: bytes) -> np.ndarray:
        words = split(raw, self._splitter_cap, tables)
        return np.fromiter(itertools.chain.from_iterable(map(_speller(self, tables), words)), np.int32)

    def decode(self, tables: Tables, ids: np.ndarray) -> bytes:
        ids = vocabulary.check_ids(ids, self.size(tables))
        return self._units.decode(tables, ids[ids != self.end_of_word(tables)])

    def units(self, tables: Tables, ids: np.ndarray) -> np.ndarray:
        ids = vocabulary.check_ids(ids, self.size(tables))
        inside = ids != self.end_of_word(tables)
        return self._units.units(tables, np.where(inside, ids, 0)) * inside

    def size(self, tables: Tables) -> int:
        return self.end_of_word(tables) + 1

    def end_of_word(self, tables: Tables) -> int:
        """Returns the id that closes a word."""
        return self._units.size(tables)

    @property
    def word_cap(self) -> int | None:
        return self.cap if self.base == "bytes" else None

    def safe_cut(self, tables: Tables, raw: bytes) -> int:
        del tables
        return last_segment_end(raw)

    @property
    def _units(self) -> Tokenizer:
        if self.base == "bytes":
            return Bytes()
        return (Characters if self.base == "characters" else BPE)(vocab_size=self.vocab_size - 1)

    @property
    def _splitter_cap(self) -> int:
        """Bytes, where `cap` counts units: a word of more characters than `cap` may be shorter than this."""
        return self.cap if self.base == "bytes" else _WIDEST * self.cap


@cached_engine
def _speller(spec: WordUnits, tables: Tables) -> Callable[[bytes], tuple[int, ...]]:
    """Returns the function from a word to its ids, end of word included."""
    base, closing = spec._units, spec.end_of_word(tables)

    @functools.lru_cache(maxsize=_REMEMBERED)
    def spell(word: bytes) -> tuple[int, ...]:
        ids = base.encode(tables, word).tolist()
        parts = (ids[start : start + spec.cap] for start in range(0, len(ids), spec.cap))
        return tuple(itertools.chain.from_iterable((*part, closing) for part in parts))

    return spell


@tokenizers.register("whole_words")
@dataclasses.dataclass(frozen=True, kw_only=True)
class WholeWords(Tokenizer):
    """One id per frequent word of the splitter; any other word is its bytes, so nothing is unknown.

    Ids 0 to 255 are the bytes; then come the words of more than one byte, the most frequent first.

    Attributes:
      vocab_size: at most how many ids, bytes included; a text with fewer words gives fewer.
      cap: the longest word, in bytes.
    """

    vocab_size: int = 8192
    cap: int = 64

    def __post_init__(self):
        check(self.vocab_size >= BYTES, "vocab_size", self.vocab_size, f"use at least {BYTES}: the bytes come first.")
        check(self.cap >= MIN_CAP, "cap", self.cap, f"a word must have room for one character: use {MIN_CAP} or more.")

    def fit(self, source: Source, key: jax.Array | None = None) -> Tables:
        """Counts the words of every record; of those equally frequent, the first in byte order comes first."""
        del key
        classes = unicode_tables()
        counts = collections.Counter(word for record in source for word in split(record, self.cap, classes))
        learned = sorted((word for word in counts if len(word) > 1), key=lambda word: (-counts[word], word))
        single = [bytes([byte]) for byte in range(BYTES)]
        return {**classes, **vocabulary.pack(single + learned[: self.vocab_size - BYTES])}

    def encode(self, tables: Tables, raw: bytes) -> np.ndarray:
        ids = _word_ids(self, tables)
        return np.fromiter(_spelled(split(raw, self.cap, tables), ids), np.int32)

    def decode(self, tables: Tables, ids: np.ndarray) -> bytes:
        return vocabulary.decode(tables, ids)

    def units(self, tables: Tables, ids: np.ndarray) -> np.ndarray:
        return vocabulary.units(tables, ids)

    def size(self, tables: Tables) -> int:
        return vocabulary.size(tables)

    def safe_cut(self, tables: Tables, raw: bytes) -> int:
        del tables
        return last_segment_end(raw)


@cached_engine
def _word_ids(spec: WholeWords, tables: Tables) -> dict[bytes, int]:
    del spec
    return {word: index for index, word in enumerate(vocabulary.unpack(tables))}


def _spelled(words: list[bytes], ids: dict[bytes, int]) -> Iterator[int]:
    """Yields the id of each word, or its bytes where it has none."""
    for word in words:
        if word in ids:
            yield ids[word]
        else:
            yield from word
