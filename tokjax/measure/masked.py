"""Masked words as a yardstick: every word of some documents predicted once, and states of whole documents."""

import dataclasses
import functools
import math
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from tokjax.core.types import Params
from tokjax.data.word_rows import WordBatch, document_rows, eval_rows
from tokjax.data.words import WordStream
from tokjax.objectives.masked import MaskedWordSystem
from tokjax.sharding import gathered, place


@dataclasses.dataclass(frozen=True)
class WordEvaluation:
    """What an encoder scored on the words of some documents, white space left out.

    Attributes:
      bits_per_word: of the first P pieces of a word and, where the encoder is not told, of how many it has.
      piece_bits_per_word: of the pieces alone, given that there are so many.
      word_accuracy: share of words of which each of these pieces was the most likely one.
      words: how many words that was.
    """

    bits_per_word: float
    piece_bits_per_word: float
    word_accuracy: float
    words: int


@functools.cache
def _scorer(system: MaskedWordSystem):
    return jax.jit(lambda params, batch: gathered(system.score(params, batch)))


def evaluate_words(
    system: MaskedWordSystem,
    params: Params,
    stream: WordStream,
    *,
    length: int,
    batch_size: int,
    inputs: WordStream | None = None,
) -> WordEvaluation:
    """Predicts every word of `stream` once, behind the mask.

    Args:
      system: the encoder.
      params: its parameters.
      stream: the words to predict.
      length: W, words of a row.
      batch_size: B.
      inputs: the words to read around the masked ones, as of `eval_rows`.
    """
    sums = np.zeros(4)
    shape = system.row_shape(length)
    for batch in eval_rows(stream, shape, batch_size=batch_size, rate=system.mask_rate, inputs=inputs):
        scores = jax.device_get(_scorer(system)(params, place(batch)))
        parts = (scores.piece_nll, scores.count_nll, scores.correct, scores.words)
        sums += [part.sum(dtype=np.float64) for part in parts]
    pieces, counts, correct, words = sums.tolist()
    total = max(words, 1.0)
    return WordEvaluation(
        bits_per_word=(pieces + counts) / total / math.log(2),
        piece_bits_per_word=pieces / total / math.log(2),
        word_accuracy=correct / total,
        words=int(words),
    )


@functools.cache
def _pooler(system: MaskedWordSystem):
    def pool(params: Params, batch: WordBatch) -> jax.Array:
        states, segments = system.encode(params, batch)
        inside = (segments > 0)[..., None]
        return jnp.sum(states * inside, axis=1, dtype=jnp.float32) / jnp.maximum(jnp.sum(inside, axis=1), 1)

    return jax.jit(pool)


def document_states(
    system: MaskedWordSystem, params: Params, stream: WordStream, *, length: int, batch_size: int
) -> np.ndarray:
    """Returns the mean state of each document's first row, float32 [documents, D]; nothing is masked."""
    rows: Iterable[WordBatch] = document_rows(stream, system.row_shape(length), batch_size=batch_size)
    states = [np.asarray(_pooler(system)(params, batch)) for batch in rows]
    return np.concatenate(states)[: len(stream.boundaries) - 1]
