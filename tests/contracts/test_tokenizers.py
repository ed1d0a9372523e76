"""What every registered tokenizer must do. A new one is tested here without being named."""

import dataclasses
import functools
import io
import pydoc_data.topics

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest

from tokjax.core.errors import TokenizerError
from tokjax.core.registry import tokenizers
from tokjax.data.documents import open_documents
from tokjax.text import Fitted, fit_tokenizer
from tokjax.text.splitter import split
from tokjax.text.stream import decode_stream, encode_stream

RECORDS = [text.encode() for _, text in sorted(pydoc_data.topics.topics.items())[:12]]
EDGE_CASES = {
    "empty": b"",
    "one byte": b"\x80",
    "all zero": bytes(300),
    "all ones": b"\xff" * 300,
    "every byte": bytes(range(256)) * 2,
    "cut utf-8": "é漢🙂".encode()[:-1],
    "surrogate": b"\xed\xa0\x80 \xf5\x80",
    "emoji": "👩‍👩‍👧 🙂 naïve".encode(),
    "CJK": "漢字かなカナ한글。".encode(),
    "white space": b" \t\r\n\r\n  \n x \x0b\x0c y  ",
    "digits": b"1234567 12 3.14159 " * 5,
    "text": RECORDS[0][:3000],
}

every_tokenizer = pytest.mark.parametrize("name", list(tokenizers))
few = hypothesis.settings(max_examples=30, deadline=None)
texts_and_bytes = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.lists(st.sampled_from([b"the ", b"\n", b"\r\n", b" ", b"12", b"\xff", "é".encode(), b"def f(x):"])).map(
        b"".join
    ),
)


def fit(name: str) -> Fitted:
    fields = {field.name for field in dataclasses.fields(tokenizers[name])}
    small = {"vocab_size": 512} if "vocab_size" in fields else {}
    return fit_tokenizer(name, open_documents("records", RECORDS), key=jax.random.key(0), **small)


fitted = functools.lru_cache(fit)


def check_round_trip(tokenizer: Fitted, raw: bytes) -> None:
    ids = tokenizer.encode(raw)
    chex.assert_rank(ids, 1)
    assert ids.dtype == np.int32
    assert len(ids) == 0 or (ids.min() >= 0 and ids.max() < tokenizer.size)
    decoded, units = tokenizer.decode(ids), tokenizer.units(ids)
    assert units.dtype == np.int32 and units.shape == ids.shape
    assert units.sum() == len(decoded)
    if tokenizer.spec.lossless:
        assert decoded == raw
    ((together, units_together),) = tokenizer.encode_many([raw])
    np.testing.assert_array_equal(together, ids)
    if tokenizer.spec.lossless:
        np.testing.assert_array_equal(units_together, units)


def stream_encode(tokenizer: Fitted, raw: bytes, block: int, *, text: bool = False) -> bytes:
    writer = io.BytesIO()
    read, count = encode_stream(tokenizer, io.BytesIO(raw), writer, text=text, block=block)
    assert read == len(raw) and count == len(tokenizer.encode(raw))
    return writer.getvalue()


@every_tokenizer
@pytest.mark.parametrize("case", EDGE_CASES)
def test_edge_cases_round_trip(name, case):
    check_round_trip(fitted(name), EDGE_CASES[case])


@every_tokenizer
@few
@hypothesis.given(raw=texts_and_bytes)
def test_any_bytes_round_trip(name, raw):
    check_round_trip(fitted(name), raw)


@every_tokenizer
@few
@hypothesis.given(raw=texts_and_bytes, cut=st.integers(0, 200))
def test_decoding_is_a_concatenation(name, raw, cut):
    tokenizer = fitted(name)
    ids = tokenizer.encode(raw)
    if not tokenizer.spec.context_free:
        cut = tokenizer.safe_ids(ids[:cut])
        assert tokenizer.decode(ids[:cut]) + tokenizer.decode(ids[cut:]) == tokenizer.decode(ids)
        return
    assert tokenizer.safe_ids(ids) == len(ids)
    assert tokenizer.decode(ids[:cut]) + tokenizer.decode(ids[cut:]) == tokenizer.decode(ids)
    assert [len(tokenizer.decode(ids[i : i + 1])) for i in range(len(ids))] == tokenizer.units(ids).tolist()


@every_tokenizer
@few
@hypothesis.given(raw=texts_and_bytes, more=texts_and_bytes)
def test_a_safe_cut_is_safe_whatever_follows(name, raw, more):
    tokenizer = fitted(name)
    cut = tokenizer.safe_cut(raw)
    assert 0 <= cut <= len(raw)
    parts = [tokenizer.encode(raw[:cut]), tokenizer.encode(raw[cut:] + more)]
    np.testing.assert_array_equal(np.concatenate(parts), tokenizer.encode(raw + more))


@every_tokenizer
def test_documents_together_give_the_ids_of_each_alone(name):
    tokenizer = fitted(name)
    documents = [*EDGE_CASES.values(), *RECORDS[:3]]
    for raw, (ids, units) in zip(documents, tokenizer.encode_many(documents), strict=True):
        np.testing.assert_array_equal(ids, tokenizer.encode(raw))
        assert units.sum() == len(raw)


@every_tokenizer
@few
@hypothesis.given(raw=texts_and_bytes, block=st.integers(1, 64))
def test_a_stream_gives_the_ids_of_the_whole(name, raw, block):
    tokenizer = fitted(name)
    dtype = "<u2" if tokenizer.size <= 65536 else "<u4"
    np.testing.assert_array_equal(np.frombuffer(stream_encode(tokenizer, raw, block), dtype), tokenizer.encode(raw))


@every_tokenizer
@pytest.mark.parametrize("text", [False, True])
def test_streams_are_exact_inverses(name, text):
    tokenizer = fitted(name)
    raw = b"".join(RECORDS) + EDGE_CASES["every byte"] + EDGE_CASES["cut utf-8"]
    back = io.BytesIO()
    decode_stream(tokenizer, io.BytesIO(stream_encode(tokenizer, raw, 5000, text=text)), back, text=text, block=777)
    assert back.getvalue() == tokenizer.decode(tokenizer.encode(raw))


@every_tokenizer
@few
@hypothesis.given(raw=texts_and_bytes)
def test_words_of_bytes_are_the_splitters(name, raw):
    """What has a longest word, so that text can be generated by it, encodes those words and nothing else."""
    tokenizer = fitted(name)
    if (cap := tokenizer.spec.word_cap) is None:
        return
    words = split(raw, cap, tokenizer.tables)
    assert tokenizer.encode(raw).tolist() == [symbol for word in words for symbol in (*word, 256)]


@every_tokenizer
def test_fitting_twice_gives_the_same_hash(name):
    assert fit(name).hash == fitted(name).hash


@every_tokenizer
def test_saving_keeps_the_hash_and_the_ids(name, tmp_path):
    tokenizer = fitted(name)
    tokenizer.save(tmp_path)
    loaded = Fitted.load(tmp_path)
    assert loaded.hash == tokenizer.hash and loaded.spec == tokenizer.spec
    np.testing.assert_array_equal(loaded.encode(RECORDS[0]), tokenizer.encode(RECORDS[0]))


@every_tokenizer
@pytest.mark.parametrize("offset", [-1, 0, 1])
def test_an_id_outside_the_vocabulary_is_an_error(name, offset):
    tokenizer = fitted(name)
    bad = np.array([-1 if offset < 0 else tokenizer.end_of_document + offset])
    for method in (tokenizer.decode, tokenizer.units):
        with pytest.raises(TokenizerError, match="outside"):
            method(bad)


@every_tokenizer
def test_the_tokenizer_has_a_summary_and_a_hashable_spec(name):
    assert tokenizers.entry(name).summary
    assert hash(fitted(name).spec) == hash(fit(name).spec)
