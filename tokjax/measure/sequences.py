"""Token streams as measurements take them: checked once, in sequences that no n-gram crosses.

Letters: `T` tokens of one sequence, `V` vocabulary.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from tokjax.core.errors import SourceError, TokenizerError
from tokjax.core.spec import check

Tokens = ArrayLike | Sequence[ArrayLike]


def sequences(tokens: Tokens, vocab_size: int | None = None) -> list[np.ndarray]:
    """Returns the sequences that have tokens, int64 [T] each.

    Args:
      tokens: int [T], one sequence; int [..., T], one in each row; or a list of int [T] of any lengths.
      vocab_size: V, where ids must be below it.

    Raises:
      SourceError: there is no token.
      TokenizerError: ids that are not integers, negative, or not below V.
    """
    if isinstance(tokens, (list, tuple)) and not all(np.ndim(part) == 0 for part in tokens):
        rows = [np.asarray(part) for part in tokens]
        if any(row.ndim != 1 for row in rows):
            raise TokenizerError("A list of token sequences holds one that is not flat; pass an array of ids for each.")
    else:
        array = np.atleast_1d(np.asarray(tokens))
        rows = list(array.reshape(-1, array.shape[-1])) if array.size else []
    rows = [row for row in rows if row.size]
    if not rows:
        raise SourceError("The token stream is empty; encode at least one document or image first.")
    for row in rows:
        _check_ids(row, vocab_size)
    return [row.astype(np.int64) for row in rows]


def flat(tokens: Tokens, vocab_size: int | None = None) -> np.ndarray:
    """Returns all tokens in order, int64 [T]; arguments and errors as of `sequences`."""
    return np.concatenate(sequences(tokens, vocab_size))


def type_counts(tokens: Tokens, vocab_size: int | None = None) -> np.ndarray:
    """Returns how often each id that occurs does, int64, the most frequent first."""
    return np.sort(np.unique(flat(tokens, vocab_size), return_counts=True)[1])[::-1]


def checked_counts(counts: ArrayLike) -> np.ndarray:
    """Returns numbers of occurrences as int64 [N].

    Raises:
      SourceError: there are none.
      TokenizerError: one that is not a positive integer.
    """
    array = np.asarray(counts).ravel()
    if not array.size:
        raise SourceError("There are no counts; count a token stream with at least one token.")
    if array.dtype.kind not in "iu" or array.min() < 1:
        raise TokenizerError("Counts must be integers of at least 1; leave out types that do not occur.")
    return array.astype(np.int64)


def shuffled(tokens: Tokens, seed: int) -> list[np.ndarray]:
    """Returns the same tokens in a random order, in sequences of the same lengths: what is left without order."""
    rows = sequences(tokens)
    mixed = np.random.default_rng(seed).permutation(np.concatenate(rows))
    return np.split(mixed, np.cumsum([len(row) for row in rows])[:-1])


def held_out(tokens: Tokens, share: float) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Returns (first, last): the last sequences that make up `share` of all, or of one sequence its last tokens.

    Raises:
      SpecError: `share` leaves one side empty.
    """
    rows = sequences(tokens)
    if len(rows) == 1:
        cut = round((1 - share) * len(rows[0]))
        first, last = [rows[0][:cut]], [rows[0][cut:]]
    else:
        cut = round((1 - share) * len(rows))
        first, last = rows[:cut], rows[cut:]
    enough = sum(map(len, first)) > 0 and sum(map(len, last)) > 0
    check(enough, "share", share, "use one that leaves tokens on both sides, or more tokens.")
    return first, last


def _check_ids(ids: np.ndarray, vocab_size: int | None) -> None:
    if ids.dtype.kind not in "iu":
        raise TokenizerError(f"Token ids are {ids.dtype}; pass integers, as a tokenizer's encode gives.")
    if ids.min() < 0:
        raise TokenizerError(f"Token id {ids.min()} is negative; leave padding out and pass ids from 0.")
    if vocab_size is not None and ids.max() >= vocab_size:
        raise TokenizerError(f"Token id {ids.max()} is not below the vocabulary of {vocab_size}; pass its full size.")
