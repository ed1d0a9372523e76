"""Windows of equal information: lossless modes, the published rule's failures, and what an edit changes."""

import functools
import itertools
import logging
import pydoc_data.topics

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from tokjax.core.errors import SpecError, TokenizerError
from tokjax.text import fit_tokenizer
from tokjax.text.equal_info import WIDTHS, EqualInfo

TOPICS = [text.encode() for _, text in sorted(pydoc_data.topics.topics.items())]
TEXT = TOPICS[40][:3000]
EDGES = [b"", b"a", bytes(700), b"\xff" * 700, bytes(range(256)), "é漢🙂".encode()[:-1], TEXT, TEXT * 4]
COMPILED_FIRST = [(8, 16), (16, 8), (16, 16), (64, 16)]  # each width is a program of its own; the rest are slow
few = hypothesis.settings(max_examples=20, deadline=None)


@functools.cache
def fitted(**fields):
    return fit_tokenizer("equal_info", TOPICS[::2], entropy="ngram:contexts=2048", **fields)


@pytest.mark.parametrize(
    ("window", "token"),
    [
        pytest.param(*setting, marks=() if setting in COMPILED_FIRST else pytest.mark.slow)
        for setting in itertools.product(WIDTHS, (8, 16))
    ],
)
def test_delay_gives_back_every_text(window, token):
    tokenizer = fitted(window_bits=window, token_bits=token)
    for raw, (ids, units) in zip(EDGES, tokenizer.encode_many(EDGES), strict=True):
        assert tokenizer.decode(ids) == raw
        np.testing.assert_array_equal(tokenizer.units(ids), units)
        assert units.sum() == len(raw)
        assert ids.max(initial=0) < tokenizer.size


@few
@hypothesis.given(raw=st.binary(max_size=300), window=st.sampled_from([8, 16]))
def test_delay_gives_back_any_bytes(raw, window):
    tokenizer = fitted(window_bits=window)
    assert tokenizer.decode(tokenizer.encode(raw)) == raw


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["delay", "ids"])
def test_a_random_megabyte_comes_back(mode):
    raw = np.random.default_rng(0).bytes(1_000_000)
    tokenizer = fitted(mode=mode)
    assert tokenizer.decode(tokenizer.encode(raw)) == raw


@pytest.mark.parametrize("window", [8, 16])
def test_ids_make_the_windows_of_the_published_rule(window):
    ids, paper = fitted(window_bits=window, mode="ids"), fitted(window_bits=window, mode="paper", token_bits=window)
    ((codes, written),) = paper.encode_many([TEXT])
    lengths = ids.units(ids.encode(TEXT))
    assert ids.decode(ids.encode(TEXT)) == TEXT
    if window == 16:  # with 8 bits a byte may need two windows of the published kind
        np.testing.assert_array_equal(lengths, written)
    assert len(lengths) <= len(codes)


def test_every_window_decodes_alone():
    tokenizer = fitted()
    ids = tokenizer.encode(TEXT)
    assert b"".join(tokenizer.decode(ids[i : i + 1]) for i in range(len(ids))) == TEXT
    assert tokenizer.spec.context_free


def test_an_id_means_the_same_only_if_it_is_one_window():
    assert not fitted(window_bits=64).spec.context_free
    assert not fitted(window_bits=16, token_bits=8).spec.context_free
    assert fitted(mode="ids").spec.context_free


@pytest.mark.parametrize("mode", ["delay", "paper", "ids"])
def test_an_edit_changes_only_the_windows_until_the_cuts_meet_again(mode):
    tokenizer = fitted(mode=mode)
    edited = b"X" + TEXT[1:]
    ((before, before_units), (after, after_units)) = tokenizer.encode_many([TEXT, edited])
    cuts, edited_cuts = np.cumsum(before_units), np.cumsum(after_units)
    met = np.intersect1d(cuts, edited_cuts)[0]
    assert met < len(TEXT) // 2
    rest = before[cuts > met]
    np.testing.assert_array_equal(rest, after[edited_cuts > met])


def test_the_published_rule_is_audited_when_it_is_fitted(caplog):
    with caplog.at_level(logging.WARNING):
        fitted.__wrapped__(mode="paper")
    assert "decode to other bytes" in caplog.text
    paper, delay = fitted(mode="paper"), fitted(mode="delay")
    assert not paper.spec.lossless and delay.spec.lossless
    found = paper.spec.audit(paper.tables, [TEXT])
    assert 0.05 < found.rate < 0.6
    assert delay.spec.audit(delay.tables, EDGES).wrong == 0
    assert paper.decode(paper.encode(TEXT)) != TEXT


def test_delay_costs_bytes_per_window_and_longer_windows_gain_them():
    def bytes_per_window(**fields):
        ((ids, _),) = fitted(token_bits=16, **fields).encode_many([TEXT * 3])
        return len(TEXT * 3) / (len(ids) * 16 / fields["window_bits"])

    assert bytes_per_window(window_bits=16, mode="delay") < bytes_per_window(window_bits=16, mode="paper")
    per_bit = [bytes_per_window(window_bits=window) / window for window in (8, 16, 64)]
    assert per_bit == sorted(per_bit)


def test_a_window_holds_no_more_than_its_longest():
    tokenizer = fitted(longest=5)
    assert tokenizer.units(tokenizer.encode(bytes(100))).max() <= 5


def test_cut_ids_are_an_error():
    tokenizer = fitted(window_bits=64)
    with pytest.raises(TokenizerError, match="end inside a window of 64 bits"):
        tokenizer.decode(tokenizer.encode(TEXT)[:-1])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"window_bits": 12}, "window_bits: got 12"),
        ({"window_bits": 32, "mode": "ids"}, "use 8 or 16"),
        ({"mode": "fast"}, "mode"),
        ({"precision": 16}, "precision: got 16"),
        ({"token_bits": 12}, "token_bits"),
        ({"entropy": "ngram:order"}, "write NAME or NAME:field=value"),
        ({"entropy": "ngrm"}, "ngram"),
        ({"entropy": "ngram:order=9"}, "order: got 9"),
    ],
)
def test_impossible_settings_say_what_to_do(fields, message):
    with pytest.raises((SpecError, TokenizerError, Exception), match=message):
        fit_tokenizer("equal_info", TOPICS[:1], **fields)


def test_spec_defaults_are_lossless():
    assert EqualInfo().mode == "delay" and EqualInfo().window_bits == EqualInfo().token_bits == 16
