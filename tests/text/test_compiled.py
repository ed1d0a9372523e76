"""The compiled tokenizer: what its tokens are, and how it is built, streamed and refused."""

import io
import logging
import pydoc_data.topics
from typing import Any

import numpy as np
import pytest

from tokjax.coding import match, strings
from tokjax.coding.entropy import fit_entropy
from tokjax.core.errors import SourceError, SpecError
from tokjax.text import fit_tokenizer, stream
from tokjax.text.compiled import Compiled

TOPICS: Any = [text.encode() for _, text in sorted(pydoc_data.topics.topics.items())]
TEXT = b"\n".join(TOPICS)


@pytest.fixture(scope="module")
def compiled():
    return fit_tokenizer("compiled", TOPICS, vocab_size=4096)


def test_no_string_outside_the_table_is_more_probable_than_one_inside(compiled):
    tokens = strings.unpack(compiled.tables)
    model = fit_entropy("ngram", TOPICS)
    inside = set(tokens)
    bits = {b"": 0.0}
    outside = np.inf
    for token, row in zip(["", *tokens], model.next_probabilities([b"", *tokens]), strict=True):
        token = token or b""
        for byte, extra in enumerate(-np.log2(row)):
            child = token + bytes([byte])
            if child in inside:
                bits[child] = bits[token] + extra
            else:
                outside = min(outside, bits[token] + extra)
    assert max(bits[token] for token in tokens[256:]) <= outside + 1e-9
    assert [bits[token] for token in tokens[256:]] == pytest.approx(sorted(bits[token] for token in tokens[256:]))


def test_tokens_are_the_longest_matches(compiled):
    tokens = strings.unpack(compiled.tables)
    inside = set(tokens)
    ids = compiled.encode(TEXT[:50_000])
    place = 0
    for token in ids.tolist():
        size = len(tokens[token])
        assert TEXT[place : place + size] == tokens[token]
        assert place + size == 50_000 or TEXT[place : place + size + 1] not in inside
        place += size
    assert place == 50_000


def test_text_is_packed_more_densely_than_by_bytes_and_denser_with_more_strings(compiled):
    smaller = fit_tokenizer("compiled", TOPICS, vocab_size=1024)
    assert len(compiled.encode(TEXT)) < 0.8 * len(smaller.encode(TEXT)) < 0.4 * len(TEXT)


def test_a_stream_in_real_blocks_gives_the_ids_of_the_whole(compiled):
    raw = TEXT * 3 + b"a" * 100_000 + TEXT
    writer = io.BytesIO()
    stream.encode_stream(compiled, io.BytesIO(raw), writer, block=1 << 20)
    np.testing.assert_array_equal(np.frombuffer(writer.getvalue(), "<u2"), compiled.encode(raw))


def test_many_documents_in_groups_are_each_encoded_alone(compiled, monkeypatch):
    monkeypatch.setattr(match, "GROUP", 20_000)
    documents = [b"", *TOPICS[:40], TEXT[:30_000], b"x", b""]
    found = list(compiled.spec.encode_many(compiled.tables, iter(documents)))
    assert len(found) == len(documents)
    for raw, (ids, units) in zip(documents, found, strict=True):
        np.testing.assert_array_equal(ids, compiled.encode(raw))
        np.testing.assert_array_equal(units, compiled.units(ids))


def test_a_safe_cut_reads_the_end_of_the_text_alone(compiled, monkeypatch):
    read = []
    follow = match._follow
    monkeypatch.setattr(
        match, "_follow", lambda engine, raw, *rest: read.append(len(raw)) or follow(engine, raw, *rest)
    )
    cut = compiled.safe_cut(TEXT)
    assert len(TEXT) - 200 < cut <= len(TEXT)
    assert max(read) < len(TEXT) / 20


def test_a_model_with_too_few_strings_says_so(caplog):
    class TwoBytes:
        def next_probabilities(self, prefixes):
            return np.array([[float(byte == 97 and len(prefix) < 9) for byte in range(256)] for prefix in prefixes])

    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr("tokjax.text.compiled.fit_entropy", lambda text, source: TwoBytes())
        assert fit_tokenizer("compiled", TOPICS[:1], vocab_size=500).size == 264
    assert "264 ids of the 500" in caplog.text


@pytest.mark.parametrize("size", [0, 256, (1 << 17) + 1])
def test_an_impossible_size_is_refused(size):
    with pytest.raises(SpecError, match="vocab_size"):
        Compiled(vocab_size=size)


def test_an_empty_source_is_refused():
    with pytest.raises(SourceError, match="no bytes"):
        fit_tokenizer("compiled", [], vocab_size=300)  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_largest_table_is_built_and_exact():
    fitted = fit_tokenizer("compiled", TOPICS, vocab_size=1 << 17)
    assert fitted.size == 1 << 17
    assert fitted.decode(fitted.encode(TEXT)) == TEXT
    found = match.matcher(fitted.tables).automaton
    assert found.edges.nbytes < 4.3 * fitted.size
