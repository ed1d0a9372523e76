"""A vocabulary as arrays: the bytes of every id, laid end to end. Shared by the tokenizers that have a token list.

Letters: `T` tokens, `V` vocabulary.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from tokjax.core.errors import TokenizerError
from tokjax.core.types import Tables

E = TypeVar("E")
ENGINES = 8  # how many rebuilt engines of one kind are kept


def pack(tokens: Sequence[bytes]) -> Tables:
    """Returns {"token_bytes": uint8 [sum of lengths], "token_offsets": int64 [V + 1]} of the list of tokens."""
    offsets = np.zeros(len(tokens) + 1, np.int64)
    np.cumsum([len(token) for token in tokens], out=offsets[1:])
    return {"token_bytes": np.frombuffer(b"".join(tokens), np.uint8).copy(), "token_offsets": offsets}


def unpack(tables: Tables) -> list[bytes]:
    """The inverse of `pack`."""
    flat, offsets = tables["token_bytes"].tobytes(), tables["token_offsets"].tolist()
    return [flat[start:stop] for start, stop in itertools.pairwise(offsets)]


def size(tables: Tables) -> int:
    """The number of tokens, V."""
    return len(tables["token_offsets"]) - 1


def check_ids(ids: np.ndarray, size: int) -> np.ndarray:
    """Returns `ids` as a flat integer array.

    Raises:
      TokenizerError: an id that is not an integer in [0, size).
    """
    ids = np.asarray(ids)
    if ids.size == 0:
        return np.zeros(0, np.int64)
    if ids.dtype.kind not in "iu" or ids.ndim != 1:
        raise TokenizerError(f"Expected a flat array of integer ids, got {ids.dtype} of shape {ids.shape}.")
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= size:
        raise TokenizerError(f"Id {low if low < 0 else high} is outside this tokenizer's vocabulary of {size} ids.")
    return ids


def decode(tables: Tables, ids: np.ndarray) -> bytes:
    """Returns the bytes of `ids` [T], joined.

    Raises:
      TokenizerError: an id outside the vocabulary.
    """
    ids = check_ids(ids, size(tables))
    return b"".join(map(_token_list(None, tables).__getitem__, ids.tolist()))


def units(tables: Tables, ids: np.ndarray) -> np.ndarray:
    """Returns the length in bytes of each of `ids`, int32 [T].

    Raises:
      TokenizerError: an id outside the vocabulary.
    """
    ids = check_ids(ids, size(tables))
    return np.diff(tables["token_offsets"]).astype(np.int32)[ids]


class _Identity:
    """Hashes tables by the identity of their arrays, which it keeps alive: constant time at every call."""

    def __init__(self, tables: Tables):
        self.tables = dict(tables)
        self._ids = tuple((name, id(array)) for name, array in sorted(tables.items()))

    def __hash__(self) -> int:
        return hash(self._ids)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self._ids == other._ids


def cached_engine(build: Callable[[Any, Tables], E]) -> Callable[[Any, Tables], E]:
    """Caches `build(spec, tables)`, which turns tables into a fast engine, for the most recent tables.

    Tables are constants: changing an array in place after its first use has no effect on the engine.
    """

    @functools.lru_cache(maxsize=ENGINES)
    def cached(spec: Any, identity: _Identity) -> E:
        return build(spec, identity.tables)

    return functools.wraps(build)(lambda spec, tables: cached(spec, _Identity(tables)))


@cached_engine
def _token_list(spec: None, tables: Tables) -> list[bytes]:
    del spec
    return unpack(tables)
