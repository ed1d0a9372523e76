"""Bytes as tokens: the baseline that needs no training and stands for every input."""

import dataclasses

import jax
import numpy as np

from tokjax.core.errors import TokenizerError
from tokjax.core.registry import tokenizers
from tokjax.core.types import Source, Tables, Tokenizer

BYTES = 256


@tokenizers.register("bytes")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Bytes(Tokenizer):
    """One id per byte."""

    needs_fit = False

    def fit(self, source: Source, key: jax.Array | None = None) -> Tables:
        del source, key
        return {}

    def encode(self, tables: Tables, raw: bytes) -> np.ndarray:
        del tables
        return np.frombuffer(raw, np.uint8).astype(np.int32)

    def decode(self, tables: Tables, ids: np.ndarray) -> bytes:
        return checked_ids(ids, self.size(tables)).astype(np.uint8).tobytes()

    def units(self, tables: Tables, ids: np.ndarray) -> np.ndarray:
        return np.ones(checked_ids(ids, self.size(tables)).shape, np.int32)

    def size(self, tables: Tables) -> int:
        del tables
        return BYTES


def checked_ids(ids: np.ndarray, size: int) -> np.ndarray:
    """Returns `ids` as an array, all of them in [0, size).

    Raises:
      TokenizerError: an id outside; the message gives it and its place.
    """
    ids = np.asarray(ids, np.int32)
    outside = np.flatnonzero((ids < 0) | (ids >= size))
    if outside.size:
        place = int(outside[0])
        raise TokenizerError(
            f"id {ids.flat[place]} at position {place} is outside the vocabulary of {size} ids (0 to {size - 1}). "
            "Remove end-of-document and padding ids before decoding, and decode with the tokenizer that encoded."
        )
    return ids
