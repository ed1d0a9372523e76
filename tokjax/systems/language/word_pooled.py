"""Learn Your Tokens: words pooled into a few learned prefix tokens (Thawani et al., EMNLP 2023, arXiv 2310.11628).

P learned prefix tokens join the units of each word in a small bidirectional encoder, and only their outputs are kept.
A causal backbone runs over them, P positions a word, one by one. The P outputs of a word stand before the units of the
next in a small causal decoder, so that all words are decoded in parallel and the units of each one after another. The
end of a word is a target like any other.

Words are never unpacked. The mark that ends a word is widened to P slots of the packed stream, which the encoder reads
as that word's prefix tokens and the decoder as what stands before the next word; both attend locally to a word. Only
the number of widened marks has a cap (`max_words`): words past it are still predicted, from the last word that has
slots, and counted as overflow.

Not as published: rotary positions rather than learned ones; a linear map each way between the widths of units and
words; padding is in neither attention nor loss, and words longer than the cap are cut, not truncated.

Letters: `B` batch, `T` symbols of the stream, `S` slots, `W` words, `P` prefix tokens, `D` width.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from tokjax.core.registry import systems
from tokjax.core.spec import check
from tokjax.core.types import Batch, Params
from tokjax.nn import layers
from tokjax.nn.attention import attention
from tokjax.nn.packing import first_marked, take_positions, widen_marks
from tokjax.nn.param import Param, fan_in
from tokjax.nn.transformer import (
    TransformerSpec,
    attention_cost,
    declare_transformer,
    init_cache,
    transformer,
    transformer_flops,
    transformer_step,
)
from tokjax.nn.word_stack import word_stack, word_stack_flops
from tokjax.objectives.language import LanguageSystem
from tokjax.text.word_units import LEARN_YOUR_TOKENS

_IMPOSSIBLE = -1e9  # finite, so that a row of padding has no NaN


@systems.register("word_pooled", papers=(LEARN_YOUR_TOKENS,))
@dataclasses.dataclass(frozen=True, kw_only=True)
class WordPooled(LanguageSystem):
    """Word encoder with prefix tokens, word backbone, parallel word decoder, on `word_units` or `words`.

    Attributes:
      vocab_size: V, the base units, end of word, end of document.
      backbone: stack over words, P positions each.
      encoder: stack over a word's prefix tokens and units, seeing all of them.
      decoder: stack over the backbone's outputs and the units of a word, causal.
      prefixes: P, prefix tokens of a word.
      cap: units of a word at most; the tokenizer's `cap`.
      symbols_per_word: a row of T symbols holds at most T / symbols_per_word words.
    """

    tokenizer = "word_units"

    vocab_size: int
    backbone: TransformerSpec
    encoder: TransformerSpec
    decoder: TransformerSpec
    prefixes: int = 4
    cap: int = 16
    symbols_per_word: float = 4.0

    def __post_init__(self):
        check(self.vocab_size >= 3, "vocab_size", self.vocab_size, "there is a unit, an end of word and of document.")
        check(self.prefixes >= 1, "prefixes", self.prefixes, "a word is pooled into at least one token.")
        check(self.cap >= 1, "cap", self.cap, "a word has at least one unit.")
        check(self.symbols_per_word >= 1, "symbols_per_word", self.symbols_per_word, "a word has a symbol at least.")
        check(
            self.encoder.width == self.decoder.width, "decoder.width", self.decoder.width,
            f"must equal encoder.width {self.encoder.width}: they share the embedding of units.",
        )  # fmt: skip

    def accept(self, tokenizer_name: str, tokenizer: Any) -> None:
        """Raises SpecError unless the tokenizer is `word_units` or `words`, with the same cap."""
        if tokenizer_name != "words":
            super().accept(tokenizer_name, tokenizer)
        check(tokenizer.cap == self.cap, "system.cap", self.cap, f"must equal tokenizer.cap {tokenizer.cap}.")

    @property
    def end_of_word(self) -> int:
        """The id that closes a word; the end of a document is the next and last one, and closes one too."""
        return self.vocab_size - 2

    @property
    def block(self) -> int:
        """Slots that hold any word and its prefix."""
        return self.cap + self.prefixes

    def max_words(self, length: int) -> int:
        """W, the words that a row of `length` symbols has slots for."""
        return max(1, min(length, round(length / self.symbols_per_word)))

    def declare(self) -> Any:
        """Declares the embedding of units (tied to the readout), the prefix tokens, three stacks and two maps."""
        local, wide = self.encoder.width, self.backbone.width
        return {
            "embedding": layers.declare_embedding(self.vocab_size, local),
            "prefix": Param((self.prefixes, local), (None, "embed"), fan_in(local), decay=False),
            "encoder": declare_transformer(self.encoder),
            "to_word": Param((local, wide), ("embed", "mlp"), fan_in(local)),
            "backbone": declare_transformer(self.backbone),
            "to_units": Param((wide, local), ("mlp", "embed"), fan_in(wide)),
            "decoder": declare_transformer(self.decoder),
        }

    def logits(self, params: Params, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """Logits [B, T, V] of each target, and how many positions had no slots for their word."""
        P, W = self.prefixes, self.max_words(batch.ids.shape[1])
        is_mark = (batch.ids >= self.end_of_word) & (batch.segment_ids > 0)
        slots = widen_marks(is_mark, batch.segment_ids, copies=P, words=W)
        embedded = layers.embed(params["embedding"], take_positions(batch.ids, slots.symbol), self.encoder.dtype)

        prefix = layers.embed(params["prefix"], slots.copy, self.encoder.dtype)
        read = embedded + prefix * slots.is_mark[..., None]
        encoded, encodes = self._local(self.encoder, params["encoder"], read, slots.place, slots.read, causal=False)
        at, filled = first_marked(is_mark, W)
        segments = take_positions(batch.segment_ids, at) * filled
        first = take_positions(slots.own, at)[..., None] - (P - 1)
        pooled = take_positions(encoded, jnp.maximum(first + jnp.arange(P), 0).reshape(-1, W * P))
        predicted = self._backbone(params, pooled, jnp.repeat(segments, P, axis=1))

        # Past the cap that is what the last word with slots predicts, unless it belongs to another document.
        word = jnp.clip(slots.marks - 1, 0, W - 1)
        same = take_positions(segments, word) == batch.segment_ids
        source = take_positions(word, slots.symbol) * P + slots.copy
        before = take_positions(predicted, source) * take_positions(same, slots.symbol)[..., None]
        inputs = jnp.where(slots.is_mark[..., None], before.astype(embedded.dtype), embedded)
        decoded, decodes = self._local(self.decoder, params["decoder"], inputs, slots.place, slots.written, causal=True)
        fits = take_positions(encodes & decodes, slots.own)
        overflow = jnp.sum(((slots.marks > W) | ~fits) * batch.loss_mask)
        return self._readout(params, take_positions(decoded, slots.own), slots.units), overflow

    def _local(self, spec, params, x, positions, word, *, causal):
        return word_stack(spec, params, x, positions, word, causal=causal, longest=self.block, block=self.block)

    def _backbone(self, params: Params, pooled: jax.Array, segments: jax.Array) -> jax.Array:
        """What the backbone predicts at each prefix token, [B, W P, D] to the same."""
        attend = functools.partial(attention, segment_ids=segments, causal=True, implementation=self.backbone.attention)
        vectors = layers.project(pooled, params["to_word"])
        hidden = transformer(self.backbone, params["backbone"], vectors, jnp.arange(vectors.shape[1]), attend)
        return layers.project(hidden, params["to_units"])

    def _readout(self, params: Params, hidden: jax.Array, units: jax.Array) -> jax.Array:
        """Logits [B, T, V]; a word that holds `cap` units can only end."""
        logits = layers.readout(params["embedding"], hidden, self.vocab_size)
        may_go_on = (units < self.cap)[..., None] | (jnp.arange(self.vocab_size) >= self.end_of_word)
        return jnp.where(may_go_on, logits, _IMPOSSIBLE)

    def init_decode(self, params: Params, batch_size: int, slots: int) -> Any:
        """An empty word cache, the units of the word being written, and what stands before them."""
        del params
        return {
            "cache": init_cache(self.backbone, batch_size, slots * self.prefixes),
            "words": jnp.zeros(batch_size, jnp.int32),
            "units": jnp.zeros((batch_size, self.cap), jnp.int32),
            "length": jnp.zeros(batch_size, jnp.int32),
            "before": jnp.zeros((batch_size, self.prefixes, self.decoder.width), self.decoder.dtype),
        }

    def decode(self, params: Params, state: Any, ids: jax.Array) -> tuple[jax.Array, Any]:
        """Feeds one symbol per row, int32 [B]; encoder and backbone run only when some row ends a word."""
        is_mark = ids >= self.end_of_word
        cache, before = jax.lax.cond(
            jnp.any(is_mark),
            lambda: self._end_word(params, state, ids, is_mark),
            lambda: (state["cache"], state["before"]),
        )
        rows, length = jnp.arange(ids.shape[0]), state["length"]
        units = state["units"].at[rows, jnp.where(is_mark, self.cap, length)].set(ids, mode="drop")
        length = jnp.where(is_mark, 0, length + 1)
        words = state["words"] + is_mark
        x = jnp.concatenate([before, layers.embed(params["embedding"], units, self.decoder.dtype)], axis=1)
        decoded = self._word(self.decoder, params["decoder"], x, words > 0, length, causal=True)
        hidden = decoded[rows, self.prefixes - 1 + length][:, None]
        logits = self._readout(params, hidden, length[:, None])[:, 0]
        return logits, {"cache": cache, "words": words, "units": units, "length": length, "before": before}

    def _end_word(self, params: Params, state: Any, ids: jax.Array, is_mark: jax.Array) -> tuple[Any, jax.Array]:
        """Returns the cache with the words that end here, and [B, P, D], what stands before the next ones."""
        P = self.prefixes
        marks = layers.embed(params["embedding"], jnp.repeat(ids[:, None], P, axis=1), self.encoder.dtype)
        prefix = marks + layers.embed(params["prefix"], jnp.arange(P), self.encoder.dtype)
        x = jnp.concatenate([prefix, layers.embed(params["embedding"], state["units"], self.encoder.dtype)], axis=1)
        encoded = self._word(self.encoder, params["encoder"], x, jnp.ones_like(is_mark), state["length"], causal=False)
        vectors = layers.project(encoded[:, :P], params["to_word"])
        cache, outputs = state["cache"], []
        for p in range(P):
            at = state["words"] * P + p
            hidden, cache = transformer_step(self.backbone, params["backbone"], vectors[:, p : p + 1], at, cache)
            outputs.append(layers.project(hidden, params["to_units"]))
        before = jnp.concatenate(outputs, axis=1).astype(state["before"].dtype)
        keep = is_mark[:, None, None]
        cache = jax.tree.map(lambda new, old: jnp.where(keep[None, ..., None], new, old), cache, state["cache"])
        return cache, jnp.where(keep, before, state["before"])

    def _word(self, spec, params, x, prefixed, length, *, causal):
        """Runs `spec` over one word a row [B, P + cap, D]: `length` [B] units, and the prefix where `prefixed` [B]."""
        at = jnp.arange(self.block)
        inside = jnp.where(at < self.prefixes, prefixed[:, None], at < self.prefixes + length[:, None])
        attend = functools.partial(attention, segment_ids=inside.astype(jnp.int32), causal=causal)
        return transformer(spec, params, x, at, attend)

    def flops(self, batch_size: int, length: int) -> float:
        """Forward FLOPs of one [batch_size, length] batch: all slots, filled or not."""
        P, W = self.prefixes, self.max_words(length)
        slots = length + (P - 1) * W
        wide, local = self.backbone, self.encoder.width
        total = transformer_flops(wide, batch_size, W * P, attention_cost(wide, batch_size, W * P))
        for spec, causal in ((self.encoder, False), (self.decoder, True)):
            total += word_stack_flops(spec, batch_size, slots, longest=self.block, block=self.block, causal=causal)
        maps = 2.0 * batch_size * W * P * wide.width * local * 2
        return total + maps + 2.0 * batch_size * length * self.vocab_size * local
