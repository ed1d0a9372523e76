"""Where SpaceByte's global blocks start."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from tokjax.text.spacebyte import END_OF_DOCUMENT, SPACELIKE, is_boundary


def ids_of(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8).astype(np.int32)


@pytest.mark.parametrize(
    ("text", "marks"),
    [
        ("the cat, sat", "...^...^...."),
        ("a  b\n\nc", ".^..^.."),
        ("x_1=f(y)", ".^.^.^.^"),
        (" a", "^."),
        ("日本", "^..^.."),  # a lead byte is spacelike, a continuation byte is not
        ("aé b", ".^.^."),
        ("a 日", ".^..."),  # the lead byte follows a space
        ("a😀😀", ".^...^..."),
    ],
)
def test_goldens(text, marks):
    assert "".join(".^"[int(mark)] for mark in is_boundary(ids_of(text))) == marks


def test_the_end_of_a_document_is_a_boundary_and_counts_as_a_space():
    ids = np.array([END_OF_DOCUMENT, ord("("), ord("a"), ord("."), END_OF_DOCUMENT, END_OF_DOCUMENT, ord("b")])
    assert is_boundary(ids).tolist() == [True, False, False, True, True, True, False]


def test_the_table_is_the_published_byte_ranges():
    spacelike = np.flatnonzero(~SPACELIKE)
    assert spacelike.tolist() == [*range(48, 58), *range(65, 91), *range(97, 123), *range(0x80, 0xC0)]


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(st.lists(st.integers(0, END_OF_DOCUMENT), min_size=12, max_size=12), min_size=1, max_size=3))
def test_traced_equals_numpy_and_is_causal(rows):
    ids = np.array(rows, np.int32)
    expected = is_boundary(ids)
    traced = jax.jit(is_boundary)(jnp.asarray(ids))
    assert traced.dtype == bool
    np.testing.assert_array_equal(traced, expected)
    np.testing.assert_array_equal(is_boundary(ids[:, :7]), expected[:, :7])
