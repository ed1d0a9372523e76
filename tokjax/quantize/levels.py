"""One code for channels that each have a few levels: level numbers times a mixed-radix basis, the first the least.

Letters: `D` width, `L` levels of a channel.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from tokjax.core.spec import check

_LARGEST = 2**31 - 1  # codes that int32 has room for


def check_levels(levels: tuple[int, ...], width: int, name: str) -> None:
    """Raises SpecError unless there are two `levels` or more of each of `width` channels, and not too many of all."""
    check(len(levels) == width, "levels", levels, f"give one number of levels per channel; the width is {width}.")
    check(all(type(L) is int and L >= 2 for L in levels), "levels", levels, "use whole numbers from 2 on.")
    fix = f"codes are int32; use fewer levels or channels, or `grouped:groups=2/{name}:...`."
    check(math.prod(levels) <= _LARGEST, "levels", levels, fix)


def _basis(levels: tuple[int, ...]) -> np.ndarray:
    return np.cumprod([1, *levels[:-1]]).astype(np.int32)


def join(numbers: jax.Array, levels: tuple[int, ...]) -> jax.Array:
    """Returns the codes int32 [...] of level numbers int32 [..., D]."""
    return jnp.sum(numbers * _basis(levels), axis=-1)


def split(codes: jax.Array, levels: tuple[int, ...]) -> jax.Array:
    """Returns the level numbers int32 [..., D] of `codes` int32 [...]; the inverse of `join`."""
    return codes[..., None] // _basis(levels) % np.asarray(levels)
