"""A vocabulary as arrays: the bytes of every id, laid end to end. Shared by the tokenizers that have a token list.

Letters: `T` tokens, `V` vocabulary.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from tokjax.core.cached import cached_engine
from tokjax.core.errors import TokenizerError
from tokjax.core.types import Tables


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


@cached_engine
def _token_list(spec: None, tables: Tables) -> list[bytes]:
    del spec
    return unpack(tables)
