"""Masked-word prediction: the base of every encoder, and the one place where its loss is computed.

A word is predicted as its first P subwords ("pieces"), all at once. Where one mask stands for a word, an encoder must
also predict where the pieces end; where there are as many masks as pieces, it is told. The cost of a word is therefore
kept in two parts: that of its pieces, and that of how many there are.

Letters: `B` batch, `W` words, `S` positions of the backbone (words or pieces), `M` predicted words, `P` predicted
pieces of a word, `D` width, `V` vocabulary of pieces.
"""

import abc
import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from tokjax.core.spec import check
from tokjax.core.types import Aux, Params, System
from tokjax.data.word_rows import RowShape, WordBatch
from tokjax.nn import layers
from tokjax.nn.param import Param, count, fan_in
from tokjax.nn.transformer import TransformerSpec


@flax.struct.dataclass
class WordScores:
    """What an encoder says of each predicted word. All arrays are float32 [B, M], 0 where nothing is predicted.

    Attributes:
      piece_nll: negative log likelihood in nats of its first P pieces, given that it has so many.
      count_nll: that of how many it has, in nats; 0 from an encoder that is told.
      correct: 1 where each of these pieces is the most likely one.
      words: 1 where a word is predicted.
    """

    piece_nll: jax.Array
    count_nll: jax.Array
    correct: jax.Array
    words: jax.Array


def score_words(logits: jax.Array, batch: WordBatch, vocab_size: int) -> WordScores:
    """Scores the predicted words of `batch` in float32.

    Args:
      logits: [B, M, P, V], or [B, M, P, V + 1] where the last symbol says that the word has no further piece.
      batch: the rows.
      vocab_size: V.
    """
    logits = logits.astype(jnp.float32)
    pieces = logits[..., :vocab_size]
    counts, place = batch.target_counts[..., None], jnp.arange(logits.shape[2])
    inside = place < counts
    log_sum = jax.nn.logsumexp(pieces, axis=-1)
    target = jnp.take_along_axis(pieces, batch.targets[..., None], axis=-1)[..., 0]
    hit = (jnp.argmax(pieces, axis=-1) == batch.targets) | ~inside
    words = (batch.target_counts > 0).astype(jnp.float32)
    count_nll = jnp.zeros_like(words)
    if logits.shape[-1] > vocab_size:
        ends = logits[..., vocab_size] - log_sum  # log odds
        told = jax.nn.softplus(jnp.where(inside, ends, -ends)) * (place <= counts)
        count_nll = jnp.sum(told, axis=-1) * words
    return WordScores(
        piece_nll=jnp.sum((log_sum - target) * inside, axis=-1),
        count_nll=count_nll,
        correct=jnp.all(hit, axis=-1) * words,
        words=words,
    )


def metrics(scores: WordScores) -> Aux:
    """Returns mergeable (sum, count) metrics per predicted word: loss and its two parts in nats, accuracy."""
    words = jnp.sum(scores.words)
    pieces, counts = jnp.sum(scores.piece_nll), jnp.sum(scores.count_nll)
    return {
        "loss": (pieces + counts, words),
        "piece_loss": (pieces, words),
        "count_loss": (counts, words),
        "word_accuracy": (jnp.sum(scores.correct), words),
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedWordSystem(System):
    """A bidirectional encoder trained to predict masked words.

    Attributes:
      vocab_size: V, the pieces of the tokenizer.
      backbone: shape of the stack.
      cap: bytes of the longest word; longer ones are read as several.
      target_pieces: P, how many pieces of a word are predicted.
      pieces_per_word: a row of W words has room for W x pieces_per_word pieces.
      mask_rate: share of the words of a row that are predicted.
    """

    vocab_size: int
    backbone: TransformerSpec
    cap: int = 20
    target_pieces: int = 4
    pieces_per_word: float = 1.75
    mask_rate: float = 0.15

    def __post_init__(self):
        check(self.vocab_size >= 2, "vocab_size", self.vocab_size, "a model needs at least two symbols.")
        check(self.cap >= 4, "cap", self.cap, "a word holds at least one UTF-8 character of 4 bytes.")
        check(self.target_pieces >= 1, "target_pieces", self.target_pieces, "predict at least one.")
        check(self.pieces_per_word >= 1, "pieces_per_word", self.pieces_per_word, "a word has a piece at least.")
        check(0 < self.mask_rate < 1, "mask_rate", self.mask_rate, "use a share between 0 and 1.")

    def row_shape(self, length: int) -> RowShape:
        """The static sizes of rows of `length` words."""
        return RowShape(
            words=length,
            pieces=max(self.cap, round(length * self.pieces_per_word)),
            predicted=max(1, round(length * self.mask_rate)),
            targets=self.target_pieces,
        )

    @abc.abstractmethod
    def encode(self, params: Params, batch: WordBatch) -> tuple[jax.Array, jax.Array]:
        """Returns the states [B, S, D] of words or pieces, and the document each belongs to, int32 [B, S]; 0 is none.

        A state depends on the words of its document alone.
        """

    @abc.abstractmethod
    def logits(self, params: Params, batch: WordBatch) -> jax.Array:
        """Returns float32 logits of predicted words, as of `score_words`."""

    def score(self, params: Params, batch: WordBatch) -> WordScores:
        """Scores the predicted words of `batch`."""
        return score_words(self.logits(params, batch), batch, self.vocab_size)

    def loss(
        self, params: Params, state: Params, batch: WordBatch, key: jax.Array
    ) -> tuple[jax.Array, tuple[Params, Aux]]:
        """Mean negative log likelihood per predicted word, in nats; the rows are masked already."""
        del key
        scores = self.score(params, batch)
        total = jnp.sum(scores.piece_nll) + jnp.sum(scores.count_nll)
        return total / jnp.maximum(jnp.sum(scores.words), 1.0), (state, metrics(scores))

    def embedding_parameters(self) -> int:
        """Scalars between the input and the first layer of the backbone."""
        return count(self.declare()["embedding"])


def declare_piece_head(width: int, symbols: int | None = None, places: int | None = None) -> dict[str, Any]:
    """Declares what turns states into logits of pieces: one hidden layer with its norm, as in Devlin et al. 2019.

    Args:
      width: D.
      symbols: rows of an output table of its own; None shares the one of the input.
      places: P, pieces that are all predicted from the one state of a word; None where each piece has its state.
    """
    tree: dict[str, Any] = {
        "hidden": Param((width, width), ("embed", "mlp"), fan_in(width)),
        "norm": layers.declare_rms_norm(width),
    }
    if symbols is not None:
        tree["table"] = layers.declare_embedding(symbols, width)
    if places is not None:
        tree["places"] = Param((places, width), (None, "embed"), fan_in(1), decay=False)
    return tree


def piece_logits(params: Any, states: jax.Array, table: jax.Array, symbols: int) -> jax.Array:
    """Returns float32 logits [B, M, P, symbols].

    Args:
      params: as of `declare_piece_head`.
      states: [B, M, D] of words, read by a query for each place, or [B, M, P, D] of their pieces.
      table: output table, at least [symbols, D].
      symbols: how many of its rows are in use.
    """
    hidden = layers.project(states, params["hidden"])
    if "places" in params:
        hidden = hidden[:, :, None] + params["places"].astype(hidden.dtype)
    hidden = layers.rms_norm(params["norm"], jax.nn.gelu(hidden))
    B, M, P, D = hidden.shape
    return layers.readout(table, hidden.reshape(B, M * P, D), symbols).reshape(B, M, P, symbols)


def head_flops(shape: RowShape, batch_size: int, width: int, symbols: int, states: int) -> float:
    """Forward FLOPs of `piece_logits` on `states` states per predicted word."""
    return 2.0 * batch_size * shape.predicted * width * (states * width + shape.targets * symbols)
