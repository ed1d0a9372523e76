"""Characters: frequent ones have an id each, the rest are bytes, and nothing is lost."""

import collections

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import example, given, settings

from tokjax.core import vocabulary
from tokjax.core.errors import SpecError
from tokjax.text.characters import Characters

TEXT = "Жили-были дед да баба. 東京都と京都府 naïve café 🙂🙂 " * 3
RECORDS = [TEXT.encode(), b"plain ASCII", b"\xff\xfe broken \xe6\x9d", "京".encode() * 5]
RAW = st.one_of(
    st.binary(max_size=60),
    st.text(st.sampled_from("aЖб東京é🙂\u07ff\uffff"), max_size=40).map(str.encode),
    st.lists(st.sampled_from([b"\xf0\x9f", b"\xed\xa0\x80", "🙂".encode(), b"a", "ш".encode()])).map(b"".join),
)


def fitted(vocab_size: int = 300):
    spec = Characters(vocab_size=vocab_size)
    return spec, spec.fit(RECORDS)


def test_ids_are_bytes_and_then_characters_by_frequency():
    spec, tables = fitted()
    tokens = vocabulary.unpack(tables)
    assert tokens[:256] == [bytes([byte]) for byte in range(256)]
    counts = collections.Counter(TEXT + "京" * 5)
    learned = [token.decode() for token in tokens[256:]]
    assert sorted(learned) == sorted(c for c in counts if ord(c) > 127)
    assert [counts[c] for c in learned] == sorted((counts[c] for c in learned), reverse=True)
    assert learned[0] == "京"
    assert spec.size(tables) == 256 + len(learned) <= 300


def test_only_the_most_frequent_characters_fit():
    spec, tables = fitted(vocab_size=258)
    whole = vocabulary.unpack(fitted()[1])
    assert vocabulary.unpack(tables) == whole[:258]
    kyo = vocabulary.unpack(tables).index("京".encode())
    assert spec.encode(tables, "a京é".encode()).tolist() == [ord("a"), kyo, *"é".encode()]


def test_a_text_of_bytes_only_needs_no_characters():
    spec = Characters(vocab_size=256)
    assert spec.size(spec.fit(RECORDS)) == 256
    assert spec.encode(spec.fit([]), "é".encode()).tolist() == [*"é".encode()]


@settings(max_examples=200, deadline=None)
@given(raw=RAW, vocab_size=st.sampled_from([256, 260, 300]))
def test_each_learned_character_is_one_id_and_all_else_is_bytes(raw, vocab_size):
    spec, tables = fitted(vocab_size)
    tokens = vocabulary.unpack(tables)
    learned = {token.decode(): 256 + i for i, token in enumerate(tokens[256:])}
    expected = []
    for c in raw.decode("utf-8", "surrogateescape"):
        expected += [learned[c]] if c in learned else c.encode("utf-8", "surrogateescape")
    ids = spec.encode(tables, raw)
    assert ids.dtype == np.int32
    assert ids.tolist() == expected
    assert spec.decode(tables, ids) == raw
    assert spec.units(tables, ids).sum() == len(raw)


@settings(max_examples=200, deadline=None)
@given(raw=RAW)
@example(raw="🙂".encode()[:3])
@example(raw=b"a\xf0")
@example(raw=b"\xf0\x80\x80")
def test_a_stream_carries_at_most_an_unfinished_character(raw):
    spec, tables = fitted()
    cut = spec.safe_cut(tables, raw)
    assert len(raw) - 3 <= cut <= len(raw)
    if raw.decode("utf-8", "ignore").encode() == raw:
        assert cut == len(raw)
    ids, carry = [], b""
    for byte in raw:
        carry += bytes([byte])
        cut = spec.safe_cut(tables, carry)
        ids += spec.encode(tables, carry[:cut]).tolist()
        carry = carry[cut:]
    assert ids + spec.encode(tables, carry).tolist() == spec.encode(tables, raw).tolist()


def test_a_vocabulary_smaller_than_the_bytes_is_refused():
    with pytest.raises(SpecError, match="vocab_size: got 255"):
        Characters(vocab_size=255)
