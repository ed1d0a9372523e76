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
from tokjax.core.types import Aux, Batch, Params, Scores
from tokjax.embed import Embedding, embedding
from tokjax.embed.base import evaluation_key
from tokjax.embed.lexinvariant import HUANG
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
from tokjax.objectives.chunked import score_in_chunks
from tokjax.objectives.language import LanguageSystem, mean_loss, score_logits


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

    Where vectors are drawn, not learned, training draws them anew for every row and step; logits and generation take
    evaluation draw 0, and scores are the mean over `draws` of them.

    Attributes:
      vocab_size: V, the tokenizer's ids and the end of document.
      backbone: shape of the stack.
      tied: the output matrix is that of the embedding.
      embedding: how ids become vectors, as in `table` or `mixture:p=0.2`; see `tokjax.embed`.
      draws: evaluation draws that scores are averaged over.
      readout_chunk: most ids that are scored at once, to bound memory; 0 is all.
    """

    vocab_size: int
    backbone: TransformerSpec
    tied: bool = True
    embedding: str = "table"
    draws: int = 1
    readout_chunk: int = 0

    def __post_init__(self):
        check(self.vocab_size >= 2, "vocab_size", self.vocab_size, "a model needs at least two symbols.")
        check(self.draws >= 1, "draws", self.draws, "use at least 1.")
        check(self.readout_chunk >= 0, "readout_chunk", self.readout_chunk, "use 0 for no chunks, or more.")
        fix = "it reads words of bytes, and this model reads ids: use 'table' or the like, or the system byte2word."
        check(not self.embedder.cap, "embedding", self.embedding, fix)
        fix = "drawn vectors must be tied: an output matrix would know the ids."
        check(self.tied or not self.embedder.drawn, "tied", self.tied, fix)

    @functools.cached_property
    def embedder(self) -> Embedding:
        """The embedding that `embedding` names."""
        return embedding(self.embedding, vocab_size=self.vocab_size, width=self.backbone.width)

    def declare(self) -> Any:
        """Declares the embedding, the stack and, when untied, the output matrix."""
        tree = {"embedding": self.embedder.declare(), "backbone": declare_transformer(self.backbone)}
        if not self.tied:
            tree["output"] = layers.declare_embedding(self.vocab_size, self.backbone.width)
        return tree

    def _readout(self, params: Params, hidden: jax.Array, key: jax.Array) -> jax.Array:
        if self.tied:
            return self.embedder.logits(params["embedding"], hidden, key)
        return layers.readout(params["output"], hidden, self.vocab_size)

    def hidden(self, params: Params, batch: Batch, key: jax.Array) -> jax.Array:
        """Returns what the stack makes of each position, [B, T, D].

        Args:
          params: arrays as declared.
          batch: the rows.
          key: of drawn vectors, one or [B]; others do not read it.
        """
        x = self.embedder.vectors(params["embedding"], batch.ids, batch.segment_ids, key)
        attend = functools.partial(
            attention, segment_ids=batch.segment_ids, causal=True, implementation=self.backbone.attention
        )
        return transformer(self.backbone, params["backbone"], x, batch.positions, attend)

    def logits(self, params: Params, batch: Batch) -> tuple[jax.Array, float]:
        """Logits [B, T, V] of each target; nothing can overflow."""
        key = evaluation_key(0)
        return self._readout(params, self.hidden(params, batch, key), key), 0.0

    def score(self, params: Params, batch: Batch) -> Scores:
        """As `LanguageSystem.score`, the mean over `draws`; a target is correct where it is in most of them."""
        drawn = [self.score_draw(params, batch, evaluation_key(draw)) for draw in range(self._draws)]
        if len(drawn) == 1:
            return drawn[0]
        mean = jax.tree.map(lambda *values: sum(values) / len(values), *drawn)
        return mean.replace(correct=(mean.correct > 0.5).astype(jnp.float32))

    @property
    def _draws(self) -> int:
        return self.draws if self.embedder.drawn else 1

    def score_draw(self, params: Params, batch: Batch, key: jax.Array) -> Scores:
        """Scores of every target under the vectors of `key`, one or [B]."""
        return self._score_states(params, self.hidden(params, batch, key), batch, key)

    def _score_states(self, params: Params, hidden: jax.Array, batch: Batch, key: jax.Array) -> Scores:
        if not self.tied:
            return self._score_table(params["output"], hidden, batch)
        if not self._chunked:
            return score_logits(self._readout(params, hidden, key), batch)
        rows = functools.partial(self.embedder.rows, params["embedding"], key=key)
        return score_in_chunks(hidden, batch, rows, self.vocab_size, self.readout_chunk)

    def _score_table(self, table: jax.Array, hidden: jax.Array, batch: Batch) -> Scores:
        """Scores of every target under the first V rows of a learned table."""
        if not self._chunked:
            return score_logits(layers.readout(table, hidden, self.vocab_size), batch)
        return score_in_chunks(hidden, batch, table.__getitem__, self.vocab_size, self.readout_chunk)

    @property
    def _chunked(self) -> bool:
        return 0 < self.readout_chunk < self.vocab_size

    def loss(self, params: Params, state: Params, batch: Batch, key: jax.Array) -> tuple[jax.Array, tuple[Params, Aux]]:
        """Mean negative log likelihood per target, in nats, under new vectors for every row where they are drawn."""
        if self.embedder.drawn:
            key = jax.random.split(key, len(batch.ids))
        return mean_loss(self.score_draw(params, batch, key), state, batch)

    def init_decode(self, params: Params, batch_size: int, slots: int) -> Any:
        """An empty key-value cache, and the ids that the next vector may depend on."""
        del params
        return {
            "cache": init_cache(self.backbone, batch_size, slots),
            "positions": jnp.zeros(batch_size, jnp.int32),
            "recent": jnp.zeros((batch_size, self.embedder.context), jnp.int32),
        }

    def decode(self, params: Params, state: Any, ids: jax.Array) -> tuple[jax.Array, Any]:
        """Feeds one symbol per row, int32 [B], through the cache."""
        key, positions = evaluation_key(0), state["positions"]
        recent = jnp.concatenate([state["recent"], ids[:, None]], axis=1)
        # Slots before the first symbol are another document's.
        inside = positions[:, None] >= jnp.arange(recent.shape[1] - 1, -1, -1)
        x = self.embedder.vectors(params["embedding"], recent, inside.astype(jnp.int32), key)[:, -1:]
        hidden, cache = transformer_step(self.backbone, params["backbone"], x, positions, state["cache"])
        return self._readout(params, hidden, key)[:, 0], {
            "cache": cache,
            "positions": positions + 1,
            "recent": recent[:, 1:],
        }

    def flops(self, batch_size: int, length: int) -> float:
        """Forward FLOPs of one [batch_size, length] batch."""
        spec, tokens = self.backbone, batch_size * length
        ends = self.embedder.flops(tokens) + 2.0 * tokens * self.vocab_size * spec.width
        return transformer_flops(spec, batch_size, length, attention_cost(spec, batch_size, length)) + ends


@systems.register("lexinvariant", papers=(HUANG,))
@dataclasses.dataclass(frozen=True, kw_only=True)
class Lexinvariant(Lm):
    """Decoder-only transformer that reads every sequence in an alphabet it has never seen.

    Attributes:
      naming: weight of a second loss, which is ours: the cross entropy of naming each symbol that is read, linearly
        from its state. What is read and what is predicted stay without names; but the states then learn what symbols
        are from who knows it, and not from prediction alone. The names' matrix, [V, D], plays no part in scores, and
        `flops`, which are those of scores, do not count it.
    """

    embedding: str = "lexinvariant"
    draws: int = 2
    readout_chunk: int = 4096
    naming: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        check(self.embedder.drawn, "embedding", self.embedding, "use 'lexinvariant' or a mixture with p above 0.")
        check(self.naming >= 0, "naming", self.naming, "use 0 for a model that is told no names, or a weight above.")

    def declare(self) -> Any:
        names = {"names": layers.declare_embedding(self.vocab_size, self.backbone.width)} if self.naming else {}
        return {**super().declare(), **names}

    def loss(self, params: Params, state: Params, batch: Batch, key: jax.Array) -> tuple[jax.Array, tuple[Params, Aux]]:
        """As `Lm.loss`, and `naming` times the cross entropy of the names of what is read, in nats per position."""
        if not self.naming:
            return super().loss(params, state, batch, key)
        keys = jax.random.split(key, len(batch.ids))
        hidden = self.hidden(params, batch, keys)
        loss, (state, aux) = mean_loss(self._score_states(params, hidden, batch, keys), state, batch)
        read = (batch.segment_ids > 0).astype(jnp.float32)
        asked = dataclasses.replace(batch, targets=batch.ids, loss_mask=read)
        named = self._score_table(params["names"], hidden, asked)
        total, count = jnp.sum(named.nll), jnp.sum(read)
        loss += self.naming * total / jnp.maximum(count, 1.0)
        return loss, (state, {**aux, "naming": (total, count), "named": (jnp.sum(named.correct), count)})
