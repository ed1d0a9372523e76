"""Subwords: agreement with independent engines, digit grouping, and cost and cuts on inputs without structure."""

import itertools
import logging
import pydoc_data.topics
import subprocess
import sys
from typing import Any, cast

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from tokjax.core import vocabulary
from tokjax.core.errors import SourceError, SpecError
from tokjax.text import fit_tokenizer, pretokenize
from tokjax.text.pretokenize import SEGMENT, group_digits
from tokjax.text.subwords import (
    BPE,
    Unigram,
    WordPiece,
    byte_level,
    frequent_pieces,
    rank_encoder,
    symbols_to_bytes,
    to_symbols,
)

TOPICS: Any = [text.encode() for _, text in sorted(pydoc_data.topics.topics.items())]
KINDS = (BPE, Unigram, WordPiece)
every_kind = pytest.mark.parametrize("kind", KINDS)
LEARNING = {BPE: pytest.mark.slow, Unigram: pytest.mark.long, WordPiece: pytest.mark.slow}  # from 10 MB
few = hypothesis.settings(max_examples=50, deadline=None)
digit_runs = st.text("0123456789", max_size=40)


@pytest.fixture(scope="module")
def fitted():
    """(spec, tables) of each kind, fitted once to a fifth of the topics."""
    specs = {kind: kind(vocab_size=1024) for kind in KINDS}
    return {kind: (spec, spec.fit(TOPICS[::5])) for kind, spec in specs.items()}


def hf_bpe(spec, tables):
    """The `tokenizers` engine over the same merges and ids: an independent implementation of the encoding."""
    from tokenizers import models

    symbols = [to_symbols(token) for token in vocabulary.unpack(tables)]
    merges = [(symbols[left], symbols[right]) for left, right in tables["merges"].tolist()]
    return byte_level(models.BPE(dict(zip(symbols, itertools.count(), strict=False)), merges), spec.digits)


@pytest.mark.parametrize("digits", pretokenize.DIGITS)
def test_bpe_ids_equal_those_of_the_learned_merge_list(digits):
    spec = BPE(vocab_size=4096, digits=digits)
    tables = spec.fit(TOPICS)
    text = b"".join(TOPICS)
    reference = hf_bpe(spec, tables)
    expected = [reference.encode(part.decode()).ids for part in pretokenize.segments(text)]
    np.testing.assert_array_equal(spec.encode(tables, text), np.concatenate(expected))


@few
@hypothesis.given(text=st.text(max_size=200))
def test_bpe_ids_equal_those_of_the_merge_list_on_any_text(fitted, text):
    spec, tables = fitted[BPE]
    np.testing.assert_array_equal(spec.encode(tables, text.encode()), hf_bpe(spec, tables).encode(text).ids)


def test_where_a_token_has_two_derivations_the_rank_rule_counts():
    """'abc' was learned as ab + c, but bc merges before ab: the merge list alone never reaches 'abc' again."""
    tokens = [bytes([byte]) for byte in range(256)] + [b"bc", b"ab", b"abc"]
    spec, a, c = BPE(vocab_size=259), ord("a"), ord("c")
    tables = {**vocabulary.pack(tokens), "merges": np.array([[ord("b"), c], [a, ord("b")], [257, c]])}
    assert spec.encode(tables, b"abc").tolist() == [258]
    assert hf_bpe(spec, tables).encode("abc").ids == [a, 256]


def test_unigram_gives_the_most_likely_segmentation(fitted):
    spec, tables = fitted[Unigram]
    scores = dict(zip(vocabulary.unpack(tables), tables["scores"].tolist(), strict=True))

    def best(word: bytes) -> float:
        total = [0.0] + [-np.inf] * len(word)
        for stop in range(1, len(word) + 1):
            starts = (start for start in range(stop) if word[start:stop] in scores)
            total[stop] = max(total[start] + scores[word[start:stop]] for start in starts)
        return total[-1]

    for word in (b"function", b" statement", b"xyzzy", "é漢".encode()):
        assert tables["scores"][spec.encode(tables, word)].sum() == pytest.approx(best(word), abs=1e-9)


def test_wordpiece_takes_the_longest_token_first(fitted):
    spec, tables = fitted[WordPiece]
    pairs = zip(vocabulary.unpack(tables), tables["continuing"].tolist(), strict=True)
    ids = {pair: index for index, pair in enumerate(pairs)}
    for word in (b" statement", b"function", b"####", b"xyzzy", "é漢".encode()):
        expected, start = [], 0
        while start < len(word):
            stop = max(stop for stop in range(start + 1, len(word) + 1) if (word[start:stop], start > 0) in ids)
            expected.append(ids[word[start:stop], start > 0])
            start = stop
        assert spec.encode(tables, word).tolist() == expected


@every_kind
def test_ids_below_256_are_the_bytes(fitted, kind):
    spec, tables = fitted[kind]
    assert vocabulary.unpack(tables)[:256] == [bytes([byte]) for byte in range(256)]
    assert spec.encode(tables, b"\xff\xfe").tolist() == [0xFF, 0xFE]
    assert spec.size(tables) <= spec.vocab_size


def test_byte_symbols_match_those_of_tokenizers():
    from tokenizers import pre_tokenizers

    assert sorted(map(to_symbols, (bytes([byte]) for byte in range(256)))) == sorted(
        pre_tokenizers.ByteLevel.alphabet()
    )
    assert (
        symbols_to_bytes(pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str("é漢\n")[0][0])
        == "é漢".encode()
    )


@few
@hypothesis.given(text=digit_runs)
def test_digit_groups(text):
    for direction in pretokenize.DIGITS:
        assert "".join(group_digits(text, cast(Any, direction))) == text
    left, right = group_digits(text, "l2r"), group_digits(text, "r2l")
    assert all(len(group) == 3 for group in left[:-1]) and all(len(group) == 3 for group in right[1:])
    assert right == [group[::-1] for group in reversed(group_digits(text[::-1], "l2r"))]
    assert len(text) % 3 or left == right
    assert group_digits(text, "single") == list(text)


@few
@hypothesis.given(text=digit_runs.filter(bool), direction=st.sampled_from(["single", "l2r", "r2l"]))
def test_both_engines_cut_digits_as_defined(text, direction):
    from tokenizers import models

    context = f"x{text}.{text} {text}"
    groups = group_digits(text, direction)
    expected = ["x", *groups, ".", *groups, " ", *groups]
    pieces = byte_level(models.BPE(), direction).pre_tokenizer.pre_tokenize_str(context)
    assert [symbols_to_bytes(piece).decode() for piece, _ in pieces] == expected
    ranks = {token: rank for rank, token in enumerate([bytes([b]) for b in range(256)])}
    ranks |= {group.encode(): 256 + rank for rank, group in enumerate(dict.fromkeys(expected)) if len(group) > 1}
    (ids,) = rank_encoder(ranks, pretokenize.piece_pattern(direction))([context])
    assert len(ids) == len(expected)  # each group is one token, which no other cut of the digits would give


def test_group_digits_refuses_an_unknown_direction():
    with pytest.raises(SpecError, match="direction"):
        group_digits("123", "rtl")  # type: ignore[arg-type]


@few
@hypothesis.given(text=st.text(max_size=100), digits=st.sampled_from(pretokenize.DIGITS))
def test_pieces_cover_the_text_and_are_bounded(text, digits):
    import regex

    pieces = regex.findall(pretokenize.piece_pattern(digits), text)
    assert "".join(pieces) == text
    assert all(len(piece) <= pretokenize.PIECE + 1 for piece in pieces)


@few
@hypothesis.given(raw=st.binary(max_size=100))
def test_valid_runs_join_to_the_input(raw):
    runs = pretokenize.valid_runs(raw)
    assert b"".join(run.encode() if isinstance(run, str) else run for run in runs) == raw
    assert all(type(left) is not type(right) for left, right in itertools.pairwise(runs))


@few
@hypothesis.given(
    raw=st.lists(st.sampled_from([b"a", b"\n", b"\r", b" ", b"\xff", "漢".encode(), "🙂".encode()]), max_size=60),
    boundary=st.sampled_from([pretokenize.line_boundary, pretokenize.word_boundary]),
    block=st.integers(1, 20),
)
def test_segments_are_the_same_however_the_bytes_arrive(raw, boundary, block):
    """With a small segment size, so that forced cuts are common."""
    raw = b"".join(raw)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretokenize, "SEGMENT", 8)
        lines = forced_lines(raw, boundary)
        carry, streamed = b"", []
        for start in range(0, len(raw), block):
            carry += raw[start : start + block]
            cut = pretokenize.safe_cut(carry, boundary)
            streamed += forced_lines(carry[:cut], boundary)
            carry = carry[cut:]
        assert streamed + forced_lines(carry, boundary) == lines
        assert b"".join(pretokenize.segments(raw, boundary)) == raw


def forced_lines(raw, boundary):
    """The finest cut: every segment cut again at each boundary inside it."""
    cuts = []
    for segment in pretokenize.segments(raw, boundary):
        while segment:
            starts = (stop for stop in range(1, len(segment)) if boundary(segment, 0, stop) == stop)
            stop = next(starts, len(segment))
            cuts.append(segment[:stop])
            segment = segment[stop:]
    return cuts


@every_kind
def test_a_line_longer_than_a_segment_streams_as_the_whole(fitted, kind):
    spec, tables = fitted[kind]
    raw = b"short\n" + "naïve 漢字 ".encode() * (SEGMENT // 8) + b"\n\nend"
    cut = spec.safe_cut(tables, raw[:-10])
    assert SEGMENT < cut < len(raw) - 10
    parts = [spec.encode(tables, raw[:cut]), spec.encode(tables, raw[cut:])]
    np.testing.assert_array_equal(np.concatenate(parts), spec.encode(tables, raw))
    assert max(map(len, pretokenize.segments(raw))) <= SEGMENT


RUNS = [b"abcdefghij", b"1234567890", b"          ", b"\n", b"\xff", "漢".encode()]


@pytest.mark.slow
@pytest.mark.timeout(120)  # seconds; with quadratic cost it would be hours
@every_kind
@pytest.mark.parametrize("unit", RUNS, ids=ascii)
def test_two_megabytes_without_structure_come_back(fitted, kind, unit):
    spec, tables = fitted[kind]
    raw = unit * ((2 << 20) // len(unit))
    assert spec.decode(tables, spec.encode(tables, raw)) == raw


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_long_run_of_digits_in_groups_from_the_right_comes_back():
    spec = BPE(vocab_size=300, digits="r2l")
    tables = spec.fit(TOPICS[:3])
    raw = b"1234567890" * 200_000
    assert spec.decode(tables, spec.encode(tables, raw)) == raw


def test_another_process_fits_the_same_tables():
    """Hash seeds differ between processes; the tables must not."""
    program = """
import pydoc_data.topics
from tokjax.text import fit_tokenizer
records = [text.encode() for _, text in sorted(pydoc_data.topics.topics.items())[:20]]
print([fit_tokenizer(name, records, vocab_size=700).hash for name in ("bpe", "unigram", "wordpiece")])
"""
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    hashes = [fit_tokenizer(name, TOPICS[:20], vocab_size=700).hash for name in ("bpe", "unigram", "wordpiece")]
    assert other.stdout.strip() == str(hashes)


@every_kind
def test_a_small_corpus_gives_fewer_ids_and_says_so(kind, caplog):
    spec = kind(vocab_size=5000)
    with caplog.at_level(logging.WARNING):
        tables = spec.fit([b"the cat sat on the mat. the cat sat."])
    assert spec.size(tables) < 5000
    assert f"{spec.size(tables)} ids of the 5000" in caplog.text


@every_kind
@pytest.mark.parametrize("records", [[], [b""], [b"\xff\xfe"]])
def test_no_text_is_an_error(kind, records):
    with pytest.raises(SourceError, match="no text"):
        kind().fit(records)


@every_kind
def test_a_vocabulary_smaller_than_the_bytes_is_an_error(kind):
    with pytest.raises(SpecError, match="vocab_size"):
        kind(vocab_size=kind.smallest - 1)
    with pytest.raises(SpecError, match="digits"):
        kind(digits="left")


def test_unigram_reads_the_most_frequent_pieces_within_its_bound(caplog):
    texts = ["one two two", " two three", " 77 one"]
    pattern = pretokenize.piece_pattern("none")
    assert list(frequent_pieces(texts, pattern, 100)) == [" two"] * 3 + ["one", " three", " ", "77", " one"]
    assert not caplog.records
    assert list(frequent_pieces(texts, pattern, 8)) == [" two"] * 3 + ["one"]
    assert "2 most frequent of 6 distinct pieces (distinct_bytes=8)" in caplog.text


def test_unigram_refuses_a_bound_of_no_bytes():
    with pytest.raises(SpecError, match="distinct_bytes"):
        Unigram(distinct_bytes=0)


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=LEARNING[kind]) for kind in KINDS])
def test_ten_megabytes_without_a_space_are_learned_from(kind):
    letters = np.random.default_rng(0).choice(np.frombuffer(b"abcdefghijklmnopqrstuvwxyz", np.uint8), 10_000_000)
    raw = letters.tobytes()
    spec = kind(vocab_size=2048)
    tables = spec.fit(cast(Any, [raw]))
    assert spec.size(tables) == 2048
    assert spec.decode(tables, spec.encode(tables, raw[:100_000])) == raw[:100_000]
