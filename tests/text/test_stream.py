"""Streams of ids: exact inverses, the wire format, and every way the input can be wrong."""

import io
import pydoc_data.topics
import tracemalloc
from typing import Any

import numpy as np
import pytest

from tokjax.core.errors import TokenizerError
from tokjax.text import fit_tokenizer, load_tokenizer, stream
from tokjax.text.stream import decode_stream, encode_stream, wire_dtype

TEXT = "".join(text for _, text in sorted(pydoc_data.topics.topics.items())[:10]).encode()
RECORDS: Any = [TEXT]


@pytest.fixture(scope="module")
def bpe():
    return fit_tokenizer("bpe", RECORDS, vocab_size=600)


def encoded(tokenizer, raw, **options):
    writer = io.BytesIO()
    encode_stream(tokenizer, io.BytesIO(raw), writer, **options)
    return writer.getvalue()


def decoded(tokenizer, ids, **options):
    writer = io.BytesIO()
    decode_stream(tokenizer, io.BytesIO(ids), writer, **options)
    return writer.getvalue()


def test_the_wire_is_sixteen_bits_up_to_65536_ids():
    assert wire_dtype(65_536) == np.dtype("<u2") and wire_dtype(65_537) == np.dtype("<u4")


def test_binary_and_text_carry_the_ids_of_the_whole(bpe):
    ids = bpe.encode(TEXT)
    assert encoded(bpe, TEXT, block=1000) == ids.astype("<u2").tobytes()
    assert encoded(bpe, TEXT, block=1000, text=True) == "".join(f"{token}\n" for token in ids).encode()


def test_counts_are_those_of_the_streams(bpe):
    writer, back = io.BytesIO(), io.BytesIO()
    assert encode_stream(bpe, io.BytesIO(TEXT), writer) == (len(TEXT), len(bpe.encode(TEXT)))
    writer.seek(0)
    assert decode_stream(bpe, writer, back) == (len(bpe.encode(TEXT)), len(TEXT))


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("block", [1, 3, 1000])
def test_decoding_reads_in_blocks_of_any_size(bpe, text, block):
    raw = TEXT[:2000] + b"\xff\x00"
    assert decoded(bpe, encoded(bpe, raw, text=text), text=text, block=block) == raw


@pytest.mark.parametrize("text", [False, True])
def test_nothing_is_nothing(bpe, text):
    assert encoded(bpe, b"", text=text) == b"" and decoded(bpe, b"", text=text) == b""


def test_binary_cut_short_is_an_error(bpe):
    with pytest.raises(TokenizerError, match="cut short"):
        decoded(bpe, encoded(bpe, TEXT)[:-1])


@pytest.mark.parametrize("block", [5, 1 << 20])
@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (b"1\n2\n3", "Line 3 .*cut short"),
        (b"1\n2\n-3\n", "Line 3 "),
        (b"1\n\n3\n", "Line 2 "),
        (b"1\n2 3\n", "Line 2 "),
        (b"1\n1_0\n", "Line 2 "),
        (b"1\n99999999999999\n", "Line 2 "),
        (b"1" * 100, "Line 1 "),
        (b"\x00\x01\x02\x03" * 100, "Line 1 "),
        (b"1\n9999999999\n", "outside"),
        (b"1\n600\n", "outside"),
    ],
)
def test_text_that_is_not_ids_is_an_error(bpe, ids, message, block):
    with pytest.raises(TokenizerError, match=message):
        decoded(bpe, ids, text=True, block=block)


def test_binary_ids_outside_the_vocabulary_are_an_error(bpe):
    with pytest.raises(TokenizerError, match="outside"):
        decoded(bpe, b"\xff\xff")


def test_a_tokenizer_without_a_safe_cut_is_still_exact():
    class NoCut:
        size = 256
        asked = 0
        signature: dict = {}  # noqa: RUF012

        def encode(self, raw):
            return np.frombuffer(raw, np.uint8).astype(np.int32)

        def safe_cut(self, raw):
            self.asked += 1
            return 0

    tokenizer = NoCut()
    assert encoded(tokenizer, TEXT, block=64)[::2] == TEXT
    assert tokenizer.asked < 20  # the held stretch doubles, so the search is not repeated at every block


def test_memory_does_not_grow_with_the_input(monkeypatch):
    """Python's own allocations peak at the same level for 4 MB and 16 MB."""
    monkeypatch.setattr(stream, "WORKERS", 1)
    tokenizer = load_tokenizer("bytes")

    class Zeros(io.BytesIO):
        def __init__(self, size):
            super().__init__()
            self.left = size

        def read(self, size=-1):
            count = min(size, self.left)
            self.left -= count
            return bytes(count)

    class Sink(io.BytesIO):
        def write(self, data):
            return len(data)

    def peak(size):
        tracemalloc.start()
        encode_stream(tokenizer, Zeros(size), Sink(), block=1 << 18)
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    assert peak(16 << 20) < 1.2 * peak(4 << 20)
