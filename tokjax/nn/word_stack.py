"""A transformer stack whose positions attend within their word: what turns units into words and words into units.

Words stand packed in a row, one after another. Either they stay where they are, and blocks attend to their neighbours
too; or rows are laid out anew, so that no word straddles a block of 128 slots and a kernel can take one block at a time
(`kernels.word_attention`). The first is faster on a CPU, where small blocks waste little; both give the same.

Letters: `B` batch, `T` positions, `D` width.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from tokjax.core import platform
from tokjax.core.errors import SpecError
from tokjax.kernels.word_attention.api import word_attention
from tokjax.kernels.word_attention.reference import BLOCK
from tokjax.nn.attention import local_attention
from tokjax.nn.packing import align_words, aligned_slots, take_positions
from tokjax.nn.transformer import TransformerSpec, transformer, transformer_flops, window_cost
from tokjax.sharding import devices_along


def word_stack(
    spec: TransformerSpec,
    params: Any,
    x: jax.Array,
    positions: jax.Array,
    word: jax.Array,
    *,
    longest: int,
    block: int,
    causal: bool,
) -> tuple[jax.Array, jax.Array]:
    """Runs a stack over rows of words.

    Args:
      spec: its shape. `attention` is `neighbours`, or an implementation of `kernels.word_attention`, for which rows are
        laid out anew; None chooses by platform and length.
      params: arrays as declared by `declare_transformer`.
      x: [B, T, D] embedded input.
      positions: int32 [B, T] or [T].
      word: int32 [B, T], the word of each position; equal ids stand together. 0 is padding.
      longest: positions of a word at most.
      block: positions of a block where rows stay as they are, at least `longest`.
      causal: whether a position sees only itself and what comes before in its word.

    Returns:
      ([B, T, D] after the final norm, bool [B, T] whether a position had room). Where words leave too many slots empty,
      the last positions of a row have none and are zeros; whether one has depends on what stands before it only.

    Raises:
      SpecError: words too long for the implementation that was asked for.
    """
    if not _aligns(spec, x.shape[1], longest):
        attend = functools.partial(local_attention, segment_ids=word, block=block, causal=causal)
        return transformer(spec, params, x, positions, attend), jnp.ones(x.shape[:2], bool)
    layout = align_words(word, longest=longest, block=BLOCK, parts=devices_along("length"))
    attend = functools.partial(
        word_attention,
        query_ids=take_positions(word, layout.position) * layout.filled,
        causal=causal,
        implementation=spec.attention,
    )
    positions = positions[layout.position] if positions.ndim == 1 else take_positions(positions, layout.position)
    out = transformer(spec, params, take_positions(x, layout.position), positions, attend)
    return take_positions(out, layout.slot) * layout.fits[..., None], layout.fits


def word_stack_flops(
    spec: TransformerSpec, batch_size: int, length: int, *, longest: int, block: int, causal: bool
) -> float:
    """Forward FLOPs of `word_stack` on rows that no devices split: all slots, filled or not."""
    neighbours = 2 if causal else 3
    if _aligns(spec, length, longest):
        length, block, neighbours = aligned_slots(length, longest, BLOCK), BLOCK, 1
    return transformer_flops(spec, batch_size, length, window_cost(spec, batch_size, length, block, neighbours))


def _aligns(spec: TransformerSpec, length: int, longest: int) -> bool:
    """Returns whether rows are laid out anew."""
    if spec.attention == "neighbours":
        return False
    if spec.attention is None:
        return platform.target() != "cpu" and length > BLOCK and longest <= BLOCK
    if longest > BLOCK:
        raise SpecError(
            f"attention: {spec.attention!r} takes words of at most {BLOCK} positions, these have up to {longest}; "
            "use 'neighbours', or None to choose."
        )
    return True
