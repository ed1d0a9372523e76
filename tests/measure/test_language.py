"""The yardstick: closed forms, and independence of batch size, row length and packing."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokjax.core.errors import SourceError
from tokjax.measure import language as measure
from tokjax.objectives.language import LanguageSystem
from tokjax.text import fit_tokenizer

DOCUMENTS = [b"hello world", b"", "naïve cafés, 12,345".encode(), b"a " * 100]


@dataclasses.dataclass(frozen=True)
class Successor(LanguageSystem):
    """Puts probability `confidence` on the next symbol being the input plus one, and spreads the rest evenly."""

    vocab_size: int = 257
    confidence: float = 0.5

    def declare(self) -> Any:
        return {}

    def flops(self, batch_size: int, length: int) -> float:
        return 0.0

    def logits(self, params, batch):
        hot = jax.nn.one_hot((batch.ids + 1) % self.vocab_size, self.vocab_size)
        rest = (1 - self.confidence) / (self.vocab_size - 1)
        return jnp.log(hot * self.confidence + (1 - hot) * rest), 0.0


def score(documents, *, system=None, length=64, batch_size=4, tokenizer="bytes", **fields):
    fitted = fit_tokenizer(tokenizer, DOCUMENTS, **fields)
    system = system or Successor(vocab_size=fitted.size + 1, confidence=1 / (fitted.size + 1))
    return measure.score_documents(system, {}, fitted, documents, length=length, batch_size=batch_size)


@pytest.mark.parametrize(("tokenizer", "fields"), [("bytes", {}), ("words", {}), ("bpe", {"vocab_size": 300})])
def test_a_uniform_model_costs_log2_v_per_target(tokenizer, fields):
    """Bits per byte of the uniform law are (tokens + documents) log2 V / bytes, whatever the tokenizer."""
    fitted = fit_tokenizer(tokenizer, DOCUMENTS, **fields)
    tokens = sum(len(fitted.encode(raw)) for raw in DOCUMENTS)
    scored = score(DOCUMENTS, tokenizer=tokenizer, **fields)
    expected = (tokens + len(DOCUMENTS)) * math.log2(fitted.size + 1) / sum(map(len, DOCUMENTS))
    np.testing.assert_allclose(measure.bits_per_byte(scored), expected, rtol=1e-6)


@pytest.mark.parametrize(("length", "batch_size"), [(16, 1), (33, 3), (512, 2)])
def test_the_number_does_not_depend_on_shapes(length, batch_size):
    """A model that looks one symbol back scores every target alike in any window but a document's first."""
    system = Successor()
    expected = measure.bits_per_byte(score([bytes(range(200))] * 3, system=system))
    got = measure.bits_per_byte(score([bytes(range(200))] * 3, system=system, length=length, batch_size=batch_size))
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_bytes_are_accounted_for_once():
    scored = score(DOCUMENTS, tokenizer="words")
    assert scored.units.sum() == sum(map(len, DOCUMENTS))
    np.testing.assert_array_equal(np.bincount(scored.document, scored.units), list(map(len, DOCUMENTS)))
    np.testing.assert_array_equal(scored.start, np.cumsum(scored.units) - scored.units)


def test_by_position_sums_to_the_whole():
    """The ranges' bits, weighted by their bytes, are all bits: here every position costs the same."""
    scored = score([b"a" * 300])
    ranges = dict(measure.by_position(scored))
    assert list(ranges) == [0, 16, 32, 64, 128, 256]
    for first in (0, 16, 32, 64, 128):
        np.testing.assert_allclose(ranges[first], math.log2(257), rtol=1e-6)
    np.testing.assert_allclose(ranges[256], math.log2(257) * 45 / 44, rtol=1e-6)  # 44 bytes and the document's end


def test_next_word_accuracy_counts_whole_words():
    """Words are "ab", " ab", " ax": a target is right when its input's successor is the target."""
    document = b"ab ab ax"
    scored = score([document], system=Successor())
    right = scored.correct[: len(document)].tolist()
    assert right == [False, True, False, False, True, False, False, False]
    assert measure.next_word_accuracy(scored, [document]) == 0.0
    all_right = dataclasses.replace(scored, correct=np.ones_like(scored.correct))
    assert measure.next_word_accuracy(all_right, [document]) == 1.0
    one_wrong = all_right.correct.copy()
    one_wrong[4] = False  # the second "a"
    np.testing.assert_allclose(
        measure.next_word_accuracy(dataclasses.replace(scored, correct=one_wrong), [document]), 2 / 3
    )


def test_marks_do_not_count_as_words():
    """A wrong end of word costs bits, not words: most systems never predict one."""
    scored = score([b"ab cd"], tokenizer="words")
    marks = scored.units == 0
    assert marks.sum() == 3  # two words and the document
    assert measure.next_word_accuracy(dataclasses.replace(scored, correct=~marks), [b"ab cd"]) == 1.0
    assert measure.next_word_accuracy(dataclasses.replace(scored, correct=marks), [b"ab cd"]) == 0.0


def test_nothing_to_evaluate():
    with pytest.raises(SourceError, match="no documents"):
        score([])
