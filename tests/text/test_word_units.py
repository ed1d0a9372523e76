"""Words of bytes, characters or subwords: lossless, capped, and the same words as the splitter's."""

import functools
import pydoc_data.topics
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from tokjax.core import vocabulary
from tokjax.core.errors import SpecError, TokenizerError
from tokjax.text.splitter import split
from tokjax.text.unicode_tables import unicode_tables
from tokjax.text.word_units import WholeWords, WordUnits
from tokjax.text.words import Words

RECORDS: Any = [text.encode() for _, text in sorted(pydoc_data.topics.topics.items())[:10]]
RECORDS += ["В начале было слово, и слово было у Бога. 太初有道。".encode() * 4]
CLASSES = unicode_tables()
BASES = ("bytes", "characters", "bpe")
RAW = st.one_of(
    st.binary(max_size=120),
    st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.lists(
        st.sampled_from([b"the ", b"import", b"----------", "слово ".encode(), "道".encode(), b"\n", b"\xff"])
    ).map(b"".join),
)
every_base = pytest.mark.parametrize("base", BASES)


@functools.cache
def fitted(base: str, cap: int = 6):
    spec = WordUnits(base=base, cap=cap, vocab_size=700)
    return spec, spec.fit(RECORDS)


def words_of(spec: WordUnits, tables: Any, ids: np.ndarray) -> list[np.ndarray]:
    """The units of each word; nothing may follow the last end of a word."""
    ends = np.flatnonzero(ids == spec.end_of_word(tables))
    *words, rest = np.split(ids, ends + 1)
    assert len(rest) == 0
    return [word[:-1] for word in words]


@settings(max_examples=100)
@given(raw=RAW, cap=st.integers(4, 20))
def test_over_bytes_the_ids_are_those_of_words(raw, cap):
    spec = WordUnits(base="bytes", cap=cap)
    np.testing.assert_array_equal(spec.encode(CLASSES, raw), Words(cap=cap).encode(CLASSES, raw))
    assert spec.size(CLASSES) == Words().size(CLASSES)
    assert spec.word_cap == cap and WordUnits(base="characters", cap=cap).word_cap is None


@every_base
@settings(max_examples=100)
@given(raw=RAW)
def test_words_have_one_to_cap_units_and_lose_nothing(base, raw):
    spec, tables = fitted(base)
    ids = spec.encode(tables, raw)
    words = words_of(spec, tables, ids)
    assert all(1 <= len(word) <= spec.cap for word in words)
    assert b"".join(spec.decode(tables, word) for word in words) == raw == spec.decode(tables, ids)
    units = spec.units(tables, ids)
    assert units.sum() == len(raw)
    np.testing.assert_array_equal(units == 0, ids == spec.end_of_word(tables))


@pytest.mark.parametrize("base", ["characters", "bpe"])
@settings(max_examples=100)
@given(raw=RAW)
def test_a_word_is_cut_only_where_the_cap_is_reached(base, raw):
    """The words, with those that are full joined to the next, are the splitter's."""
    spec, tables = fitted(base)
    joined = [b""]
    for word in words_of(spec, tables, spec.encode(tables, raw)):
        joined[-1] += spec.decode(tables, word)
        if len(word) < spec.cap:
            joined.append(b"")
    ends = set(np.cumsum([len(word) for word in split(raw, 4 * spec.cap, CLASSES)]))
    assert set(np.cumsum([len(word) for word in joined])) - {0, len(raw)} <= ends


def test_subwords_stay_inside_words():
    spec, tables = fitted("bpe", cap=16)
    learned = vocabulary.unpack(tables)[256:]
    assert len(learned) > 300
    crossing = [token for token in learned if len(split(token, 64, CLASSES)) > 1]
    assert not crossing
    ids = spec.encode(tables, b"howAreYou import the module")
    pieces = [spec.decode(tables, word) for word in words_of(spec, tables, ids)]
    assert pieces == [b"how", b"Are", b"You", b" import", b" the", b" module"]
    assert len(words_of(spec, tables, ids)[3]) < len(b" import")


def test_characters_have_a_unit_each():
    spec, tables = fitted("characters")
    (word,) = words_of(spec, tables, spec.encode(tables, "слово".encode()))
    assert len(word) == 5 and spec.units(tables, word).tolist() == [2] * 5


@every_base
def test_streams_restart_at_lines(base):
    spec, tables = fitted(base)
    assert spec.safe_cut(tables, b"one two\nthree") == len(b"one two\n")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"base": "letters"}, "base: got 'letters'"),
        ({"cap": 3}, "cap: got 3"),
        ({"vocab_size": 256}, "vocab_size: got 256; use at least 257"),
        ({"base": "bpe", "vocab_size": 257}, "vocab_size: got 257; use at least 258"),
    ],
)
def test_impossible_fields_are_refused(fields, message):
    with pytest.raises(SpecError, match=message):
        WordUnits(**fields)


@every_base
def test_ids_outside_the_vocabulary_are_refused(base):
    spec, tables = fitted(base)
    for method in (spec.decode, spec.units):
        with pytest.raises(TokenizerError, match="outside"):
            method(tables, np.array([65, spec.size(tables)]))


@functools.cache
def whole_words(vocab_size: int):
    spec = WholeWords(vocab_size=vocab_size)
    return spec, spec.fit(RECORDS)


@settings(max_examples=100)
@given(raw=RAW, vocab_size=st.sampled_from([256, 300, 2000]))
def test_a_word_is_one_id_or_its_bytes(raw, vocab_size):
    spec, tables = whole_words(vocab_size)
    ids = {word: index for index, word in enumerate(vocabulary.unpack(tables))}
    expected = [unit for word in split(raw, 64, CLASSES) for unit in ([ids[word]] if word in ids else word)]
    assert spec.encode(tables, raw).tolist() == expected
    assert spec.decode(tables, np.array(expected, np.int32)) == raw
    assert spec.size(tables) <= vocab_size


def test_whole_words_are_the_most_frequent():
    spec = WholeWords(vocab_size=258)
    records: Any = [b"tea tea tea", b"x x cup cup"]
    assert vocabulary.unpack(spec.fit(records))[256:] == [b" cup", b" tea"]  # twice each; then " x", "cup" and "tea"


def test_whole_words_refuse_what_has_no_room():
    with pytest.raises(SpecError, match="vocab_size: got 255"):
        WholeWords(vocab_size=255)
    with pytest.raises(SpecError, match="cap: got 2"):
        WholeWords(cap=2)
