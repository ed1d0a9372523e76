"""Where SpaceByte opens a global block: at the first byte after a word (https://arxiv.org/abs/2404.14408)."""

from typing import TypeVar

import jax
import numpy as np

from tokjax.text.bytes import BYTES

END_OF_DOCUMENT = BYTES

A = TypeVar("A", np.ndarray, jax.Array)


def _spacelike(byte: int) -> bool:
    """Not an ASCII letter or digit and not a UTF-8 continuation byte; the end of a document counts as a space."""
    alphanumeric = byte < 0x80 and chr(byte).isalnum()
    return not (alphanumeric or 0x80 <= byte < 0xC0)


SPACELIKE = np.array([_spacelike(byte) for byte in range(END_OF_DOCUMENT + 1)])
SPACELIKE.flags.writeable = False


def is_boundary(ids: A) -> A:
    """Returns where a global block starts: a spacelike byte that follows none, or the end of a document.

    Works on numpy and, inside or outside `jit`, on JAX arrays.

    Args:
      ids: int [..., T], bytes and `END_OF_DOCUMENT`.

    Returns:
      bool [..., T]. Causal: position t depends on ids[t - 1] and ids[t] only.
    """
    xp = ids.__array_namespace__()
    spacelike = xp.asarray(SPACELIKE)[ids]
    follows_spacelike = xp.concat([xp.zeros_like(spacelike[..., :1]), spacelike[..., :-1]], axis=-1)
    return (spacelike & ~follows_spacelike) | (ids == END_OF_DOCUMENT)
