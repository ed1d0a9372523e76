"""Hierarchical Autoregressive Transformer: bytes -> words -> bytes (Neitemeier et al., ICLR 2025, arXiv 2501.10322).

A small encoder reads each word's bytes and its end-of-word mark; its activation at the mark, mapped linearly, is
the word's embedding. A causal backbone runs over words. Its output, mapped linearly, stands first in the sequence of
the next word, whose bytes and end-of-word mark a small causal decoder predicts.

Shapes stay static by never unpacking words: encoder and decoder run over the packed byte stream with attention local
to a word, and only the gather of word ends has a cap (`max_words`). Words past the cap are still predicted, from the
last word vector that fits, and counted as overflow.

Letters: `B` batch, `T` symbols of the stream, `W` words, `L` symbols of a word, `D` width.
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
from tokjax.nn.packing import first_marked, take_positions, word_numbers
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
from tokjax.text.words import END_OF_WORD, Words

END_OF_DOCUMENT = END_OF_WORD + 1
_IMPOSSIBLE = -1e9  # finite, so that a row of padding has no NaN


@systems.register(
    "hat",
    papers=(
        Paper(
            title="Hierarchical Autoregressive Transformers: Combining Byte- and Word-Level Processing for Robust, "
            "Adaptable Language Models",
            authors="Neitemeier et al.",
            year=2025,
            url="https://arxiv.org/abs/2501.10322",
        ),
    ),
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class Hat(LanguageSystem):
    """Byte encoder, word backbone, byte decoder, on the `words` tokenizer; on `patches` for comparison.

    Attributes:
      backbone: stack over words.
      encoder: stack over the bytes of one word, seeing all of them.
      decoder: stack over the bytes of one word, causal.
      cap: bytes of a word at most; the tokenizer's `cap`.
      symbols_per_word: a row of T symbols holds at most T / symbols_per_word words.
      vocab_size: 256 bytes, end of word, end of document.
    """

    tokenizer = "words"

    backbone: TransformerSpec
    encoder: TransformerSpec
    decoder: TransformerSpec
    cap: int = 16
    symbols_per_word: float = 3.0
    vocab_size: int = END_OF_DOCUMENT + 1

    def __post_init__(self):
        check(
            self.vocab_size == END_OF_DOCUMENT + 1, "vocab_size", self.vocab_size,
            f"hat reads the `words` or `patches` tokenizer, which have {END_OF_DOCUMENT + 1} symbols.",
        )  # fmt: skip
        check(self.cap >= 4, "cap", self.cap, "a word holds at least one UTF-8 character of 4 bytes.")
        check(self.symbols_per_word >= 1, "symbols_per_word", self.symbols_per_word, "a word has a symbol at least.")
        check(
            self.encoder.width == self.decoder.width, "decoder.width", self.decoder.width,
            f"must equal encoder.width {self.encoder.width}: they share the byte embedding.",
        )  # fmt: skip

    def accept(self, tokenizer_name: str, tokenizer: Any) -> None:
        """Raises SpecError unless the tokenizer is `words`, or `patches`, with the same cap."""
        if not isinstance(tokenizer, Words):
            super().accept(tokenizer_name, tokenizer)
        check(tokenizer.cap == self.cap, "system.cap", self.cap, f"must equal tokenizer.cap {tokenizer.cap}.")

    @property
    def block(self) -> int:
        """Slots that hold any word with its mark and its word vector: the next power of two."""
        return 1 << (self.cap + 1).bit_length()

    def max_words(self, length: int) -> int:
        """W, the words that a row of `length` symbols can hold."""
        return max(1, min(length, round(length / self.symbols_per_word)))

    def declare(self) -> Any:
        """Declares the byte embedding (tied to the readout), three stacks and the two maps between widths."""
        local, wide = self.encoder.width, self.backbone.width
        return {
            "embedding": layers.declare_embedding(self.vocab_size, local),
            "encoder": declare_transformer(self.encoder),
            "to_word": Param((local, wide), ("embed", "mlp"), fan_in(local)),
            "backbone": declare_transformer(self.backbone),
            "to_bytes": Param((wide, local), ("mlp", "embed"), fan_in(wide)),
            "decoder": declare_transformer(self.decoder),
        }

    def logits(self, params: Params, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """Logits [B, T, V] of each target, and how many positions had no word slot."""
        is_end = (batch.ids >= END_OF_WORD) & (batch.segment_ids > 0)
        ends = jnp.cumsum(is_end, axis=1, dtype=jnp.int32)
        read, written, word_bytes = word_numbers(is_end, batch.segment_ids)
        embedded = layers.embed(params["embedding"], batch.ids, self.encoder.dtype)

        encoded, encodes = self._local(self.encoder, params["encoder"], embedded, batch.positions, read, causal=False)
        W = self.max_words(batch.ids.shape[1])
        at, filled = first_marked(is_end, W)
        vectors = layers.project(take_positions(encoded, at), params["to_word"])
        segments = take_positions(batch.segment_ids, at) * filled
        attend = functools.partial(attention, segment_ids=segments, causal=True, implementation=self.backbone.attention)
        predicted = transformer(self.backbone, params["backbone"], vectors, jnp.arange(W), attend)
        predicted = layers.project(predicted, params["to_bytes"]).astype(embedded.dtype)

        # A word's end is where the decoder reads the backbone's prediction of the next word.
        # Past the cap that is the last word which has a slot, unless it belongs to another document.
        slot = jnp.clip(ends - 1, 0, W - 1)
        own = take_positions(segments, slot) == batch.segment_ids
        first = take_positions(predicted, slot) * own[..., None]
        inputs = jnp.where(is_end[..., None], first, embedded)
        decoded, decodes = self._local(self.decoder, params["decoder"], inputs, batch.positions, written, causal=True)
        overflow = jnp.sum(((ends > W) | ~encodes | ~decodes) * batch.loss_mask)
        return self._readout(params, decoded, word_bytes), overflow

    def _local(self, spec, params, x, positions, word, *, causal):
        return word_stack(spec, params, x, positions, word, causal=causal, **self._words)

    @property
    def _words(self) -> dict[str, int]:
        return {"longest": self.cap + 1, "block": self.block}

    def _readout(self, params: Params, hidden: jax.Array, word_bytes: jax.Array) -> jax.Array:
        """Logits [B, T, V]; a word that holds `cap` bytes can only end."""
        logits = layers.readout(params["embedding"], hidden, self.vocab_size)
        may_go_on = (word_bytes < self.cap)[..., None] | (jnp.arange(self.vocab_size) >= END_OF_WORD)
        return jnp.where(may_go_on, logits, _IMPOSSIBLE)

    def init_decode(self, params: Params, batch_size: int, slots: int) -> Any:
        """An empty word cache, and the symbols of the word being written."""
        return {
            "cache": init_cache(self.backbone, batch_size, slots),
            "words": jnp.zeros(batch_size, jnp.int32),
            "symbols": jnp.zeros((batch_size, self.block), jnp.int32),
            "length": jnp.zeros(batch_size, jnp.int32),
            "first": jnp.zeros((batch_size, self.decoder.width), self.decoder.dtype),
        }

    def decode(self, params: Params, state: Any, ids: jax.Array) -> tuple[jax.Array, Any]:
        """Feeds one symbol per row, int32 [B]; the backbone runs only when some row ends a word.

        `symbols` holds the current word. Once it starts after a word, its slot 0 is that word's vector in the decoder.
        """
        rows = jnp.arange(ids.shape[0])
        is_end = ids >= END_OF_WORD
        symbols = state["symbols"].at[rows, state["length"]].set(ids)

        def end_word(state):
            x = layers.embed(params["embedding"], symbols, self.encoder.dtype)
            inside = (jnp.arange(self.block) <= state["length"][:, None]).astype(jnp.int32)
            # Slot 0 belongs to the word vector once a word has ended; the encoder reads what follows it.
            inside = inside.at[:, 0].multiply((state["words"] == 0).astype(jnp.int32))
            encoded, _ = self._local(self.encoder, params["encoder"], x, jnp.arange(self.block), inside, causal=False)
            vector = layers.project(encoded[rows, state["length"]][:, None], params["to_word"])
            hidden, cache = transformer_step(self.backbone, params["backbone"], vector, state["words"], state["cache"])
            first = layers.project(hidden[:, 0], params["to_bytes"]).astype(x.dtype)
            keep = is_end[:, None]
            cache = jax.tree.map(
                lambda new, old: jnp.where(keep[None, :, :, None, None], new, old), cache, state["cache"]
            )
            return cache, jnp.where(keep, first, state["first"])

        cache, first = jax.lax.cond(jnp.any(is_end), end_word, lambda state: (state["cache"], state["first"]), state)
        length = jnp.where(is_end, 0, state["length"])
        words = state["words"] + is_end
        x = layers.embed(params["embedding"], symbols, self.decoder.dtype)
        x = x.at[:, 0].set(jnp.where((words > 0)[:, None], first, x[:, 0]))
        positions = jnp.arange(self.block)
        inside = (positions <= length[:, None]).astype(jnp.int32)
        decoded, _ = self._local(self.decoder, params["decoder"], x, positions, inside, causal=True)
        word_bytes = length + (words == 0)
        logits = self._readout(params, decoded[rows, length][:, None], word_bytes[:, None])[:, 0]
        state = {"cache": cache, "words": words, "symbols": symbols, "length": length + 1, "first": first}
        return logits, state

    def flops(self, batch_size: int, length: int) -> float:
        """Forward FLOPs of one [batch_size, length] batch: all slots, filled or not."""
        W = self.max_words(length)
        wide, local = self.backbone, self.encoder.width
        total = transformer_flops(wide, batch_size, W, attention_cost(wide, batch_size, W))
        for spec, causal in ((self.encoder, False), (self.decoder, True)):
            total += word_stack_flops(spec, batch_size, length, causal=causal, **self._words)
        maps = 2.0 * batch_size * W * wide.width * local * 2
        return total + maps + 2.0 * batch_size * length * self.vocab_size * local
