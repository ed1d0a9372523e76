"""Rows of words: every word once, the same words as bytes and as pieces, and masks that hide what they should."""

import functools

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from tokjax.core.errors import SourceError, SpecError
from tokjax.data.word_rows import (
    MASK_BYTE,
    MASKED,
    RANDOM,
    RowShape,
    cut_rows,
    document_rows,
    eval_rows,
    train_rows,
)
from tokjax.data.words import change_words, word_stream
from tokjax.text import fit_tokenizer

DOCUMENTS = [
    b"The quick brown fox jumps over the lazy dog, again and again.",
    "Zürich, 東京 and naïve cafés: 12,345 ways\n\tto say “hello”!".encode(),
    b"",
    b"def f(x):\n    return x + 1\n",
    b"internationalisation_of_identifiers" * 3,
]
SHAPE = RowShape(words=12, pieces=24, predicted=3, targets=4)


@functools.cache
def fitted():
    return fit_tokenizer("wordpiece", [raw for raw in DOCUMENTS if raw], vocab_size=540)


@functools.cache
def stream():
    return word_stream(DOCUMENTS * 4, fitted(), cap=16)


def words_of(batch, row):
    """What a row reads, as bytes, without its padding."""
    lengths = batch.lengths[row]
    return [bytes(batch.word_bytes[row, slot, :length].tolist()) for slot, length in enumerate(lengths) if length]


def targets_of(batch):
    """(row, slot, ids) of every predicted word, the first P pieces."""
    for row, column in np.argwhere(batch.target_counts > 0).tolist():
        count = batch.target_counts[row, column]
        yield row, int(batch.at[row, column]), batch.targets[row, column, :count].tolist()


def first_pieces(word):
    return fitted().encode(word)[: SHAPE.targets].tolist()


def test_a_stream_holds_the_documents():
    text = stream()
    words = [text.table.words[index] for index in text.words]
    joined = [b"".join(words[a:b]) for a, b in zip(text.boundaries, text.boundaries[1:], strict=False)]
    assert joined == DOCUMENTS * 4
    assert max(map(len, words)) <= 16
    for index, word in enumerate(text.table.words):
        ids = text.table.pieces[text.table.offsets[index] : text.table.offsets[index + 1]]
        assert fitted().decode(ids) == word
    with pytest.raises(SourceError, match="no words"):
        word_stream([b""], fitted(), cap=16)


@given(words=st.integers(4, 40), pieces=st.integers(20, 60))
def test_rows_hold_every_word_once(words, pieces):
    rows = cut_rows(stream(), RowShape(words=words, pieces=pieces, predicted=1, targets=1))
    sizes = np.diff(rows.starts)
    counts = np.add.reduceat(stream().table.counts[stream().words], rows.starts[:-1])
    assert rows.starts[0] == 0 and rows.starts[-1] == len(stream().words)
    assert (sizes > 0).all() and (sizes <= words).all() and (counts <= pieces).all()


def test_a_row_too_short_for_a_word_is_refused():
    with pytest.raises(SpecError, match="make rows longer"):
        cut_rows(stream(), RowShape(words=4, pieces=3, predicted=1, targets=1))


def test_documents_without_masks_read_as_they_are():
    """Bytes and pieces of a row say the same text; words and pieces know their document."""
    documents = [raw for raw in DOCUMENTS if raw]
    for batch in document_rows(word_stream(DOCUMENTS, fitted(), cap=16), SHAPE, batch_size=2):
        assert not batch.target_counts.any()
        for row in range(2):
            text = b"".join(words_of(batch, row))
            pieces = batch.pieces[row][batch.piece_segment_ids[row] > 0]
            assert fitted().decode(pieces) == text
            assert any(raw.startswith(text) for raw in documents)
            assert set(batch.segment_ids[row].tolist()) <= {0, 1}


@pytest.mark.parametrize("one_mask", [False, True])
def test_masked_rows(one_mask):
    """Targets are the words themselves; what is read in their place is the mask, for bytes and for pieces."""
    shape = RowShape(words=12, pieces=24, predicted=3, targets=4, one_mask=one_mask)
    rows = cut_rows(stream(), shape)
    for step in range(6):
        batch = train_rows(rows, step, seed=3, batch_size=4, rate=0.25)
        for row, slot, ids in targets_of(batch):
            first = batch.first_piece[row, slot]
            if batch.word_bytes[row, slot, 0] != MASK_BYTE:
                continue
            assert batch.lengths[row, slot] == 1
            assert batch.pieces[row, first] == fitted().size
            whole = next(w for w in stream().table.words if first_pieces(w) == ids)
            masks = 1 if one_mask else len(fitted().encode(whole))
            assert (batch.pieces[row, first : first + masks] == fitted().size).all()
        hidden = (batch.word_bytes[..., 0] == MASK_BYTE) & (batch.lengths > 0)
        assert not one_mask or (batch.pieces == fitted().size).sum() == hidden.sum()
        assert (batch.segment_ids > 0).sum() == (batch.lengths > 0).sum()


def test_a_step_is_a_pure_function_and_hosts_share_it():
    rows = cut_rows(stream(), SHAPE)
    whole = train_rows(rows, 7, seed=1, batch_size=4, rate=0.2)
    again = train_rows(rows, 7, seed=1, batch_size=4, rate=0.2)
    parts = [train_rows(rows, 7, seed=1, batch_size=4, rate=0.2, host=host, hosts=2) for host in (0, 1)]
    other = train_rows(rows, 7, seed=2, batch_size=4, rate=0.2)
    for name in whole.__dataclass_fields__:
        value = getattr(whole, name)
        np.testing.assert_array_equal(value, getattr(again, name))
        np.testing.assert_array_equal(value, np.concatenate([getattr(part, name) for part in parts]))
    assert (whole.at != other.at).any()
    with pytest.raises(SpecError, match="hosts"):
        train_rows(rows, 0, seed=0, batch_size=3, rate=0.2, hosts=2)


def test_rate_and_shares_of_masks():
    """Of all words that are not white space the rate is predicted; of these 80% masked, 10% random, 10% kept."""
    text = word_stream([b"some words that are plain text, and no more than that; " * 40] * 30, fitted(), cap=16)
    shape = RowShape(words=40, pieces=120, predicted=10, targets=4)
    rows, rate = cut_rows(text, shape), 0.15
    clean = {word: first_pieces(word) for word in text.table.words}
    predicted = masked = kept = total = 0
    for step in range(60):
        batch = train_rows(rows, step, seed=0, batch_size=16, rate=rate)
        total += int(((batch.lengths > 0) & (batch.segment_ids > 0)).sum())
        for row, slot, ids in targets_of(batch):
            predicted += 1
            read = batch.word_bytes[row, slot, : batch.lengths[row, slot]]
            masked += read[0] == MASK_BYTE
            kept += read[0] != MASK_BYTE and clean[bytes(read.tolist())] == ids
    assert abs(predicted / total - rate) < 0.01  # whole words of rows of 40: rounding
    sigma = np.sqrt(0.25 / predicted)
    assert abs(masked / predicted - MASKED) < 4 * sigma
    same = 1 / len(text.table.words)  # a random word is the word itself now and then
    assert abs(kept / predicted - (1 - MASKED - RANDOM) - RANDOM * same) < 4 * sigma


@pytest.mark.parametrize("rate", [0.15, 0.3, 0.5])
def test_evaluation_predicts_every_word_once(rate):
    """Each word that is more than white space is a target once, and always hidden."""
    expected = sorted(
        tuple(first_pieces(stream().table.words[i])) for i in stream().words if stream().table.words[i].strip()
    )
    found = []
    for batch in eval_rows(stream(), SHAPE, batch_size=3, rate=rate):
        for row, slot, ids in targets_of(batch):
            assert batch.word_bytes[row, slot, 0] == MASK_BYTE
            found.append(tuple(ids))
    assert sorted(found) == expected


def test_noise_is_read_around_clean_targets():
    noisy = change_words(stream(), lambda word, place: word.swapcase() + b"#", fitted())
    assert noisy.table.words[: len(stream().table.words)] == stream().table.words
    np.testing.assert_array_equal(noisy.boundaries, stream().boundaries)
    expected = [tuple(first_pieces(stream().table.words[i])) for i in stream().words if stream().table.words[i].strip()]
    found = []
    for batch in eval_rows(stream(), SHAPE, batch_size=4, rate=0.2, inputs=noisy):
        shown = (batch.word_bytes[..., 0] != MASK_BYTE) & (batch.lengths > 0)
        ends = np.take_along_axis(batch.word_bytes, np.maximum(batch.lengths - 1, 0)[..., None], axis=-1)[..., 0]
        long = batch.lengths == batch.word_bytes.shape[-1]  # where the mark was cut off
        assert ((ends == ord("#")) | long)[shown].all()
        found += [tuple(ids) for _, _, ids in targets_of(batch)]
    assert sorted(found) == sorted(expected)


def test_a_change_to_nothing_keeps_the_word_and_long_ones_are_cut():
    gone = change_words(stream(), lambda word, place: b"", fitted())
    np.testing.assert_array_equal(gone.words, stream().words)
    longer = change_words(stream(), lambda word, place: word + b"x" * 40, fitted())
    assert max(map(len, longer.table.words)) == 16
