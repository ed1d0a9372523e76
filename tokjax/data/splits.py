"""What sources of every kind share: records told apart by a digest of their content, and splits drawn by it."""

import hashlib
from collections.abc import Collection

import numpy as np

from tokjax.core.errors import SourceError

# Share of the hash space that each split takes; the names are in order along it.
SPLITS = {"train": 0.90, "valid": 0.05, "test": 0.05}

DIGEST_BYTES = 16


def digest(content: bytes) -> bytes:
    """Returns the BLAKE2b digest of `content`, 16 bytes."""
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()


def first_of_each(digests: np.ndarray) -> np.ndarray:
    """Returns where each distinct digest of uint8 [N, 16] stands first, ascending: int64 [distinct]."""
    halves = np.ascontiguousarray(digests).view(np.uint64)
    order = np.lexsort((halves[:, 1], halves[:, 0]))  # stable: the first of equal ones stays first
    new = np.ones(len(order), bool)
    new[1:] = (halves[order[1:]] != halves[order[:-1]]).any(axis=1)
    return np.sort(order[new])


def split_numbers(digests: np.ndarray, among: Collection[str] = tuple(SPLITS)) -> np.ndarray:
    """Returns the position in `SPLITS` of each digest: int64 [N].

    Args:
      digests: uint8 [N, 16]; the first 8 bytes as a fraction of 2**64 decide.
      among: the splits to draw from, in proportion to their shares.
    """
    fraction = digests[:, :8].copy().view(">u8")[:, 0].astype(np.float64) / 2.0**64
    numbers = [number for number, name in enumerate(SPLITS) if name in among]
    ends = np.cumsum([share for name, share in SPLITS.items() if name in among])
    return np.asarray(numbers)[np.searchsorted(ends[:-1] / ends[-1], fraction, side="right")]


def fingerprint(*arrays: np.ndarray) -> str:
    """Returns the SHA-256 over the bytes of the arrays in order, 16 hex digits."""
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()[:16]


def empty_split(name: str, opened: int, noun: str, advice: str) -> SourceError:
    """Returns the error of reading a split that drew nothing from a source of `opened` records, each a `noun`."""
    return SourceError(
        f"{name} is empty: splits are drawn by content hash, and the source has only "
        f"{opened} {noun}{'s' * (opened != 1)}. {advice}, so that each split gets some."
    )
