"""Rows laid out anew with room at their marks, against a loop over symbols."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given

from tokjax.nn.packing import widen_marks

symbols = st.lists(st.sampled_from("um"), min_size=1, max_size=20)  # units and marks


def expected(row: list[str], copies: int, words: int) -> list[tuple[int, int, int, int]]:
    """(symbol, copy, words ended before it, place) of each slot, a symbol after the other."""
    slots, marks, units = [], 0, 0
    for index, symbol in enumerate(row):
        if symbol == "u":
            slots.append((index, 0, marks, copies + units))
            units += 1
            continue
        first = 0 if marks < words else copies - 1
        slots += [(index, copy, marks, copy) for copy in range(first, copies)]
        marks, units = marks + 1, 0
    return slots


widen = jax.jit(widen_marks, static_argnames=("copies", "words"))


@given(row=symbols, copies=st.sampled_from([1, 3]), words=st.sampled_from([1, 4]))
def test_marks_have_several_slots_and_units_one(row, copies, words):
    padding = 20 - len(row)
    marked = jnp.array([[symbol != "u" for symbol in row] + [False] * padding])
    segments = jnp.array([[1] * len(row) + [0] * padding])
    found = widen(marked, segments, copies=copies, words=words)
    slots = expected(row, copies, words)
    used = len(slots)
    columns = [np.asarray(x)[0, :used].tolist() for x in (found.symbol, found.copy, found.read, found.place)]
    assert list(zip(*columns, strict=True)) == [(i, copy, marks + 1, place) for i, copy, marks, place in slots]
    assert found.symbol.shape[1] == len(row) + padding + words * (copies - 1)
    assert not found.read[0, used + padding :].any() and not found.written[0, used:].any()
    own = np.asarray(found.own)[0, : len(row)]
    assert own.tolist() == [max(s for s, slot in enumerate(slots) if slot[0] == i) for i in range(len(row))]
    np.testing.assert_array_equal(found.is_mark[0, :used], [row[i] != "u" for i, *_ in slots])


def test_a_word_never_spans_two_segments():
    marked = jnp.array([[False, False, True, False, False, True]])
    segments = jnp.array([[1, 1, 1, 1, 2, 2]])
    found = widen_marks(marked, segments, copies=2, words=2)
    assert found.read.tolist() == [[1, 1, 1, 1, 2, 3, 3, 3]]
    assert found.written.tolist() == [[1, 1, 2, 2, 2, 3, 4, 4]]
    assert found.place.tolist() == [[2, 3, 0, 1, 2, 2, 0, 1]]
    assert found.units.tolist() == [[1, 2, 0, 1, 1, 0]]
