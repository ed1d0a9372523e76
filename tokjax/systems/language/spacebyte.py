"""SpaceByte: a byte transformer with extra blocks after space-like bytes (Slagle, NeurIPS 2024, arXiv 2404.14408).

Local blocks with sliding-window attention run over all bytes, half of them before and half after a stack of wider
global blocks that runs only where a word starts: at a space-like byte not preceded by one, and at a document's start.

Letters: `B` batch, `T` bytes, `W` global positions, `D` width.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from tokjax.core.registry import Paper, systems
from tokjax.core.spec import check
from tokjax.core.types import Batch, Params
from tokjax.nn import layers
from tokjax.nn.attention import attention, sliding_window_attention
from tokjax.nn.packing import first_marked, take_positions
from tokjax.nn.transformer import (
    TransformerSpec,
    attention_cost,
    declare_transformer,
    transformer,
    transformer_flops,
    window_cost,
)
from tokjax.objectives.language import LanguageSystem
from tokjax.sharding import constrain
from tokjax.text.spacebyte import is_boundary

VOCAB_SIZE = 257  # bytes and the end of document


@systems.register(
    "spacebyte",
    papers=(
        Paper(
            title="SpaceByte: Towards Deleting Tokenization from Large Language Modeling",
            authors="Slagle",
            year=2024,
            url="https://arxiv.org/abs/2404.14408",
        ),
    ),
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class SpaceByte(LanguageSystem):
    """Byte transformer with global blocks at word starts.

    Departures from the paper: positions are rotary in every stack, and each stack ends in its norm.

    Attributes:
      backbone: the global stack, at word starts.
      before: local stack ahead of it.
      after: local stack behind it; same width as `before`.
      window: bytes that local attention sees; the paper uses the local width.
      bytes_per_word: a row of T bytes holds at most T / bytes_per_word global positions; the paper uses 6, 8 for code.
        Word starts past the cap stay purely local and are counted as overflow.
      vocab_size: 256 bytes and the end of document.
    """

    tokenizer = "bytes"

    backbone: TransformerSpec
    before: TransformerSpec
    after: TransformerSpec
    window: int = 64
    bytes_per_word: float = 4.0
    vocab_size: int = VOCAB_SIZE

    def __post_init__(self):
        check(self.vocab_size == VOCAB_SIZE, "vocab_size", self.vocab_size, f"spacebyte reads {VOCAB_SIZE} symbols.")
        check(self.before.width == self.after.width, "after.width", self.after.width, "must equal before.width.")
        check(
            self.before.width <= self.backbone.width, "before.width", self.before.width,
            f"must not exceed backbone.width {self.backbone.width}.",
        )  # fmt: skip
        check(self.window >= 1, "window", self.window, "must be at least 1 byte.")
        check(self.bytes_per_word >= 1, "bytes_per_word", self.bytes_per_word, "a word has a byte at least.")

    def max_words(self, length: int) -> int:
        """W, the global positions of a row of `length` bytes."""
        return max(1, min(length, round(length / self.bytes_per_word)))

    def declare(self) -> Any:
        """Declares the byte embedding (tied to the readout) and three stacks."""
        return {
            "embedding": layers.declare_embedding(self.vocab_size, self.before.width),
            "before": declare_transformer(self.before),
            "backbone": declare_transformer(self.backbone),
            "after": declare_transformer(self.after),
        }

    def logits(self, params: Params, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """Logits [B, T, V] of each target, and how many targets follow a word start that had no slot."""
        T = batch.ids.shape[1]
        W = self.max_words(T)
        boundary = is_boundary(batch.ids) & (batch.segment_ids > 0)
        count = jnp.cumsum(boundary, axis=1, dtype=jnp.int32)

        x = layers.embed(params["embedding"], batch.ids, self.before.dtype)
        x = self._local(self.before, params["before"], x, batch)

        at, filled = first_marked(boundary, W)
        widen = self.backbone.width - self.before.width
        words = jnp.pad(take_positions(x, at), ((0, 0), (0, 0), (0, widen)))
        segments = take_positions(batch.segment_ids, at) * filled
        attend = functools.partial(attention, segment_ids=segments, causal=True, implementation=self.backbone.attention)
        words = transformer(self.backbone, params["backbone"], words, take_positions(batch.positions, at), attend)
        update = words[..., widen:].astype(x.dtype) * filled[..., None]
        # Left to itself, XLA adds wrongly where devices split positions as well as channels.
        x, update = (constrain(each, "batch", None, None) for each in (x, update))
        x = x.at[jnp.arange(x.shape[0])[:, None], at].add(update)

        x = self._local(self.after, params["after"], x, batch)
        return layers.readout(params["embedding"], x, self.vocab_size), jnp.sum((count > W) * batch.loss_mask)

    def _local(self, spec: TransformerSpec, params: Params, x: jax.Array, batch: Batch) -> jax.Array:
        attend = functools.partial(sliding_window_attention, segment_ids=batch.segment_ids, window=self.window)
        return transformer(spec, params, x, batch.positions, attend)

    def flops(self, batch_size: int, length: int) -> float:
        """Forward FLOPs of one [batch_size, length] batch: all slots, filled or not."""
        W = self.max_words(length)
        total = transformer_flops(self.backbone, batch_size, W, attention_cost(self.backbone, batch_size, W))
        for spec in (self.before, self.after):
            total += transformer_flops(spec, batch_size, length, window_cost(spec, batch_size, length, self.window, 2))
        return total + 2.0 * batch_size * length * self.vocab_size * self.before.width
