"""Words, or patches, as runs of bytes, each closed by an end-of-word id: what hierarchical models read and write."""

import dataclasses

import jax
import numpy as np

from tokjax.core.registry import Paper, tokenizers
from tokjax.core.spec import check
from tokjax.core.types import Source, Tables, Tokenizer
from tokjax.core.vocabulary import check_ids
from tokjax.text.bytes import BYTES
from tokjax.text.splitter import MIN_CAP, last_segment_end, piece_lengths
from tokjax.text.unicode_tables import unicode_tables

END_OF_WORD = BYTES

HAT_PAPER = Paper(
    title="Hierarchical Autoregressive Transformers: Combining Byte- and Word-Level Processing for Robust, "
    "Adaptable Language Models",
    authors="Pit Neitemeier, Björn Deiseroth, Constantin Eichenberg, Lukas Balles",
    year=2025,
    url="https://arxiv.org/abs/2501.10322",
)


@tokenizers.register("words", papers=(HAT_PAPER,))
@dataclasses.dataclass(frozen=True, kw_only=True)
class Words(Tokenizer):
    """The bytes of each word and then `END_OF_WORD`.

    Attributes:
      cap: the longest word, in bytes; longer ones are cut between characters.
    """

    cap: int = 16
    needs_fit = False

    def __post_init__(self):
        check(self.cap >= MIN_CAP, "cap", self.cap, f"a word must have room for one character: use {MIN_CAP} or more.")

    def fit(self, source: Source, key: jax.Array | None = None) -> Tables:
        """Returns the character classes of the installed Unicode version; the source is not read."""
        del source, key
        return unicode_tables()

    def encode(self, tables: Tables, raw: bytes) -> np.ndarray:
        ends = np.cumsum(piece_lengths(raw, self.cap, tables))
        return np.insert(np.frombuffer(raw, np.uint8).astype(np.int32), ends, END_OF_WORD)

    def decode(self, tables: Tables, ids: np.ndarray) -> bytes:
        ids = check_ids(ids, self.size(tables))
        return ids[ids != END_OF_WORD].astype(np.uint8).tobytes()

    def units(self, tables: Tables, ids: np.ndarray) -> np.ndarray:
        return (check_ids(ids, self.size(tables)) != END_OF_WORD).astype(np.int32)

    def size(self, tables: Tables) -> int:
        del tables
        return END_OF_WORD + 1

    @property
    def word_cap(self) -> int | None:
        return self.cap

    def safe_cut(self, tables: Tables, raw: bytes) -> int:
        del tables
        return last_segment_end(raw)


@tokenizers.register("patches", papers=(HAT_PAPER,))
@dataclasses.dataclass(frozen=True, kw_only=True)
class Patches(Words):
    """Every `cap` bytes, whatever they are, and then `END_OF_WORD`: what the words are compared with.

    Attributes:
      cap: bytes of each patch; the last one of a text may be shorter.
    """

    cap: int = 8

    def fit(self, source: Source, key: jax.Array | None = None) -> Tables:
        """Returns no tables: nothing depends on what the bytes are."""
        del source, key
        return {}

    def encode(self, tables: Tables, raw: bytes) -> np.ndarray:
        del tables
        ends = [*range(self.cap, len(raw), self.cap), len(raw)] if raw else []
        return np.insert(np.frombuffer(raw, np.uint8).astype(np.int32), np.asarray(ends, np.int64), END_OF_WORD)

    @property
    def word_cap(self) -> None:
        """No splitter cuts patches."""

    def safe_cut(self, tables: Tables, raw: bytes) -> int:
        del tables
        return len(raw) - len(raw) % self.cap
