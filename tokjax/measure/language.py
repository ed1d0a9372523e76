"""The yardstick: bits per byte over whole documents, and what is read off the same scores.

Scores are flattened to one entry per target in document order, so that no number depends on batch size, padding or
packing. Targets of a document are its ids and then the end of the document.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import numpy as np

from tokjax.core.errors import SourceError
from tokjax.core.types import Params
from tokjax.data.windows import eval_batches, token_stream
from tokjax.objectives.language import LanguageSystem
from tokjax.sharding import gathered, place
from tokjax.text.fitted import Fitted
from tokjax.text.splitter import piece_lengths
from tokjax.text.unicode_tables import unicode_tables

WORD_CAP = 64  # bytes of the longest word that next-word accuracy counts
POSITION_EDGES = tuple(2**i for i in range(4, 17))  # bytes; bucket i holds [edge i-1, edge i)


@dataclasses.dataclass(frozen=True)
class ScoredText:
    """Scores of every target of some documents, flat and in order.

    Attributes:
      nll: float64 [n], nats.
      correct: bool [n], the most likely id was the target.
      units: int64 [n], bytes the target stands for.
      start: int64 [n], byte offset of the target in the concatenated documents.
      document: int64 [n], which document it belongs to.
      overflow: targets that a cap could not serve fully.
    """

    nll: np.ndarray
    correct: np.ndarray
    units: np.ndarray
    start: np.ndarray
    document: np.ndarray
    overflow: float


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What one system scored on one text.

    Attributes:
      bits_per_byte: sum of bits over all targets, ends of documents included, per byte of text.
      bytes_per_token: bytes per id, ends of documents not counted.
      next_word_accuracy: share of words of which every target was the most likely one, given the true text before.
      by_position: (first byte, bits per byte) per range of byte positions in the document; ranges double.
      documents, bytes, targets: how much text that was.
      overflow: share of targets that a cap could not serve fully.
    """

    bits_per_byte: float
    bytes_per_token: float
    next_word_accuracy: float
    by_position: tuple[tuple[int, float], ...]
    documents: int
    bytes: int
    targets: int
    overflow: float


@functools.cache
def _scorer(system: LanguageSystem):
    return jax.jit(lambda params, batch: gathered(system.score(params, batch)))


def score_documents(
    system: LanguageSystem,
    params: Params,
    fitted: Fitted,
    documents: Sequence[bytes],
    *,
    length: int,
    batch_size: int,
) -> ScoredText:
    """Scores every target of `documents` once, in windows of `length` positions that overlap by half.

    Raises:
      SourceError: no documents.
    """
    if not documents:
        raise SourceError("Nothing to evaluate: no documents.")
    text = token_stream(documents, fitted)
    nll, correct, overflow = np.full(text.pairs, np.nan), np.zeros(text.pairs, bool), 0.0
    score = _scorer(system)
    for item in eval_batches(text, batch_size=batch_size, length=length, align=system.alignment):
        scores = jax.device_get(score(params, place(item.batch)))
        scored = item.document >= 0
        at = text.boundaries[item.document[scored]] + item.offset[scored]
        nll[at], correct[at] = scores.nll[scored], scores.correct[scored] > 0
        overflow += float(scores.overflow)
    units = text.units[1:].astype(np.int64)
    return ScoredText(
        nll=nll,
        correct=correct,
        units=units,
        start=np.cumsum(units) - units,
        document=np.repeat(np.arange(len(documents)), np.diff(text.boundaries)),
        overflow=overflow,
    )


def bits_per_byte(scored: ScoredText) -> float:
    """Sum of bits of all targets over the bytes they stand for."""
    return float(scored.nll.sum() / math.log(2) / max(scored.units.sum(), 1))


def by_position(scored: ScoredText) -> tuple[tuple[int, float], ...]:
    """Bits per byte of targets that start at a byte position of their document in [edge, 2 x edge)."""
    first_byte = scored.start[np.searchsorted(scored.document, scored.document)]
    bucket = np.searchsorted(POSITION_EDGES, scored.start - first_byte, side="right")
    nats = np.bincount(bucket, scored.nll, minlength=len(POSITION_EDGES) + 1)
    total = np.bincount(bucket, scored.units, minlength=len(POSITION_EDGES) + 1)
    edges = (0, *POSITION_EDGES)
    return tuple((edge, float(n / math.log(2) / t)) for edge, n, t in zip(edges, nats, total, strict=True) if t > 0)


def next_word_accuracy(scored: ScoredText, documents: Sequence[bytes]) -> float:
    """Share of words that greedy decoding of the true prefix gets entirely right, as of `words_right`."""
    right = words_right(scored, documents)
    return float(np.mean(right)) if len(right) else math.nan


def words_right(scored: ScoredText, documents: Sequence[bytes]) -> np.ndarray:
    """Returns bool [W], whether each of the splitter's words is what greedy decoding of the true prefix gives.

    A word is right when every target that covers one of its bytes was the most likely id. Targets that stand for no
    bytes (ends of words and documents) do not count: most systems never predict where a word ends. The words are those
    of every document in turn, at most `WORD_CAP` bytes each.
    """
    tables = unicode_tables()
    ends = np.cumsum(np.concatenate([piece_lengths(raw, WORD_CAP, tables) for raw in documents]))
    wrong = ~scored.correct & (scored.units > 0)
    stop = scored.start[wrong] + scored.units[wrong]
    first = np.searchsorted(ends, scored.start[wrong], side="right")
    last = np.searchsorted(ends, stop - 1, side="right")
    spoiled = np.zeros(len(ends) + 1, np.int64)
    np.add.at(spoiled, np.minimum(first, len(ends)), 1)
    np.add.at(spoiled, np.minimum(last + 1, len(ends)), -1)
    return np.cumsum(spoiled)[: len(ends)] == 0


def evaluate(
    system: LanguageSystem,
    params: Params,
    fitted: Fitted,
    documents: Sequence[bytes],
    *,
    length: int,
    batch_size: int,
) -> Evaluation:
    """Scores `documents` and sums up. Arguments as of `score_documents`."""
    scored = score_documents(system, params, fitted, documents, length=length, batch_size=batch_size)
    total, targets = int(scored.units.sum()), len(scored.nll)
    return Evaluation(
        bits_per_byte=bits_per_byte(scored),
        bytes_per_token=total / max(targets - len(documents), 1),
        next_word_accuracy=next_word_accuracy(scored, documents),
        by_position=by_position(scored),
        documents=len(documents),
        bytes=total,
        targets=targets,
        overflow=scored.overflow / targets,
    )
