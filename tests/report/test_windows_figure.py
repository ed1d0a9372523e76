"""The picture of windows: information adds up, and every token is drawn."""

import numpy as np
import pytest

from tokjax.coding.entropy import fit_entropy
from tokjax.report.plots import render
from tokjax.report.windows import COLUMNS, information, windows_figure

TEXT = b"a hat and a bat, and the cat.\n" * 5


@pytest.fixture(scope="module")
def model():
    return fit_entropy("ngram:order=3", [TEXT])


def test_information_starts_anew_at_each_token(model):
    units = [3, 0, 7, *[1] * (len(TEXT) - 10)]
    bits = information(model, TEXT, units)
    alone = [information(model, TEXT[start:stop], [stop - start]) for start, stop in ((0, 3), (3, 10))]
    np.testing.assert_allclose(bits[:10], np.concatenate(alone))
    probabilities = model.next_probabilities([b"", TEXT[:1], TEXT[:2]])
    assert bits[:3].sum() == pytest.approx(-np.log2(probabilities[np.arange(3), list(TEXT[:3])]).sum())
    assert information(model, TEXT, [len(TEXT)]).sum() < bits.sum()  # more context, less surprise


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_each_tokenizer_has_its_row_and_each_byte_its_boxes(model, theme):
    figure = windows_figure(TEXT, {"halves": [75, 75], "bytes": [1] * 150}, model, theme)
    assert len(figure.axes) == 2
    for axes, tokens in zip(figure.axes, (2, 150), strict=True):
        assert f"{tokens} tokens, {150 / tokens:.2f} bytes" in axes.get_title(loc="left")
        assert [len(drawn.get_paths()) for drawn in axes.collections] == [150, 150]
        assert axes.get_xlim() == (0, COLUMNS) and axes.get_ylim() == (3, 0)
    assert render(figure, "png").startswith(b"\x89PNG")
