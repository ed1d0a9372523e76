"""Pictures of ciphers: shares are those of the texts, and every letter has its row."""

import numpy as np
import pytest

from tokjax.measure.decipher import Deciphered
from tokjax.report.cipher import confusion, key_figure, position_figure, right_by_position
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


LONG = [deciphered([A, B] * 20, {A: A, B: B}), deciphered([B, C] * 20, {B: C, C: B})]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_reading_has_a_panel_and_every_letter_a_row(theme):
    figure = key_figure({"well": LONG[:1], "badly": LONG[1:]}, {A: "a", B: "b", C: "c"}, theme)
    well, badly, bar = figure.axes
    assert [axes.get_title(loc="left") for axes in (well, badly)] == ["well", "badly"]
    assert [label.get_text() for label in badly.get_yticklabels()] == ["a", "b", "c"]
    np.testing.assert_array_equal(well.images[0].get_array().filled(9), [[1, 0, 0], [0, 1, 0], [9, 9, 9]])
    assert bar.get_ylabel() == "share of texts"
    assert render(figure, "png").startswith(b"\x89PNG")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_curve_has_the_whole_key_and_references_beside_it(theme):
    figure = position_figure(LONG, {"by frequency": 0.25}, theme)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "each position by itself", "with the whole key: 50%", "by frequency: 25%",
    ]  # fmt: skip
    assert render(figure, "png").startswith(b"\x89PNG")
