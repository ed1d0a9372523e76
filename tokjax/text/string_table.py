"""Tokenizers that are a prefix-closed set of strings, each with an id, found by longest match."""

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np

from tokjax.coding import match, strings
from tokjax.core import vocabulary
from tokjax.core.types import Tables, Tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class StringTable(Tokenizer):
    """Base of tokenizers whose ids are strings of a fixed set.

    Tables: `parents` int32 [V] and `last_bytes` uint8 [V], each string as its parent string and one more byte.
    """

    def encode(self, tables: Tables, raw: bytes) -> np.ndarray:
        return match.match(match.matcher(tables), raw)

    def decode(self, tables: Tables, ids: np.ndarray) -> bytes:
        return strings.decode(tables, ids)

    def units(self, tables: Tables, ids: np.ndarray) -> np.ndarray:
        return vocabulary.units(strings.pack(tables), ids)

    def size(self, tables: Tables) -> int:
        return len(tables["parents"])

    def safe_cut(self, tables: Tables, raw: bytes) -> int:
        return match.safe_cut(match.matcher(tables), raw)

    def encode_many(self, tables: Tables, documents: Iterable[bytes]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for group in _groups(documents):
            for ids in match.match_many(match.matcher(tables), group):
                yield ids, self.units(tables, ids)


def _groups(documents: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Collects documents as long as they may be parsed as one text; a longer one is a group of its own."""
    group: list[bytes] = []
    size = 0
    for raw in documents:
        if group and size + len(raw) > match.GROUP:
            yield group
            group, size = [], 0
        group.append(raw)
        size += len(raw)
    if group:
        yield group
