"""The picture of ciphers: shares are those of the texts, and every letter has its row."""

import numpy as np
import pytest

from tokjax.measure.decipher import Deciphered
from tokjax.report.cipher import cipher_figure, confusion, right_by_position
from tokjax.report.plots import render

A, B, C = 10, 20, 30


def deciphered(plain, key, guessed=None):
    """A text whose cipher leaves symbols as they are, read with `key`."""
    plain = np.array(plain)
    return Deciphered(plain, plain, plain if guessed is None else np.array(guessed), key)


FOUND = [deciphered([A, B, A, B], {A: A, B: C}, [A, C, B, B]), deciphered([A, A, A, A], {A: B}, [B, A, A, A])]


def test_confusion_counts_each_symbol_of_a_text_once():
    shares = confusion(FOUND, np.array([A, B, C]))
    np.testing.assert_allclose(shares, [[0.5, 0.5, 0], [0, 0, 1], [np.nan] * 3])


def test_positions_are_judged_by_themselves():
    np.testing.assert_allclose(right_by_position(FOUND), [0.5, 0.5, 0.5, 1.0])


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_both_parts_are_drawn(theme):
    long = [deciphered([A, B] * 20, {A: A, B: B}), deciphered([B, C] * 20, {B: C, C: B})]
    figure = cipher_figure(long, {A: "a", B: "b", C: "c"}, {"by frequency": 0.25}, theme)
    letters, curve = figure.axes[:2]
    assert [label.get_text() for label in letters.get_yticklabels()] == ["a", "b", "c"]
    assert [text.get_text() for text in curve.get_legend().get_texts()] == [
        "each position by itself", "with the whole key: 50%", "by frequency: 25%",
    ]  # fmt: skip
    assert render(figure, "png").startswith(b"\x89PNG")
