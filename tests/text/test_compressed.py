"""Codes as ids: where they are cut, and the header that neural codes travel with."""

import io

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest

from tokjax.coding.entropy import FittedEntropy
from tokjax.coding.neural import Transformer, to_tables
from tokjax.coding.saved import save_entropy
from tokjax.core.errors import SpecError, TokenizerError
from tokjax.nn.param import materialize
from tokjax.nn.transformer import TransformerSpec
from tokjax.systems.language.lm import Lm
from tokjax.text import Fitted, compressed, fit_tokenizer, load_tokenizer
from tokjax.text.compressed import from_ids, to_ids
from tokjax.text.stream import decode_stream, encode_stream

RECORDS = [b"the cat sat on the mat. ", b"a hat and a bat, and the cat. " * 20]
BACKBONE = TransformerSpec(width=16, layers=1, heads=2, hidden=16)
few = hypothesis.settings(max_examples=25, deadline=None)


@few
@hypothesis.given(codes=st.lists(st.binary(max_size=9), max_size=4), token_bits=st.sampled_from([8, 16]))
def test_ids_hold_codes_of_any_length(codes, token_bits):
    ids = [to_ids(code, token_bits) for code in codes]
    assert [from_ids(part, token_bits) for part in ids] == codes
    joined = np.concatenate([np.zeros(0, np.int32), *ids])
    assert from_ids(joined, token_bits) == b"".join(codes)
    assert joined.max(initial=0) < (256 if token_bits == 8 else (1 << 16) + 256)


@pytest.mark.parametrize("name", ["gzip", "ac"])
@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 128, 200])
def test_a_separator_follows_every_full_chunk(name, size):
    tokenizer = fit_tokenizer(name, RECORDS, chunk_bytes=64)
    raw = (RECORDS[1] * 2)[:size]
    ids = tokenizer.encode(raw)
    assert np.count_nonzero(ids == tokenizer.size - 1) == size // 64
    assert tokenizer.decode(ids) == raw
    assert tokenizer.safe_cut(raw) == size // 64 * 64
    assert tokenizer.safe_ids(ids) == int(np.flatnonzero(ids == tokenizer.size - 1).max(initial=-1)) + 1


def test_ids_that_are_no_code_are_an_error():
    for name, message in (("gzip", "not a zlib stream"), ("ac", "not the code of a text")):
        tokenizer = fit_tokenizer(name, RECORDS)
        with pytest.raises(TokenizerError, match=message):
            tokenizer.decode(np.arange(9))


def test_nothing_may_follow_the_end_of_a_code():
    gzip = fit_tokenizer("gzip", RECORDS)
    ids = gzip.encode(RECORDS[1])
    with pytest.raises(TokenizerError, match="goes on behind its end"):
        gzip.decode(np.concatenate([ids, ids]))
    with pytest.raises(TokenizerError, match="it has no end"):
        gzip.decode(ids[:-3])
    coder = fit_tokenizer("ac", RECORDS)
    with pytest.raises(TokenizerError, match="not the code of a text"):
        coder.decode(np.append(coder.encode(RECORDS[1]), 0))


def test_long_documents_are_coded_a_part_at_a_time(monkeypatch):
    tokenizer = fit_tokenizer("ac", RECORDS, chunk_bytes=50)
    ((whole, _),) = tokenizer.encode_many([RECORDS[1] * 2])
    monkeypatch.setattr(compressed, "TOGETHER", 100)
    ((parts, _),) = tokenizer.encode_many([RECORDS[1] * 2])
    np.testing.assert_array_equal(whole, parts)


def test_a_damaged_entropy_model_is_named():
    tokenizer = fit_tokenizer("ac", RECORDS)
    tables = {name: array for name, array in tokenizer.tables.items() if name != "entropy/offset"}
    with pytest.raises(TokenizerError, match="lacks its table offset"):
        tokenizer.spec.decode(tables, np.arange(3))


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"token_bits": 8.0}, "token_bits: got 8.0"), ({"chunk_bytes": 1 << 30}, "chunk_bytes: got 1073741824")],
)
def test_impossible_fields_say_so(fields, message):
    with pytest.raises(SpecError, match=message):
        fit_tokenizer("ac", RECORDS, **fields)


# ---- a neural network beside the coder ----


def entropy_directory(path, *, rows=16, seed=0) -> str:
    params = materialize(Lm(vocab_size=257, backbone=BACKBONE).declare(), jax.random.key(seed))
    spec = Transformer(backbone=BACKBONE, context=40, rows=rows)
    save_entropy(FittedEntropy("transformer", spec, to_tables(params, np.arange(256))), path)
    return str(path)


@pytest.fixture(scope="module", params=["ac", "equal_info"])
def neural(request, tmp_path_factory) -> Fitted:
    directory = entropy_directory(tmp_path_factory.mktemp("m1"))
    return fit_tokenizer(request.param, RECORDS, entropy=directory, chunk_bytes=50)


def encoded(tokenizer: Fitted, raw: bytes, *, text: bool = False) -> bytes:
    writer = io.BytesIO()
    encode_stream(tokenizer, io.BytesIO(raw), writer, text=text)
    return writer.getvalue()


def decoded(tokenizer: Fitted, stream: bytes, *, text: bool = False) -> bytes:
    writer = io.BytesIO()
    decode_stream(tokenizer, io.BytesIO(stream), writer, text=text)
    return writer.getvalue()


def test_neural_codes_come_back_whatever_row_they_are_in(neural, tmp_path):
    texts = [RECORDS[1][:130], b"", b"\xff\x00" * 40, *(bytes([i, i + 1, 32]) for i in range(20))]
    ids = [ids for ids, _ in neural.encode_many(texts)]  # many rows at once
    for raw, part in zip(texts, ids, strict=True):  # each in the first row, beside nothing
        np.testing.assert_array_equal(neural.encode(raw), part)
    assert [neural.decode(part) for part in ids] == texts
    neural.save(tmp_path)
    assert load_tokenizer(tmp_path).decode(ids[0]) == texts[0]


@pytest.mark.parametrize("text", [False, True])
def test_neural_streams_begin_with_a_header_that_is_checked(neural, tmp_path, text):
    raw = RECORDS[1][:120]
    stream = encoded(neural, raw, text=text)
    header, _, rest = stream.partition(b"\n")
    assert header.startswith(b"#{") and neural.hash.encode() in header and b'"device' in header
    assert decoded(neural, stream, text=text) == raw
    with pytest.raises(TokenizerError, match="do not begin with the header"):
        decoded(neural, rest, text=text)
    with pytest.raises(TokenizerError, match="do not begin with the header"):
        decoded(neural, b"", text=text)
    with pytest.raises(TokenizerError, match="do not begin with the header"):
        decoded(neural, b'#{"' + b"[" * 60_000, text=text)
    if not text:
        with pytest.raises(TokenizerError, match="begin with the header of a neural tokenizer"):
            decoded(load_tokenizer("bytes"), stream)
    other = header.replace(b'"rows": 16', b'"rows": 64') + b"\n" + rest
    with pytest.raises(TokenizerError, match="rows: 64 there, 16 here"):
        decoded(neural, other, text=text)


def test_another_batch_shape_is_refused(neural, tmp_path):
    directory = entropy_directory(tmp_path, rows=32)
    wider = fit_tokenizer(neural.name, RECORDS, entropy=directory, chunk_bytes=50)
    with pytest.raises(TokenizerError, match="rows: 16 there, 32 here"):
        decoded(wider, encoded(neural, RECORDS[0]))


def test_a_model_that_is_not_trained_says_how():
    with pytest.raises(SpecError, match="tokjax train --config m1"):
        fit_tokenizer("ac", RECORDS, entropy="transformer")
