"""An alphabet: the characters of a text have an id each, the rest is bits, and nothing is lost."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from tokjax.core import vocabulary
from tokjax.core.errors import SpecError
from tokjax.text.alphabet import Alphabet

RECORDS = [b"banana bread", "ba ba é".encode(), b"\xff broken"]
RAW = st.one_of(st.binary(max_size=40), st.text(st.sampled_from("abé京🙂 X"), max_size=30).map(str.encode))


def fitted(vocab_size=132):
    spec = Alphabet(vocab_size=vocab_size)
    return spec, spec.fit(RECORDS)


def test_ids_are_bits_and_then_the_characters_of_the_text_by_frequency():
    spec, tables = fitted()
    assert vocabulary.unpack(tables)[:4] == [b"", b"", b"a", b"b"]
    assert spec.size(tables) == 2 + len(set("banana bread ba ba é broken"))
    assert spec.size(spec.fit([])) == 2


def test_other_bytes_are_their_bits():
    spec, tables = fitted(vocab_size=4)  # "a" and "b"
    assert spec.encode(tables, b"a b").tolist() == [2, *map(int, f"{ord(' '):08b}"), 3]
    assert spec.units(tables, spec.encode(tables, b" ba")).tolist() == [0] * 7 + [1, 1, 1]


@given(raw=RAW, vocab_size=st.sampled_from([3, 6, 132]))
def test_every_cut_that_is_called_safe_is(raw, vocab_size):
    spec, tables = fitted(vocab_size)
    ids = spec.encode(tables, raw)
    assert spec.decode(tables, ids) == raw
    for count in range(len(ids) + 1):
        safe = spec.safe_ids(tables, ids[:count])
        assert count - 8 < safe <= count
        assert spec.decode(tables, ids[:safe]) + spec.decode(tables, ids[safe:]) == raw


@given(ids=st.lists(st.integers(0, 5), max_size=40))
def test_any_ids_decode_to_as_many_bytes_as_they_stand_for(ids):
    spec, tables = fitted(vocab_size=6)
    ids = np.array(ids, np.int32)
    assert len(spec.decode(tables, ids)) == spec.units(tables, ids).sum()


def test_no_room_for_a_character_is_refused():
    with pytest.raises(SpecError, match="vocab_size: got 2; use more than 2: bits come first"):
        Alphabet(vocab_size=2)
