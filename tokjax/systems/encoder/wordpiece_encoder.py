"""The encoder that Byte2Word is measured against: subwords in, whole words masked, subwords out (Devlin et al. 2019).

Backbone, rows and masked words are those of `byte2word`; what differs is the input, a table with a vector for every
subword. In BERT a word is hidden behind as many masks as it has subwords, which tells how many there are. With
`one_mask` it is hidden behind one, and predicted as `byte2word` predicts it: then nothing differs but the input, and
that the output table is, as in BERT, the table of the input.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from tokjax.core.registry import Paper, systems
from tokjax.core.types import Params
from tokjax.data.word_rows import RowShape, WordBatch
from tokjax.nn import layers
from tokjax.nn.attention import attention, attention_flops
from tokjax.nn.packing import take_positions
from tokjax.nn.transformer import declare_transformer, transformer, transformer_flops
from tokjax.objectives.masked import MaskedWordSystem, declare_piece_head, head_flops, piece_logits


@systems.register(
    "wordpiece_encoder",
    papers=(
        Paper(
            title="BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding",
            authors="Devlin, Chang, Lee, Toutanova",
            year=2019,
            url="https://arxiv.org/abs/1810.04805",
        ),
    ),
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class WordpieceEncoder(MaskedWordSystem):
    """Masked encoder over subwords with whole words masked.

    Attributes:
      one_mask: a masked word is one mask, from which all its subwords and their end are predicted.
    """

    one_mask: bool = False

    @property
    def _symbols(self) -> int:
        """How many outputs there are; the end of a word shares the row of the mask, which is no output."""
        return self.vocab_size + self.one_mask

    def row_shape(self, length: int) -> RowShape:
        return dataclasses.replace(super().row_shape(length), one_mask=self.one_mask)

    def declare(self) -> Any:
        """Declares the table of pieces and the mask, which is also the output table, the stack and the head."""
        width = self.backbone.width
        return {
            "embedding": layers.declare_embedding(self.vocab_size + 1, width),
            "backbone": declare_transformer(self.backbone),
            "head": declare_piece_head(width, places=self.target_pieces if self.one_mask else None),
        }

    def encode(self, params: Params, batch: WordBatch) -> tuple[jax.Array, jax.Array]:
        """States [B, T, D] of pieces."""
        x = layers.embed(params["embedding"], batch.pieces, self.backbone.dtype)
        attend = functools.partial(
            attention, segment_ids=batch.piece_segment_ids, causal=False, implementation=self.backbone.attention
        )
        positions = jnp.arange(x.shape[1])
        return transformer(self.backbone, params["backbone"], x, positions, attend), batch.piece_segment_ids

    def logits(self, params: Params, batch: WordBatch) -> jax.Array:
        """Logits [B, M, P, V], each from the state of its piece; [B, M, P, V + 1] from one state with `one_mask`."""
        states, _ = self.encode(params, batch)
        B, M, P = batch.targets.shape
        first = jnp.take_along_axis(batch.first_piece, batch.at, axis=1)
        if self.one_mask:
            chosen = take_positions(states, first)
        else:
            place = jnp.minimum(first[..., None] + jnp.arange(P), states.shape[1] - 1)
            chosen = take_positions(states, place.reshape(B, M * P)).reshape(B, M, P, -1)
        return piece_logits(params["head"], chosen, params["embedding"], self._symbols)

    def flops(self, batch_size: int, length: int) -> float:
        """Forward FLOPs of one batch of `length` words per row, all places for pieces counted."""
        spec, shape = self.backbone, self.row_shape(length)
        scores = attention_flops(batch_size, shape.pieces, spec.heads, spec.head_dim)
        total = transformer_flops(spec, batch_size, shape.pieces, scores)
        states = 1 if self.one_mask else shape.targets
        return total + head_flops(shape, batch_size, spec.width, self._symbols, states)
