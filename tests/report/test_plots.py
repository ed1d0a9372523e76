"""Plots are valid files, the same every time, and leave matplotlib as it was."""

import copy
import io
import itertools
import math

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from PIL import Image
from synthetic_results import SYSTEMS, build_results

from tokjax.report.plots import PNG_DPI, SIZE_INCHES, THEMES, figures, looks, render, spread

NAMES = ["bits_per_byte_flops", "bits_per_byte_position", "sweep"]


def test_each_plot_is_a_png_of_the_stated_size_with_colour():
    drawn = figures(build_results())
    assert list(drawn) == NAMES
    for figure in drawn.values():
        image = Image.open(io.BytesIO(render(figure, "png")))
        image.verify()
        assert image.format == "PNG"
        assert image.size == tuple(round(inches * PNG_DPI) for inches in SIZE_INCHES)


@pytest.mark.parametrize("form", ["png", "svg"])
def test_the_same_results_give_the_same_bytes(form):
    first, second = (figures(build_results(("bytes", "hat")))["sweep"] for _ in range(2))
    assert render(first, form) == render(second, form)


def test_drawing_leaves_the_settings_and_the_results_alone():
    results = build_results()
    before, settings = copy.deepcopy(results), dict(matplotlib.rcParams)
    render(figures(results)["sweep"], "svg")
    assert results == before
    assert dict(matplotlib.rcParams) == settings


def test_a_system_looks_the_same_in_every_plot():
    results = build_results(tuple(SYSTEMS))
    expected = {name: look.color for name, look in looks(results).items()}
    for figure in figures(results).values():
        labels = {text.get_text().split()[0]: text.get_color() for text in figure.axes[0].texts}
        assert labels == expected


def test_curves_hold_the_rows():
    results = build_results(("bpe",), seeds=2)
    lines = figures(results)["bits_per_byte_flops"].axes[0].lines
    for row, line in zip(results["rows"], lines, strict=False):
        np.testing.assert_allclose(line.get_xydata(), row["curve"])


@pytest.mark.parametrize("theme", THEMES)
def test_labels_stand_out_from_the_paper(theme):
    """WCAG AA asks 4.5 for text and 3 for large or bold text and graphics; labels are bold and large in print."""
    colors = THEMES[theme]
    assert _contrast(colors.text, colors.paper) >= 7
    assert min(_contrast(color, colors.paper) for color in colors.systems) >= 3.5


def test_one_seed_and_one_evaluation_draw():
    results = build_results(seeds=1)
    for row in results["rows"]:
        row["curve"] = row["curve"][-1:]
    assert list(figures(results)) == NAMES


def test_plots_without_data_are_left_out():
    results = build_results()
    results["sweep"] = []
    for row in results["rows"]:
        row["by_position"] = []
    assert list(figures(results)) == ["bits_per_byte_flops"]


def test_runs_that_diverged_are_shown_and_not_joined():
    results = build_results(("bpe",))
    results["sweep"][0]["bits_per_byte"] = math.nan
    results["rows"][0]["curve"][0][1] = math.inf
    results["rows"][0]["bits_per_byte"] = math.nan
    drawn = figures(results)
    crosses = [line for line in drawn["sweep"].axes[0].lines if line.get_marker() == "x"]
    assert [list(line.get_xdata()) for line in crosses] == [[results["sweep"][0]["learning_rate"]]]
    assert list(drawn["bits_per_byte_flops"].axes[0].texts) == []
    for figure in drawn.values():
        render(figure, "svg")


@given(st.lists(st.floats(0, 1), max_size=10).map(sorted), st.floats(0.01, 0.2))
def test_spread_labels_keep_their_order_distance_and_mean(heights, gap):
    moved = spread(heights, gap)
    assert sum(moved) == pytest.approx(sum(heights), abs=1e-9)
    assert all(b - a >= gap - 1e-9 for a, b in itertools.pairwise(moved))


def test_spread_leaves_distant_labels_alone():
    assert spread([0.1, 0.5, 0.9], 0.1) == pytest.approx([0.1, 0.5, 0.9])


def _contrast(a, b):
    """Contrast ratio of two colours (WCAG 2.2)."""

    def luminance(color):
        channels = np.asarray(to_rgb(color))
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)
