"""What is shown of a study is what its rows hold, and fits a terminal."""

import io

import pytest
from rich.console import Console

from tokjax.report.papers import papers_markdown
from tokjax.report.study import cells, machine, markdown_claims, markdown_tables, measured, terminal_study
from tokjax.studies.result import Claim, Result, Table

TABLE = Table(
    "model", {"system": "name"}, {"bits": "bits", "steps": "steps", "gone": "gone"}, labels={"long:name": "short"}
)
ROWS = [
    {"part": "model", "name": name, "seed": seed, "bits": bits + 2 * seed, "steps": 1000 + seed, "gone": None}
    for name, bits in (("long:name", 1.0), ("[red]b[/red]", 3.0))
    for seed in (0, 1)
]
ENVIRONMENT = {
    "cpus": 2, "devices": 1, "device": "cpu", "platform": "cpu", "python": "3.11.7", "versions": {"jax": "0.10.2"},
    "date": "2026-11-24",
}  # fmt: skip
CLAIM = Claim("a claim", "12.3 " + 10 * "word ", "45.6 " + 20 * "word ", "not reproduced")
RESULT = Result(ROWS, (CLAIM, CLAIM), ENVIRONMENT)


def test_cells_are_means_with_intervals():
    """t(0.975, 1 degree) = 12.706 and the standard error of {1, 3} is 1."""
    assert cells(ROWS, TABLE) == [
        ["short", "2.000 ± 12.706", "1,000", ""],
        ["[red]b[/red]", "4.000 ± 12.706", "1,000", ""],
    ]
    assert cells(ROWS, TABLE._replace(part="other")) == []


@pytest.mark.parametrize("width", [80, 160])
def test_the_terminal_shows_claims_and_tables(width):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(terminal_study(RESULT, [TABLE, TABLE._replace(part="other")]))
    shown = console.file.getvalue()
    assert max(map(len, shown.splitlines())) <= width
    assert shown.count("not reproduced  a claim") == 2
    assert shown.count("paper: 12.3") == shown.count("ours: 45.6") == 2
    assert shown.count("word") == 60
    assert "[red]b[/red] 4.000 ± 12.706" in shown
    assert shown.count("system") == 1  # a part without rows has no table
    assert "Means of 2 seeds on 2 CPU cores, Python 3.11.7, jax 0.10.2" in shown


def test_markdown_tables_have_equal_rows():
    for text, columns, lines in ((markdown_claims(RESULT.claims), 4, 4), (markdown_tables(ROWS, [TABLE]), 4, 4)):
        rows = text.splitlines()
        assert len(rows) == lines and {row.count(" | ") for row in rows} == {columns - 1}


def test_rows_without_a_seed_are_of_no_seed():
    timed = {"part": "time", "milliseconds": 1.0}
    assert measured(Result([*ROWS, timed], (), ENVIRONMENT)).startswith("2 seeds on 2 CPU cores")


def test_the_machine_is_named_by_its_device():
    assert machine(ENVIRONMENT).startswith("2 CPU cores, Python")
    gpu = ENVIRONMENT | {"platform": "gpu", "device": "NVIDIA H100", "devices": 8}
    assert machine(gpu).startswith("8 x NVIDIA H100, Python")
    assert measured(RESULT).startswith("2 seeds on 2 CPU cores, ")


def test_papers_say_what_was_found_and_what_was_not():
    text = papers_markdown({"hat": RESULT}, {"hat": "hat.md", "byte2word": "byte2word.md"})
    sections = {part.split("`")[0]: part for part in text.split("\n### `")[1:]}
    assert set(sections) >= {"hat", "byte2word", "equal_info", "lexinvariant", "spacebyte", "word_pooled"}
    assert "| a claim | 12.3" in sections["hat"] and "](hat.md)" in sections["hat"]
    assert "2 seeds on 2 CPU cores" in sections["hat"] and "results/study_hat.json)" in sections["hat"]
    for name in sections.keys() - {"hat"}:
        assert "No stored result yet." in sections[name]
    assert "## Studies\n" in text and "Studys" not in text
