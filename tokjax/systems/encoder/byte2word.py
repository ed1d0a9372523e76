"""Byte2Word: a bidirectional encoder over words, each read from its bytes (Lee et al. 2022, arXiv 2211.12677).

Learned queries attend to the bytes of a word and give its vector; no vocabulary of words or subwords is read. What is
predicted of a masked word are its subwords, from the one state of the word, so that no softmax over words is needed.
The paper's abstract leaves sizes and the order of prediction open: here all places of a word are predicted at once, by
a learned vector for each.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from tokjax.core.registry import systems
from tokjax.core.spec import check
from tokjax.core.types import Params
from tokjax.data.word_rows import SYMBOLS, WordBatch
from tokjax.embed import Embedding, embedding
from tokjax.embed.base import evaluation_key
from tokjax.embed.pooled_bytes import LEE, PAD
from tokjax.nn.attention import attention, attention_flops
from tokjax.nn.packing import take_positions
from tokjax.nn.transformer import declare_transformer, transformer, transformer_flops
from tokjax.objectives.masked import MaskedWordSystem, declare_piece_head, head_flops, piece_logits


@systems.register("byte2word", papers=(LEE,))
@dataclasses.dataclass(frozen=True, kw_only=True)
class Byte2Word(MaskedWordSystem):
    """Masked encoder over words that reads bytes and predicts subwords.

    Attributes:
      embedding: how bytes become the vector of a word, as in `pooled_bytes:kind=mean`; see `tokjax.embed`.
    """

    embedding: str = "pooled_bytes"

    def __post_init__(self):
        super().__post_init__()
        cap = self.embedder.cap
        check(cap > 0, "embedding", self.embedding, "it reads ids, and this model reads words: use 'pooled_bytes'.")
        fix = f"{self.embedding} reads words of up to {cap} bytes: make its cap and that of the system the same."
        check(cap == self.cap, "cap", self.cap, fix)

    @functools.cached_property
    def embedder(self) -> Embedding:
        """The embedding that `embedding` names."""
        return embedding(self.embedding, vocab_size=SYMBOLS, width=self.backbone.width)

    def declare(self) -> Any:
        """Declares the embedding, the stack, and a head with an output table of its own and an end of word."""
        width = self.backbone.width
        return {
            "embedding": self.embedder.declare(),
            "backbone": declare_transformer(self.backbone),
            "head": declare_piece_head(width, symbols=self.vocab_size + 1, places=self.target_pieces),
        }

    def embed(self, params: Params, batch: WordBatch) -> jax.Array:
        """Vectors [B, W, D] that the stack reads."""
        inside = jnp.arange(batch.word_bytes.shape[-1]) < batch.lengths[..., None]
        ids = jnp.where(inside, batch.word_bytes, PAD)
        return self.embedder.vectors(params["embedding"], ids, batch.segment_ids, evaluation_key(0))

    def encode(self, params: Params, batch: WordBatch) -> tuple[jax.Array, jax.Array]:
        """States [B, W, D] of words."""
        x = self.embed(params, batch)
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
        spec = self.backbone
        scores = attention_flops(batch_size, length, spec.heads, spec.head_dim)
        total = self.embedder.flops(batch_size * length) + transformer_flops(spec, batch_size, length, scores)
        return total + head_flops(self.row_shape(length), batch_size, spec.width, self.vocab_size + 1, states=1)
