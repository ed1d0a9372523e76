"""Nested dropout: how many of the first codes a decoder is given in training, so that they come to matter most.

After Rippel et al. 2014 (arXiv 1402.0915).
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from tokjax.core.spec import check

Lengths = Literal["uniform", "pow2", "uniform_pow2", "none"]
LENGTHS: tuple[Lengths, ...] = get_args(Lengths)


def draw_lengths(key: jax.Array, count: int, tokens: int, mode: Lengths) -> jax.Array:
    """Returns how many of `tokens` codes stay for each of `count` images, int32 [count] from 1 to `tokens`.

    Args:
      key: of the draws.
      count: images.
      tokens: codes of an image.
      mode: `uniform`; `pow2`, any power of two, or all, alike; `uniform_pow2`, uniform and then rounded up to these;
        `none`, always all.

    Raises:
      SpecError: another mode.
    """
    check(mode in LENGTHS, "dropout", mode, f"use one of {', '.join(LENGTHS)}.")
    if mode == "none":
        return jnp.full(count, tokens, jnp.int32)
    powers = jnp.asarray([*2 ** np.arange((tokens - 1).bit_length()), tokens], jnp.int32)
    if mode == "pow2":
        return jax.random.choice(key, powers, (count,))
    uniform = jax.random.randint(key, (count,), 1, tokens + 1)
    return uniform if mode == "uniform" else powers[jnp.searchsorted(powers, uniform)]
