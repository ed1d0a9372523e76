"""Byte2Word: a bidirectional encoder over words, each read from its bytes (Lee et al. 2022, arXiv 2211.12677).

Learned queries attend to the bytes of a word and give its vector; no vocabulary of words or subwords is read. What is
predicted of a masked word are its subwords, from the one state of the word, so that no softmax over words is needed.
The paper's abstract leaves sizes and the order of prediction open: here all places of a word are predicted at once, by
a learned vector for each.
"""

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp

from tokjax.core.registry import Paper, systems
from tokjax.core.spec import check
from tokjax.core.types import Params
from tokjax.data.word_rows import SYMBOLS, WordBatch
from tokjax.embed.pooled_bytes import declare_pooled_bytes, pooled_bytes, pooled_bytes_flops
from tokjax.nn.attention import attention, attention_flops
from tokjax.nn.packing import take_positions
from tokjax.nn.transformer import declare_transformer, transformer, transformer_flops
from tokjax.objectives.masked import MaskedWordSystem, declare_piece_head, head_flops, piece_logits


@systems.register(
    "byte2word",
    papers=(
        Paper(
            title="Word-Level Representation From Bytes For Language Modeling",
            authors="Lee, Guo, Qiu",
            year=2022,
            url="https://arxiv.org/abs/2211.12677",
        ),
    ),
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class Byte2Word(MaskedWordSystem):
    """Masked encoder over words that reads bytes and predicts subwords.

    Attributes:
      byte_width: channels of a byte.
      queries: vectors that read each word.
      pooling: how bytes become a word, as of `embed.pooled_bytes`.
    """

    byte_width: int = 64
    queries: int = 8
    pooling: Literal["latent_query", "attention", "mean"] = "latent_query"

    def __post_init__(self):
        super().__post_init__()
        check(self.byte_width >= 1, "byte_width", self.byte_width, "must be at least 1.")
        check(self.queries >= 1, "queries", self.queries, "must be at least 1.")

    @property
    def _embedding(self) -> dict[str, Any]:
        sizes = {"byte_width": self.byte_width, "cap": self.cap, "width": self.backbone.width}
        return {**sizes, "queries": self.queries, "kind": self.pooling}

    def declare(self) -> Any:
        """Declares the byte embedding, the stack, and a head with an output table of its own and an end of word."""
        width = self.backbone.width
        return {
            "embedding": declare_pooled_bytes(symbols=SYMBOLS, **self._embedding),
            "backbone": declare_transformer(self.backbone),
            "head": declare_piece_head(width, symbols=self.vocab_size + 1, places=self.target_pieces),
        }

    def encode(self, params: Params, batch: WordBatch) -> tuple[jax.Array, jax.Array]:
        """States [B, W, D] of words."""
        x = pooled_bytes(params["embedding"], batch.word_bytes, batch.lengths, self.pooling, self.backbone.dtype)
        attend = functools.partial(
            attention, segment_ids=batch.segment_ids, causal=False, implementation=self.backbone.attention
        )
        positions = jnp.arange(x.shape[1])
        return transformer(self.backbone, params["backbone"], x, positions, attend), batch.segment_ids

    def logits(self, params: Params, batch: WordBatch) -> jax.Array:
        """Logits [B, M, P, V + 1]; the last symbol ends the word."""
        states, _ = self.encode(params, batch)
        head = params["head"]
        return piece_logits(head, take_positions(states, batch.at), head["table"], self.vocab_size + 1)

    def flops(self, batch_size: int, length: int) -> float:
        """Forward FLOPs of one batch of `length` words per row."""
        spec, words = self.backbone, batch_size * length
        scores = attention_flops(batch_size, length, spec.heads, spec.head_dim)
        total = pooled_bytes_flops(words, **self._embedding) + transformer_flops(spec, batch_size, length, scores)
        return total + head_flops(self.row_shape(length), batch_size, spec.width, self.vocab_size + 1, states=1)
