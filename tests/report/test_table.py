"""The table and the headline say what the rows say."""

import io
import math

import pytest
from rich.console import Console
from synthetic_results import build_results

from tokjax.measure.statistics import summary, with_interval
from tokjax.report import headline, markdown_table, terminal_table
from tokjax.report.table import COLUMNS, cells


def _printed(results, width=80):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(terminal_table(results))
    return console.file.getvalue()


def test_every_number_fits_a_terminal_of_80_columns():
    results = build_results()
    lines = _printed(results).splitlines()
    for row in cells(results).rows:
        line = next(line for line in lines if line.split()[:1] == row[:1])
        for cell in row:
            assert cell in line


def test_the_best_is_marked_and_the_order_kept():
    lines = [line.split() for line in _printed(build_results(("bytes", "bpe", "hat"))).splitlines()]
    names = [words[:2] for words in lines if words and words[0] in ("bytes", "bpe", "hat")][:3]
    assert names == [["bytes", "bytes"], ["bpe", "*"], ["hat", "words"]]


def test_column_units_multiply_back_to_the_means():
    results = build_results()
    table = cells(results)
    train = [column.heading for column in COLUMNS].index("train")
    assert table.units[train] == "TFLOP"
    for row, entry in zip(table.rows, summary(results), strict=True):
        assert float(row[train]) * 1e12 == pytest.approx(entry["train_flops"].mean, rel=0.005)


def test_names_in_brackets_are_not_markup():
    results = build_results(("bytes",))
    for row in results["rows"]:
        row["system"] = "[red]x[/red]"
    assert "[red]x[/red]" in _printed(results, width=120)


def test_markdown_is_a_table_of_equal_rows_with_the_best_in_bold():
    results = build_results()
    lines = markdown_table(results).splitlines()
    assert len(lines) == 2 + 3
    assert {line.count(" | ") for line in lines} == {len(COLUMNS) - 1}
    best = next(entry for entry in summary(results) if entry["system"] == "bpe")
    assert f"| **{with_interval(best['bits_per_byte'])}** |" in lines[3]
    assert "**" not in lines[2] + lines[4]


def test_markdown_escapes_names():
    results = build_results(("bytes",))
    for row in results["rows"]:
        row["system"] = "a|b_c"
    assert r"a\|b\_c" in markdown_table(results)


@pytest.mark.parametrize("missing", [None, math.nan])
def test_accuracy_that_was_not_measured_is_a_dash(missing):
    results = build_results()
    for row in results["rows"]:
        if row["system"] == "hat":
            row["next_word_accuracy"] = missing
    rows = cells(results).rows
    accuracy = [column.heading for column in COLUMNS].index("next word")
    assert rows[2][accuracy] == "–"
    assert rows[1][accuracy] != "–"


def _with_scores(**scores):
    results = build_results(tuple(scores), seeds=len(next(iter(scores.values()))))
    for row in results["rows"]:
        row["bits_per_byte"] = scores[row["system"]][row["seed"]]
    return results


def test_headline_of_a_clear_difference():
    text = headline(_with_scores(bytes=[2.50, 2.51, 2.49], bpe=[2.00, 2.01, 1.99]))
    assert text.startswith("bpe has the fewest bits per byte after 1 TFLOP of training: 2.000 ± 0.025.")
    assert "bytes is next with 2.500 ± 0.025" in text
    assert "larger than the noise" in text
    assert "p < 0.0001" in text


def test_headline_of_noise_names_no_winner():
    assert "neither wins" in headline(_with_scores(bytes=[2.2, 2.0, 2.4], bpe=[2.1, 2.3, 2.0]))


def test_headline_of_one_seed_claims_nothing():
    text = headline(_with_scores(bytes=[2.2], bpe=[2.1]))
    assert "one seed does not tell" in text
    assert "±" not in text


def test_headline_of_one_system_and_of_none():
    assert "no other system" in headline(_with_scores(bpe=[2.1, 2.2]))
    assert headline(_with_scores(bpe=[math.nan, 2.0])) == "No system reached a finite number of bits per byte."


@pytest.mark.parametrize(
    ("budget", "words"),
    [("5MB", "5 MB of training text"), ("60s", "60 s of training"), ("2.5e13flops", "25 TFLOP of training")],
)
def test_headline_names_the_budget(budget, words):
    results = build_results()
    results["settings"]["budget"] = budget
    assert f"after {words}:" in headline(results)
