"""Numbers as people read them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokjax.report.units import duration, plural, prefix, si, significant

FACTORS = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18, "Z": 1e21, "Y": 1e24}


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (1_200_000, "", "1.2M"), (3.4e12, "FLOP", "3.4 TFLOP"), (999.6, "", "1k"), (999_499, "B", "999 kB"),
        (0, "B", "0 B"), (0.25, "B", "0.25 B"), (12, "", "12"), (None, "B", "–"), (2.5e26, "", "250Y"),
    ],
)  # fmt: skip
def test_si(value, unit, text):
    assert si(value, unit) == text


@given(st.floats(1e-3, 9e26))
def test_si_reads_back_within_its_three_digits(value):
    text = si(value)
    digits, factor = (text[:-1], FACTORS[text[-1]]) if text[-1].isalpha() else (text, 1)
    assert float(digits) * factor == pytest.approx(value, rel=0.00501)
    assert len(text) <= 8


@given(st.floats(1.0, 1e26))
def test_prefix_leaves_one_to_three_digits(value):
    factor, _ = prefix(value)
    assert 1 <= float(f"{value / factor:.2e}") < 1000


@given(st.floats(1e-9, 1e9))
def test_significant_reads_back(value):
    assert float(significant(value).replace(",", "")) == pytest.approx(value, rel=0.00501)


@pytest.mark.parametrize(
    ("value", "text"),
    [(1, "1.00"), (0.999, "0.999"), (0.9996, "1.00"), (41.2, "41.2"), (1900, "1,900"), (0, "0"), (None, "–")],
)
def test_significant(value, text):
    assert significant(value) == text


@pytest.mark.parametrize(("seconds", "text"), [(41.23, "41.2 s"), (600, "10 min"), (9000, "2.5 h")])
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_plural():
    assert [plural(n, "seed") for n in (0, 1, 2)] == ["0 seeds", "1 seed", "2 seeds"]
