"""Text folded to the letters a to z and spaces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokjax.core.errors import SourceError, UnknownNameError
from tokjax.data import load_source
from tokjax.data.letters import fold


def test_case_is_folded_and_the_rest_becomes_single_spaces():
    assert fold("  'Naïve' Tests: 42 of THEM--\n\tdone.".encode()) == b"na ve tests of them done"


@given(st.binary(max_size=200))
def test_nothing_but_letters_and_single_spaces_is_left(raw):
    folded = fold(raw)
    assert set(folded) <= set(b"abcdefghijklmnopqrstuvwxyz ")
    assert b"  " not in folded
    assert folded == folded.strip() == fold(folded)
    assert folded.replace(b" ", b"") == bytes(b for b in raw.lower() if b"a"[0] <= b <= b"z"[0])


def test_records_are_those_of_the_other_source(tmp_path):
    for name, text in (("a", "One, two!"), ("b", "Three?")):
        (tmp_path / f"{name}.txt").write_text(text)
    assert list(load_source(f"letters:file:{tmp_path}/*.txt")) == [b"one two", b"three"]


def test_mistakes_are_named():
    with pytest.raises(SourceError, match="letters:SOURCE"):
        load_source("letters:")
    with pytest.raises(UnknownNameError):
        load_source("letters:pydoc")
