"""Every registered study judges and shows its rows; stored results say what their rows say."""

from pathlib import Path

import pytest

from tokjax.core.registry import studies
from tokjax.report.study import cells
from tokjax.studies import module_of
from tokjax.studies.result import Result

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
STORED = {path.stem.removeprefix("study_"): Result.read(path) for path in RESULTS.glob("study_*.json")}


def test_stored_results_are_of_registered_studies():
    assert STORED.keys() <= set(studies)


@pytest.mark.parametrize("name", list(studies))
def test_a_study_has_claims_and_tables(name):
    module = module_of(name)
    assert callable(module.claims)
    for table in module.TABLES:
        assert table.keys and table.columns and not table.keys.keys() & table.columns.keys()


@pytest.mark.parametrize("name", sorted(STORED))
def test_stored_claims_are_those_of_the_rows(name):
    assert STORED[name].claims == module_of(name).claims(STORED[name].rows)


@pytest.mark.parametrize("name", sorted(STORED))
def test_every_stored_part_has_its_table(name):
    rows = STORED[name].rows
    tables = [(table, cells(rows, table)) for table in module_of(name).TABLES]
    assert {row["part"] for row in rows} >= {table.part for table, lines in tables if lines}
    for table, lines in tables:
        for heading, column in zip([*table.keys, *table.columns], zip(*lines, strict=True), strict=bool(lines)):
            assert any(column), f"{table.part}: nothing under {heading!r}"
