"""Character noise: text as careless typing would have it, at a rate that is chosen.

The unit is a character: one that UTF-8 encodes, or a byte that is part of none. Text that is UTF-8 stays so.
"""

import numpy as np

from tokjax.core.errors import SpecError, nearest
from tokjax.core.spec import check

KINDS = ("swap", "drop", "insert", "case")
MAX_RATE = 0.5  # each swap takes two characters


def corrupt(raw: bytes, rate: float, kind: str, seed: int) -> bytes:
    """Returns `raw` with noise of one kind: about `rate` edits per character, drawn from `seed`.

    Every character is the place of an edit with probability `rate`, independently, but that swaps do not overlap.
    The same arguments give the same bytes, whatever the machine or the version of NumPy.

    Args:
      raw: any bytes.
      rate: edits per character, 0 to `MAX_RATE`; 0 changes nothing.
      kind: 'swap' exchanges a character with the next one (which may be equal to it); 'drop' leaves it out; 'insert'
        puts another before it, drawn from the text itself, so that any script stays what it is; 'case' changes
        upper to lower case and back, where both are single characters, and leaves all else.
      seed: which noise, 0 to 2**64 - 1.

    Raises:
      SpecError: an unknown kind, a rate or seed outside its range.
    """
    if kind not in KINDS:
        raise SpecError(f"kind: got {kind!r}.{nearest(kind, KINDS)}")
    check(0 <= rate <= MAX_RATE, "rate", rate, f"give edits per character, 0 to {MAX_RATE}.")
    check(0 <= seed < 2**64, "seed", seed, "use 0 to 2**64 - 1.")
    characters = _characters(raw)
    if kind == "swap":
        characters = _swap(characters, rate, seed)
    elif kind == "drop":
        characters = characters[_uniform(seed, 0, len(characters)) >= rate]
    elif kind == "insert":
        characters = _insert(characters, rate, seed)
    else:
        characters = _change_case(characters, _uniform(seed, 0, len(characters)) < rate)
    return _bytes(characters)


def _characters(raw: bytes) -> np.ndarray:
    """Code points of `raw`, uint32 [N]; a byte that is not UTF-8 is the lone surrogate that Python escapes it with."""
    return np.frombuffer(raw.decode("utf-8", "surrogateescape").encode("utf-32-le", "surrogatepass"), "<u4")


def _bytes(characters: np.ndarray) -> bytes:
    """The inverse of `_characters`."""
    return characters.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass").encode("utf-8", "surrogateescape")


def _uniform(seed: int, purpose: int, count: int) -> np.ndarray:
    """Returns float64 [count] in [0, 1) from raw Philox bits: their stream is fixed for all NumPy versions."""
    bits = np.random.Philox(key=np.asarray([seed, purpose], np.uint64)).random_raw(count)
    return (bits >> np.uint64(11)) * 2.0**-53


def _swap(characters: np.ndarray, rate: float, seed: int) -> np.ndarray:
    if len(characters) < 2:
        return characters
    # A swap follows none, so a place is drawn with rate / (1 - rate) and then every second one of a run is kept.
    drawn = _uniform(seed, 0, len(characters) - 1) * (1 - rate) < rate
    at = np.arange(len(drawn))
    run_start = np.maximum.accumulate(np.where(drawn, -1, at)) + 1
    first = at[drawn & ((at - run_start) % 2 == 0)]
    swapped = characters.copy()
    swapped[first], swapped[first + 1] = characters[first + 1], characters[first]
    return swapped


def _insert(characters: np.ndarray, rate: float, seed: int) -> np.ndarray:
    before = np.flatnonzero(_uniform(seed, 0, len(characters)) < rate)
    chosen = (_uniform(seed, 1, len(before)) * len(characters)).astype(np.int64)
    return np.insert(characters, before, characters[chosen])


def _change_case(characters: np.ndarray, edited: np.ndarray) -> np.ndarray:
    values, place = np.unique(characters[edited], return_inverse=True)
    swapped = [chr(value).swapcase() for value in values.tolist()]
    other = [ord(new) if len(new) == 1 else value for new, value in zip(swapped, values.tolist(), strict=True)]
    changed = characters.copy()
    changed[edited] = np.asarray(other, np.uint32)[place]
    return changed
