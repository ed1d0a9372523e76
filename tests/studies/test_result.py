"""How studies judge and write, whatever they study."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokjax.core.errors import CheckpointError
from tokjax.measure.statistics import Estimate
from tokjax.studies.result import Claim, Result, against, below, changes, if_held, judged, listed, values_by


@pytest.mark.parametrize(
    ("difference", "outcome"),
    [
        ((0.3, 0.2), "reproduced"),
        ((0.2, 0.2), "within noise"),
        ((-0.2, 0.2), "within noise"),
        ((-0.3, 0.2), "contradicted"),
        ((0.0, 0.0), "within noise"),
        ((0.3, None), "undecided"),
        ((None, None), "undecided"),
        ((math.nan, math.nan), "undecided"),
        ((math.inf, 0.2), "undecided"),
    ],
)
def test_only_an_interval_that_leaves_no_doubt_decides(difference, outcome):
    assert judged(Estimate(*difference)) == outcome


@given(*2 * [st.lists(st.floats(-10, 10), min_size=2, max_size=4)])
def test_a_claim_and_its_opposite_are_judged_alike(ours, theirs):
    opposite = {"reproduced": "contradicted", "contradicted": "reproduced", "within noise": "within noise"}
    assert below(theirs, ours) == opposite[below(ours, theirs)]


def test_below_is_of_the_first():
    assert below([1.0, 1.1], [2.0, 2.1]) == "reproduced"
    assert (if_held(True), if_held(False)) == ("reproduced", "not reproduced")


def test_values_are_grouped_in_the_order_of_rows():
    rows = [{"system": name, "part": part, "x": x} for name, part, x in (("b", "p", 1), ("a", "p", 2), ("b", "p", 3))]
    assert values_by([*rows, {"system": "a", "part": "q"}], "x", part="p") == {"b": [1, 3], "a": [2]}
    assert changes({"a": [1, 2]}, {"a": [4, 2]}) == {"a": [3, 0]}


def test_numbers_are_shown_with_their_intervals():
    assert listed({"a": [1.0, 1.0], "b": [2.0]}, labels={"b": "c"}) == "a 1.000 ± 0.000, c 2.000"
    assert against([0.5, 0.5], [0.25, 0.25], ".0%") == "50% ± 0% against 25% ± 0% (difference +25% ± 0%)"
    assert against([1.0], [2.0]) == "1.000 against 2.000 (difference -1.000)"


def test_a_result_is_read_as_it_was_written(tmp_path):
    result = Result([{"part": "model", "seed": 0}], (Claim("a", "1", "2", "contradicted"),), {"date": "today"})
    result.write(tmp_path)
    assert Result.read(tmp_path / "result.json") == result
    assert dataclasses.is_dataclass(result.claims[0])


def test_a_result_without_claims_is_refused(tmp_path):
    (tmp_path / "result.json").write_text('{"rows": [], "verdict": "reproduced", "environment": {}}')
    with pytest.raises(CheckpointError, match="lacks claims"):
        Result.read(tmp_path / "result.json")
