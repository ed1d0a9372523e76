"""Looking ahead agrees with the splitter on every character that may come, and with UTF-8 on every byte."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import example, given, settings

from tokjax.text import lookahead
from tokjax.text.splitter import last_segment_end, piece_lengths, split
from tokjax.text.unicode_tables import unicode_tables

TABLES = unicode_tables()
LETTERS = lookahead.alphabet(TABLES)
CHARACTERS = st.one_of(
    st.sampled_from("aébZÉ1אカ_‿.,¿ \u3000\t\u00a0\n\r\x0b\u0301\u00ad\u200d😀ℹ👩🇩中𝐀ǅ"), st.characters(codec="utf-8")
)
TEXTS = st.lists(CHARACTERS, max_size=30).map("".join)
ANY = st.one_of(
    st.binary(max_size=20),
    st.lists(st.sampled_from(list(b"aA.  \n\xc0\xc2\xe0\xe2\x82\xac\xed\xa0\xf0\x9f\x98\x80\xf4\x90"))).map(bytes),
)


def segment_of(text):
    return text[last_segment_end(text) :]


@settings(max_examples=200)
@given(text=TEXTS, character=CHARACTERS, cap=st.sampled_from([4, 5, 7, 16]))
def test_one_example_answers_for_its_kind(text, character, cap):
    raw, more = text.encode(), character.encode()
    starting = lookahead.starting_kinds(LETTERS, segment_of(raw), cap, TABLES)
    assert starting[LETTERS.kind[ord(character)]] == (split(raw + more, cap, TABLES)[-1] == more)


def test_every_character_has_a_kind_and_surrogates_have_none():
    assert np.flatnonzero(LETTERS.kind < 0).tolist() == list(range(0xD800, 0xE000))
    assert [LETTERS.kind[ord(example.decode())] for example in LETTERS.examples] == list(range(len(LETTERS.examples)))
    for width in range(1, 5):
        code_points = [c for c in (0x41, 0xE9, 0x20AC, 0x1F600) if len(chr(c).encode()) == width]
        assert all(len(LETTERS.examples[LETTERS.kind[c]]) == width for c in code_points)


@given(character=CHARACTERS, kept=st.integers(0, 3))
def test_next_bytes_lead_to_the_character(character, kept):
    raw = character.encode()
    kept = min(kept, len(raw) - 1)
    kinds = np.zeros(len(LETTERS.examples), bool)
    kinds[LETTERS.kind[ord(character)]] = True
    assert lookahead.next_bytes(LETTERS, raw[:kept], kinds)[raw[kept]]
    assert lookahead.width_of(raw[0]) == len(raw)


@pytest.mark.parametrize("prefix", [b"", b"\xc3", b"\xe0", b"\xed", b"\xe2\x82", b"\xf0", b"\xf4", b"\xf0\x9f\x98"])
def test_next_bytes_are_those_of_utf8(prefix):
    """Against Python's decoder: a byte can follow if some further bytes make one character."""
    fills = [
        b"",
        b"\x80",
        b"\xbf",
        b"\x80\x80",
        b"\xbf\xbf",
        b"\x80\x80\x80",
        b"\x90\x80\x80",
        b"\x90\x80",
        b"\xa0\x80",
    ]
    fills += [b"\xbf\xbf\xbf", b"\x8f\xbf\xbf", b"\x9f\xbf"]

    def is_character(raw):
        try:
            return len(raw.decode()) == 1
        except UnicodeDecodeError:
            return False

    expected = [any(is_character(prefix + bytes([byte]) + fill) for fill in fills) for byte in range(256)]
    every = np.ones(len(LETTERS.examples), bool)
    assert lookahead.next_bytes(LETTERS, prefix, every).tolist() == expected


@pytest.mark.parametrize(
    ("raw", "count"),
    [
        (b"", 0),
        (b"a", 0),
        ("é".encode(), 0),
        (b"a\xc3", 1),
        (b"a\xe2\x82", 2),
        (b"\xf0\x9f\x98", 3),
        (b"\xc0", 0),
        (b"\xed\xa0", 0),
        (b"\xf4\x90", 0),
        (b"\xe2\x82\xac\x82", 0),
        (b"\x82\x82\x82", 0),
    ],
)
def test_a_character_is_held_while_something_completes_it(raw, count):
    assert lookahead.held(LETTERS, raw) == count


@settings(max_examples=200)
@given(raw=ANY, more=st.text(alphabet="aA. \n\u0301é🇩", min_size=1, max_size=4), cap=st.sampled_from([4, 7, 16]))
@example(raw=b"a\xed\xa0", more="b", cap=16)
def test_decided_words_stay(raw, more, cap):
    """Whatever comes next, all but the last word are words of the longer text, and that one starts where it did."""
    text = raw[: len(raw) - lookahead.held(LETTERS, raw)]
    lengths = lookahead.decided_lengths(text, cap, TABLES)
    longer = piece_lengths(text + more.encode(), cap, TABLES)
    assert lengths.sum() == len(text)
    np.testing.assert_array_equal(longer[: max(len(lengths) - 1, 0)], lengths[:-1])
