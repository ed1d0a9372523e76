"""What noise before a text costs: a noised context, then a continuation that is left clean.

The form of the robustness tests of hierarchical models (https://arxiv.org/abs/2501.10322): the prompt is perturbed, the
answer is not. The noised context has a number of its own, bits per byte of what was typed.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from tokjax.core.errors import SourceError
from tokjax.measure.language import WORD_CAP, ScoredText, next_word_accuracy
from tokjax.measure.noise import corrupt
from tokjax.text.splitter import split
from tokjax.text.unicode_tables import unicode_tables

CONTEXT_SHARE = 0.75  # of a passage


@dataclasses.dataclass(frozen=True)
class Passage:
    """Consecutive words of a document: `context`, which noise may change, and `continuation`, which it may not."""

    context: bytes
    continuation: bytes


@dataclasses.dataclass(frozen=True)
class Robustness:
    """What a model makes of passages whose contexts were noised.

    Attributes:
      noisy_bits_per_byte: cost of the noised contexts, per byte of them.
      clean_bits_per_byte: cost of the continuations, which are clean, per byte of them.
      next_word_accuracy: share of the continuations' words of which every target was the most likely one.
    """

    noisy_bits_per_byte: float
    clean_bits_per_byte: float
    next_word_accuracy: float


def passages(documents: Sequence[bytes], size: int) -> list[Passage]:
    """Returns the documents cut, between words, into passages of at most about `size` bytes, remainders left out.

    Raises:
      SourceError: no document has a passage of half that size.
    """
    found = [passage for raw in documents for passage in _passages_of(raw, size)]
    if not found:
        raise SourceError(f"Nothing to noise: no document of {size // 2} bytes. Use a source of longer documents.")
    return found


def _passages_of(raw: bytes, size: int) -> Iterator[Passage]:
    words = split(raw, WORD_CAP, unicode_tables())
    ends = np.cumsum([len(word) for word in words])
    first, start = 0, 0
    while first < len(words):
        last = max(int(np.searchsorted(ends, start + size, side="right")), first + 1)
        length = int(ends[last - 1]) - start
        middle = int(np.searchsorted(ends, start + CONTEXT_SHARE * length, side="right"))
        if first < middle < last and length >= size / 2:
            yield Passage(b"".join(words[first:middle]), b"".join(words[middle:last]))
        first, start = last, start + length


def robustness(
    score: Callable[[Sequence[bytes]], ScoredText], texts: Sequence[Passage], rate: float, kind: str
) -> Robustness:
    """Scores `texts` with noise of one kind in their contexts; the same noise for every model.

    Args:
      score: documents -> the cost of their targets, as of `measure.language.score_documents`.
      texts: what is scored, each a document of its own.
      rate: edits per character, as of `measure.noise.corrupt`; 0 leaves the contexts clean.
      kind: of noise.
    """
    contexts = [corrupt(text.context, rate, kind, seed) for seed, text in enumerate(texts)]
    continuations = [text.continuation for text in texts]
    scored = score([before + after for before, after in zip(contexts, continuations, strict=True)])
    borders = np.asarray([len(context) for context in contexts])
    inside, after = _from_border(scored, borders, borders + [len(raw) for raw in continuations])
    before = ~inside & (scored.start - _document_starts(scored) < borders[scored.document])
    return Robustness(
        noisy_bits_per_byte=float(scored.nll[before].sum() / math.log(2) / max(borders.sum(), 1)),
        clean_bits_per_byte=float(after.nll.sum() / math.log(2) / after.units.sum()),
        next_word_accuracy=next_word_accuracy(after, continuations),
    )


def _document_starts(scored: ScoredText) -> np.ndarray:
    """Byte offset of the document of each target, int64 [n]."""
    return scored.start[np.searchsorted(scored.document, scored.document)]


def _from_border(scored: ScoredText, borders: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, ScoredText]:
    """Returns which targets, bool [n], say something of what follows the border in their document, and only those.

    A token across the border belongs to what follows. So does the mark that ends the last word before it, because a
    model without marks pays for the same in its next token; marks after the last byte belong to nothing.

    Args:
      scored: targets of whole documents.
      borders: int64 [D], byte of each document at which the part begins.
      lengths: int64 [D], bytes of each document.
    """
    border, length = borders[scored.document], lengths[scored.document]
    start = scored.start - _document_starts(scored)
    stop = start + scored.units
    inside = (stop > border) | ((scored.units == 0) & (start == border) & (border < length))
    inside &= start < length
    first = np.maximum(start, border)
    offsets = np.cumsum(lengths - borders) - (lengths - borders)
    return inside, ScoredText(
        nll=scored.nll[inside],
        correct=scored.correct[inside],
        units=(stop - first)[inside],
        start=(offsets[scored.document] + first - border)[inside],
        document=scored.document[inside],
        overflow=scored.overflow,
    )
