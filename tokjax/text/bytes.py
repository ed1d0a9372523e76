"""Bytes as tokens: the baseline that needs no training and stands for every input."""

import dataclasses

import jax
import numpy as np

from tokjax.core.registry import tokenizers
from tokjax.core.types import Source, Tables, Tokenizer
from tokjax.core.vocabulary import check_ids

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
        return check_ids(ids, self.size(tables)).astype(np.uint8).tobytes()

    def units(self, tables: Tables, ids: np.ndarray) -> np.ndarray:
        return np.ones(check_ids(ids, self.size(tables)).shape, np.int32)

    def size(self, tables: Tables) -> int:
        del tables
        return BYTES
