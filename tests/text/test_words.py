"""Words and bytes as tokenizers: lossless on any bytes, and the same ids streamed as at once."""

import random

import chex
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from tokjax.core.errors import SpecError, TokenizerError
from tokjax.core.registry import tokenizers
from tokjax.data.documents import open_documents
from tokjax.text.bytes import Bytes
from tokjax.text.splitter import SEGMENT_BYTES, split
from tokjax.text.unicode_tables import unicode_tables
from tokjax.text.words import END_OF_WORD, Patches, Words

TABLES = unicode_tables()
RAW = st.one_of(st.binary(max_size=200), st.text(max_size=100).map(lambda text: text.encode("utf-8", "replace")))


def stream(tokenizer: Words, chunks: list[bytes]) -> tuple[np.ndarray, int]:
    """Returns the ids of the chunks read one by one, and the most bytes carried between them."""
    ids, carry, most = [], b"", 0
    for chunk in chunks:
        carry += chunk
        cut = tokenizer.safe_cut(TABLES, carry)
        ids.append(tokenizer.encode(TABLES, carry[:cut]))
        carry = carry[cut:]
        most = max(most, len(carry))
    return np.concatenate([*ids, tokenizer.encode(TABLES, carry)]), most


def chunks_of(raw: bytes, seed: int, largest: int) -> list[bytes]:
    rng, chunks = random.Random(seed), []
    while raw:
        size = rng.randint(1, largest)
        chunks.append(raw[:size])
        raw = raw[size:]
    return chunks


def test_words_end_with_the_end_of_word_id():
    ids = Words().encode(TABLES, b"Hi you!")
    assert ids.dtype == np.int32
    assert ids.tolist() == [*b"Hi", END_OF_WORD, *b" you!", END_OF_WORD]


@settings(max_examples=200, deadline=None)
@given(raw=RAW, cap=st.integers(4, 20))
def test_words_are_the_pieces_and_lose_nothing(raw, cap):
    words = Words(cap=cap)
    ids = words.encode(TABLES, raw)
    closed = np.flatnonzero(ids == END_OF_WORD)
    assert [words.decode(TABLES, word) for word in np.split(ids, closed + 1)[:-1]] == split(raw, cap, TABLES)
    assert words.decode(TABLES, ids) == raw
    assert words.units(TABLES, ids).sum() == len(raw)
    assert ids.size == 0 or ids[-1] == END_OF_WORD


@pytest.mark.parametrize(
    "raw",
    [
        b"x" * 1_100_000,
        ("жaЖ" * 220_000).encode(),
        bytes(random.Random(0).choices(b"ab \xe2\x82\xac\xf0\x9f", k=300_000)),
        b"The cat sat.\n" * 40_000,
    ],
    ids=["one line", "one line, not ASCII", "one line, not text", "lines"],
)
def test_a_stream_gives_the_ids_of_the_whole(raw):
    words = Words()
    ids, carried = stream(words, chunks_of(raw, seed=1, largest=90_000))
    np.testing.assert_array_equal(ids, words.encode(TABLES, raw))
    assert carried <= SEGMENT_BYTES + 3


def test_fit_does_not_depend_on_the_source():
    chex.assert_trees_all_equal(*(Words().fit(open_documents("test", [raw])) for raw in (b"a", "ж".encode())))


@given(raw=RAW, more=RAW, cap=st.integers(4, 20))
def test_patches_have_cap_bytes(raw, more, cap):
    patches = Patches(cap=cap)
    ids = patches.encode({}, raw)
    closed = np.flatnonzero(ids == END_OF_WORD)
    assert [len(patch) - 1 for patch in np.split(ids, closed + 1)[:-1]] == [
        min(cap, len(raw) - start) for start in range(0, len(raw), cap)
    ]
    assert patches.decode({}, ids) == raw
    n = patches.safe_cut({}, raw)
    apart = [*patches.encode({}, raw[:n]), *patches.encode({}, raw[n:] + more)]
    assert apart == patches.encode({}, raw + more).tolist()
    assert len(raw) - n < cap


def test_a_cap_below_one_character_is_refused():
    with pytest.raises(SpecError, match="cap: got 3"):
        Words(cap=3)


@given(raw=st.binary(max_size=100))
def test_bytes_are_their_own_ids(raw):
    ids = Bytes().encode({}, raw)
    assert ids.dtype == np.int32
    assert ids.tolist() == list(raw)
    assert Bytes().decode({}, ids) == raw
    assert Bytes().units({}, ids).tolist() == [1] * len(raw)


@pytest.mark.parametrize(("tokenizer", "outside"), [(Bytes(), 256), (Words(), 257), (Bytes(), -1)])
def test_ids_outside_the_vocabulary_are_refused(tokenizer, outside):
    for method in (tokenizer.decode, tokenizer.units):
        with pytest.raises(TokenizerError, match=f"Id {outside} is outside"):
            method(TABLES, np.array([65, outside]))


def test_all_are_registered():
    assert tokenizers["patches"] is Patches
    assert tokenizers["words"] is Words
    assert tokenizers["bytes"] is Bytes
