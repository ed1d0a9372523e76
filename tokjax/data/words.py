"""Words of documents as a stream over a table of distinct words, each as bytes and as subwords ("pieces").

Words are those of the library's splitter, at most L bytes each; a longer one is several words.

Letters: `L` bytes in a word, `U` distinct words, `N` words of a stream.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np

from tokjax.core.errors import SourceError
from tokjax.core.types import Source
from tokjax.text.fitted import Fitted
from tokjax.text.splitter import split
from tokjax.text.unicode_tables import unicode_tables


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class WordTable:
    """Distinct words, as bytes and as pieces.

    Attributes:
      words: the words themselves.
      word_bytes: uint8 [U, L], padded with 0.
      lengths: int32 [U].
      pieces: int32, the pieces of all words end to end.
      offsets: int64 [U + 1], where each word's pieces begin, and the end.
      mask_piece: the piece that stands for a masked one: the number of pieces there are.
    """

    words: tuple[bytes, ...]
    word_bytes: np.ndarray
    lengths: np.ndarray
    pieces: np.ndarray
    offsets: np.ndarray
    mask_piece: int

    @functools.cached_property
    def counts(self) -> np.ndarray:
        """int64 [U], pieces of each word."""
        return np.diff(self.offsets)

    @functools.cached_property
    def is_text(self) -> np.ndarray:
        """bool [U], whether a word is more than white space; only such words are predicted."""
        return np.array([bool(word.strip()) for word in self.words], bool)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class WordStream:
    """The words of whole documents in order.

    Attributes:
      table: the distinct words.
      words: int32 [N], rows of the table.
      boundaries: int64 [documents + 1], where documents begin, and the end.
    """

    table: WordTable
    words: np.ndarray
    boundaries: np.ndarray


def word_table(words: Sequence[bytes], fitted: Fitted, *, cap: int) -> WordTable:
    """Encodes distinct words, each on its own, by a subword tokenizer.

    Args:
      words: at most `cap` bytes each.
      fitted: the tokenizer.
      cap: L.
    """
    pieces = [ids for ids, _ in fitted.encode_many(words)]
    table = np.zeros((len(words), cap), np.uint8)
    for row, word in zip(table, words, strict=True):
        row[: len(word)] = np.frombuffer(word, np.uint8)
    return WordTable(
        words=tuple(words),
        word_bytes=table,
        lengths=np.array([len(word) for word in words], np.int32),
        pieces=np.concatenate([np.zeros(0, np.int32), *pieces]).astype(np.int32),
        offsets=np.cumsum([0, *map(len, pieces)]).astype(np.int64),
        mask_piece=fitted.size,
    )


def word_stream(documents: Source | Sequence[bytes], fitted: Fitted, *, cap: int) -> WordStream:
    """Splits documents into words and encodes each distinct one.

    Args:
      documents: the raw text.
      fitted: a subword tokenizer, for the pieces.
      cap: L, bytes of the longest word; longer ones are cut into several.

    Raises:
      SourceError: no words at all.
    """
    tables, number = unicode_tables(), dict[bytes, int]()
    words = [
        np.array([number.setdefault(word, len(number)) for word in split(raw, cap, tables)], np.int32)
        for raw in documents
    ]
    if not number:
        raise SourceError("Nothing to encode: no words. Use a larger source.")
    return WordStream(
        table=word_table(list(number), fitted, cap=cap),
        words=np.concatenate(words),
        boundaries=np.cumsum([0, *map(len, words)]).astype(np.int64),
    )


def change_words(stream: WordStream, change: Callable[[bytes, int], bytes], fitted: Fitted) -> WordStream:
    """Returns the stream with each word changed on its own; words stay as many, and are cut at L bytes.

    The new table begins with the old one, so that ids of the old stream keep their meaning.

    Args:
      stream: of N words.
      change: (word, its place in the stream) -> the word to read in its place; an empty result keeps the word.
      fitted: the tokenizer of `stream`.
    """
    cap = stream.table.word_bytes.shape[1]
    number = {word: index for index, word in enumerate(stream.table.words)}
    changed = np.empty_like(stream.words)
    for place, index in enumerate(stream.words.tolist()):
        word = stream.table.words[index]
        changed[place] = number.setdefault(change(word, place)[:cap] or word, len(number))
    return dataclasses.replace(stream, words=changed, table=word_table(list(number), fitted, cap=cap))
