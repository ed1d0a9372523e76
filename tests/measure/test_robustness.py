"""Costs before and after the border add up, whatever the tokens, and noise in a context is all that changes."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokjax.core.errors import SourceError
from tokjax.measure.language import ScoredText
from tokjax.measure.robustness import passages, robustness
from tokjax.text.splitter import split
from tokjax.text.unicode_tables import unicode_tables

DOCUMENTS = [b"The quick brown fox jumps over the lazy dog, twice or more. " * 3, "naïve cafés\n".encode() * 20, b"ab"]


def scorer(width, *, marks=False, right=None):
    """A model whose tokens are `width` bytes and cost 1 bit a byte; marks, if any, stand after each and cost 3 bits."""

    def score(documents):
        nll, units, document, correct = [], [], [], []
        for number, raw in enumerate(documents):
            for at in range(0, len(raw), width):
                token = raw[at : at + width]
                for bits, count in [(len(token), len(token))] + [(3, 0)] * marks:
                    nll.append(bits * math.log(2))
                    units.append(count)
                    document.append(number)
                    correct.append(right is None or right in token)
            nll.append(100.0)  # the end of the document
            units.append(0)
            document.append(number)
            correct.append(False)
        units = np.asarray(units)
        return ScoredText(
            np.asarray(nll), np.asarray(correct), units, np.cumsum(units) - units, np.asarray(document), 0.0
        )

    return score


@given(size=st.integers(20, 300))
def test_passages_are_words_of_their_document_in_order(size):
    for raw in DOCUMENTS[:2]:
        words, at = split(raw, 64, unicode_tables()), 0
        for passage in passages([raw], size):
            whole = passage.context + passage.continuation
            at = raw.index(whole, at)
            assert size / 2 <= len(whole) <= size
            assert len(passage.context) <= 0.75 * size
            boundaries = set(np.cumsum([len(word) for word in words]).tolist()) | {0}
            assert {at, at + len(passage.context), at + len(whole)} <= boundaries
            at += len(whole)


def test_nothing_long_enough():
    with pytest.raises(SourceError, match="no document of 50 bytes"):
        passages([b"ab"], 100)


@pytest.mark.parametrize("width", [1, 3, 7])
def test_ends_of_documents_and_noise_do_not_move_a_model_that_costs_one_bit_per_byte(width):
    """Whole tokens before and after the border are one bit a byte; a token across it moves its bits to what follows."""
    texts = passages(DOCUMENTS, 100)
    for kind, rate in (("drop", 0.0), ("drop", 0.2), ("swap", 0.3), ("insert", 0.2)):
        found = robustness(scorer(width), texts, rate, kind)
        assert found.next_word_accuracy == 1.0
        if width == 1:
            assert found.noisy_bits_per_byte == pytest.approx(1.0)
            assert found.clean_bits_per_byte == pytest.approx(1.0)
        assert 1.0 <= found.clean_bits_per_byte < 1.0 + width / 20


def test_marks_count_on_the_side_of_what_they_make_possible():
    (text,) = passages([b"aaaaaaaaa bb"], 12)
    assert text.continuation == b" bb"
    found = robustness(scorer(1, marks=True), [text], 0.0, "drop")
    assert found.noisy_bits_per_byte == pytest.approx((9 + 8 * 3) / 9)  # the mark behind the ninth byte is not in it
    assert found.clean_bits_per_byte == pytest.approx((3 + 3 + 2 * 3) / 3)  # but here; the last mark is nowhere


def test_only_words_of_the_continuation_count():
    texts = passages([b" zz zz zz zz zz zz zz zz zz xa xb xa xb"], 40)  # tokens of 3 bytes are its words
    found = robustness(scorer(1, right=b"a"), texts, 0.0, "drop")
    assert found.next_word_accuracy == 0.0
    three = robustness(scorer(3, right=b"a"), texts, 0.0, "drop")
    assert texts[0].continuation == b" xa xb xa xb"
    assert three.next_word_accuracy == pytest.approx(0.5)


def test_every_model_meets_the_same_noise():
    seen = []

    def score(documents):
        seen.append(documents)
        return scorer(1)(documents)

    texts = passages(DOCUMENTS, 100)
    for _ in range(2):
        robustness(score, texts, 0.2, "swap")
    assert seen[0] == seen[1]
    assert all(raw.endswith(text.continuation) for raw, text in zip(seen[0], texts, strict=True))
    assert any(not raw.startswith(text.context) for raw, text in zip(seen[0], texts, strict=True))
