"""A decoder-only transformer language model over any tokenizer.

RMS norm, rotary positions, gated MLP and grouped-query attention (Vaswani et al. 2017; Zhang & Sennrich 2019;
Su et al. 2021; Shazeer 2020; Ainslie et al. 2023): the reference every other system is compared with.
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
from tokjax.nn.attention import attention
from tokjax.nn.transformer import (
    TransformerSpec,
    attention_cost,
    declare_transformer,
    init_cache,
    transformer,
    transformer_flops,
    transformer_step,
)
from tokjax.objectives.language import LanguageSystem


@systems.register(
    "lm",
    papers=(
        Paper(
            title="Attention Is All You Need",
            authors="Vaswani et al.",
            year=2017,
            url="https://arxiv.org/abs/1706.03762",
        ),
    ),
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class Lm(LanguageSystem):
    """Decoder-only transformer over any tokenizer.

    Attributes:
      vocab_size: V, the tokenizer's ids and the end of document.
      backbone: shape of the stack.
      tied: the output matrix is the embedding table.
    """

    vocab_size: int
    backbone: TransformerSpec
    tied: bool = True

    def __post_init__(self):
        check(self.vocab_size >= 2, "vocab_size", self.vocab_size, "a model needs at least two symbols.")

    def declare(self) -> Any:
        """Declares the embedding, the stack and, when untied, the output matrix."""
        width = self.backbone.width
        tree = {
            "embedding": layers.declare_embedding(self.vocab_size, width),
            "backbone": declare_transformer(self.backbone),
        }
        if not self.tied:
            tree["output"] = layers.declare_embedding(self.vocab_size, width)
        return tree

    def _readout(self, params: Params, hidden: jax.Array) -> jax.Array:
        return layers.readout(params["embedding" if self.tied else "output"], hidden, self.vocab_size)

    def logits(self, params: Params, batch: Batch) -> tuple[jax.Array, float]:
        """Logits [B, T, V] of each target; nothing can overflow."""
        x = layers.embed(params["embedding"], batch.ids, self.backbone.dtype)
        attend = functools.partial(
            attention, segment_ids=batch.segment_ids, causal=True, implementation=self.backbone.attention
        )
        return self._readout(params, transformer(self.backbone, params["backbone"], x, batch.positions, attend)), 0.0

    def init_decode(self, params: Params, batch_size: int, slots: int) -> Any:
        """An empty key-value cache."""
        del params
        return {
            "cache": init_cache(self.backbone, batch_size, slots),
            "positions": jnp.zeros(batch_size, jnp.int32),
        }

    def decode(self, params: Params, state: Any, ids: jax.Array) -> tuple[jax.Array, Any]:
        """Feeds one symbol per row, int32 [B], through the cache."""
        x = layers.embed(params["embedding"], ids[:, None], self.backbone.dtype)
        hidden, cache = transformer_step(self.backbone, params["backbone"], x, state["positions"], state["cache"])
        return self._readout(params, hidden)[:, 0], {"cache": cache, "positions": state["positions"] + 1}

    def flops(self, batch_size: int, length: int) -> float:
        """Forward FLOPs of one [batch_size, length] batch."""
        spec = self.backbone
        readout = 2.0 * batch_size * length * self.vocab_size * spec.width
        return transformer_flops(spec, batch_size, length, attention_cost(spec, batch_size, length)) + readout
