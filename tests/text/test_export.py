"""Exported files: `tokenizers` reads them and gives the same ids, for any text."""

import pydoc_data.topics
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import tokenizers as hf

from tokjax import cli
from tokjax.coding import strings
from tokjax.core import vocabulary
from tokjax.core.errors import OutputError, TokenizerError
from tokjax.text import Fitted, fit_tokenizer, load_tokenizer, pretokenize
from tokjax.text.compiled import Compiled
from tokjax.text.export import export_tokenizer, last_pair, to_hf, tree_pattern
from tokjax.text.subwords import BPE

TOPICS: Any = [text.encode() for _, text in sorted(pydoc_data.topics.topics.items())]
SINGLES = [bytes([byte]) for byte in range(256)]
CASES = [
    ("compiled", {"vocab_size": 2048}),
    ("equal_info", {"mode": "ids", "entropy": "ngram:contexts=500"}),
    *(("bpe", {"vocab_size": 2048, "digits": digits}) for digits in pretokenize.DIGITS),
]
pieces = st.sampled_from(["the ", "\n", "\r\n", "  ", "1234567", "é", "漢字", "🙂", "[^a-z]|(?:x)?", "\\", "a" * 40])
texts = st.one_of(st.text(max_size=80), st.lists(pieces, max_size=30).map("".join))


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join([case[0], *map(str, case[1].values())]))
def pair(request, tmp_path_factory):
    """(fitted, what `tokenizers` reads from its exported file)."""
    kind, fields = request.param
    fitted = fit_tokenizer(kind, TOPICS[::4], **fields)
    path = tmp_path_factory.mktemp("export") / "tokenizer.json"
    export_tokenizer(fitted, path)
    return fitted, hf.Tokenizer.from_file(str(path))


@hypothesis.given(text=texts)
def test_any_text_has_the_same_ids_and_comes_back(pair, text):
    fitted, exported = pair
    ids = exported.encode(text).ids
    assert ids == fitted.encode(text.encode()).tolist()
    assert exported.decode(ids) == text


def test_a_long_text_has_the_same_ids_and_comes_back(pair):
    fitted, exported = pair
    every = "".join(map(chr, range(1, 0xD800, 7)))
    text = (every + b"\n".join(TOPICS).decode())[:1_000_000]
    ids = exported.encode(text).ids
    np.testing.assert_array_equal(ids, fitted.encode(text.encode()))
    assert exported.decode(ids) == text


def test_the_exported_file_is_a_tokenizer_of_this_library_too(pair, tmp_path):
    fitted, exported = pair
    exported.save(str(tmp_path / "tokenizer.json"))
    imported = load_tokenizer(tmp_path / "tokenizer.json")
    raw = TOPICS[3] + b"\xff\xfe" + TOPICS[4]
    np.testing.assert_array_equal(imported.encode(raw), fitted.encode(raw))


@hypothesis.given(
    longer=st.lists(st.text("abc", min_size=2, max_size=6), max_size=30, unique=True), text=st.text("abc", max_size=30)
)
def test_bpe_of_any_ranks_is_exact(longer, text):
    """Ranks that no training gives: tokens with several derivations, with none, and shorter ones of higher rank."""
    spec = BPE(vocab_size=1000)
    tables = vocabulary.pack([*SINGLES, *(token.encode() for token in longer)])
    exported = to_hf(Fitted(name="bpe", spec=spec, tables=tables))
    assert exported.encode(text).ids == spec.encode(tables, text.encode()).tolist()


def test_the_last_pair_is_that_of_the_rank_rule():
    ranks = {token: rank for rank, token in enumerate([*SINGLES, b"bc", b"ab", b"abc", b"xyz"])}
    assert last_pair(b"abc", ranks) == (b"a", b"bc")  # though it may have been learned as ab + c
    assert last_pair(b"xyz", ranks) is None


def test_the_pattern_is_the_tree():
    tables = strings.from_strings([*SINGLES, b"th", b"to", b"the", b"t.", b"thea"])
    assert r"|t(?:h(?:e(?:[a])?)?|[\.o])?|" in tree_pattern(tables) + "|"


@pytest.mark.parametrize("longest", [1000, 1001])
def test_strings_as_long_as_the_pattern_allows(longest):
    tables = strings.from_strings([*SINGLES, *(b"a" * size for size in range(2, longest + 1))])
    fitted = Fitted(name="compiled", spec=Compiled(vocab_size=4096), tables=tables)
    if longest > 1000:
        with pytest.raises(TokenizerError, match="1001 bytes"):
            to_hf(fitted)
    else:
        text = "b" + "a" * 2500
        assert to_hf(fitted).encode(text).ids == fitted.encode(text.encode()).tolist()


def test_a_tokenizer_that_has_no_exact_form_is_refused():
    with pytest.raises(TokenizerError, match="'words' cannot be exported; `bpe`, `compiled` and"):
        to_hf(load_tokenizer("words"))


def test_the_command_line_exports(tmp_path, capsys):
    fit_tokenizer("compiled", TOPICS[:5], vocab_size=300).save(tmp_path / "fitted")
    out = tmp_path / "new" / "tokenizer.json"
    assert cli.main(["export", "--tokenizer", str(tmp_path / "fitted"), "--out", str(out)]) == 0
    assert "saved in" in capsys.readouterr().out
    assert hf.Tokenizer.from_file(str(out)).get_vocab_size() == 300
    assert cli.main(["export", "--tokenizer", "words", "--out", str(out)]) == 2
    assert "cannot be exported" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="file"):
        export_tokenizer(fit_tokenizer("compiled", TOPICS[:2], vocab_size=300), tmp_path / "file" / "tokenizer.json")
