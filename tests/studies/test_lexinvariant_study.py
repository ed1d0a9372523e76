"""What the study of lexinvariance says of numbers, and that it runs."""

import json

import pytest

from tokjax.studies.lexinvariant import claims, gap_by_position, lexinvariant


def rows(late_gap=0.5, recovered=0.997, unseen=0.9, late_excess=0.1):
    found = []
    for seed in range(3):
        wobble = 0.01 * seed
        for text in ("prose", "code"):
            for first, standard in ((1, 3.0), (2, 2.5), (256, 1.5)):
                extra = {1: 3.0, 2: 2.0, 256: late_gap * (0.8 if text == "code" else 1.0)}[first] + wobble
                for model, nats in (("standard", standard), ("lexinvariant", standard + extra)):
                    found.append(
                        {"part": "position", "text": text, "model": model, "seed": seed, "first": first, "nats": nats}
                    )
        for first, unknown in ((1, 3.3), (2, 3.0), (256, 1.6 + late_excess)):
            found.append({"part": "trigrams", "text": "prose", "seed": seed, "first": first, "unknown": unknown,
                          "known": 1.6})  # fmt: skip
        found.append({"part": "cipher", "text": "prose", "seed": seed, "key_accuracy": recovered,
                      "key_by_frequency": 0.3, "key_by_trigrams": 0.95})  # fmt: skip
        for task in ("lookup", "permutation"):
            for model, accuracy in (("lexinvariant", unseen), ("standard", 0.1)):
                found.append({"part": "reasoning", "task": task, "model": model, "seed": seed, "symbols": "unseen",
                              "accuracy": accuracy + wobble, "answers": 1000})  # fmt: skip
    return found


def test_the_gap_is_the_excess_of_perplexity():
    gap = gap_by_position(rows(), "prose", 0)
    assert list(gap) == [1, 2, 256]
    assert gap[2] == pytest.approx(2.718281828**2 - 1)


def test_claims_that_hold():
    said = claims(rows())
    assert [claim.outcome for claim in said] == 7 * ["reproduced"]
    assert said[0].ours == "6.5 ± 0.2x at symbol 2, 0.67 ± 0.04x from symbol 256 on"
    assert said[3].ours == "3.06 ± 0.00x at symbol 2, 0.11 ± 0.00x from symbol 256 on"
    assert said[4].ours == "99.7% ± 0.0% of the symbols; 30.0% ± 0.0% by frequency alone, 95.0% ± 0.0% by trigrams"
    assert said[5].ours == "91.0% ± 2.5% against 11.0% ± 2.5% right; guessing 25%"


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"late_gap": 1.5}, [0, 1]),
        ({"late_excess": 0.7}, [3]),
        ({"recovered": 0.99}, [4]),
        ({"unseen": 0.3}, [6]),
        ({"unseen": 0.2}, [5, 6]),
    ],
)
def test_claims_that_do_not(given, wrong):
    assert [i for i, claim in enumerate(claims(rows(**given))) if claim.outcome == "not reproduced"] == wrong


def test_one_seed_that_does_not_is_enough():
    found = rows()
    for row in found:
        if row["seed"] == 1 and row.get("text") == "code" and row.get("first") == 256 and row["model"] != "standard":
            row["nats"] += 1.0
    assert [claim.outcome for claim in claims(found)[:3]] == ["reproduced", "not reproduced", "not reproduced"]


@pytest.mark.long
def test_it_runs_and_goes_on(tmp_path):
    """Every part is measured, nothing is trained twice, and numbers are those of probabilities and shares."""
    result = lexinvariant(scale="smoke", seeds=1, directory=tmp_path, progress=False)
    parts = {row["part"] for row in result.rows}
    assert parts == {"text", "position", "reference", "trigrams", "cipher", "reasoning", "gap"}
    for row in result.rows:
        assert all(0 <= value <= 1 for name, value in row.items() if "accuracy" in name or "_by_" in name)
        assert all(row.get(nats) is None or row[nats] > 0 for nats in ("nats", "unknown", "known"))
    trained = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("metrics.jsonl")}
    assert len(trained) == 8
    for row in result.rows:
        if row["part"] == "gap" and row["seen"] is not None:
            assert 0 <= row["seen"] <= row["first"] * 2
    again = lexinvariant(scale="smoke", seeds=1, directory=tmp_path, progress=False)
    assert again.rows == result.rows == json.loads((tmp_path / "result.json").read_text())["rows"]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("metrics.jsonl")} == trained
