"""The claims about hierarchical models say what the rows hold, and only as firmly as the seeds allow."""

import json

import pytest

from tokjax.core.errors import SpecError
from tokjax.data import load_source
from tokjax.experiment import run
from tokjax.studies import hat as module
from tokjax.studies.hat import PATCHES, claims, hat, speed
from tokjax.studies.result import Result

BPE = "bpe:2048"
CURVES = {"hat": [[0.0, 6.0], [0.5, 3.0], [1.0, 2.0]], BPE: [[0.0, 6.0], [0.5, 4.0], [1.0, 3.0]]}


def english(system, bits, accuracy, seed):
    fields = {"bits_per_byte": bits + 0.01 * seed, "next_word_accuracy": accuracy - 0.001 * seed}
    return {"part": "english", "system": system, "seed": seed, **fields}


def noise(system, added, kept, seed):
    clean = {"noisy_bits_per_byte": 3.0, "clean_bits_per_byte": 2.0, "next_word_accuracy": 0.2}
    changed = {
        "noisy_bits_per_byte": 3.0 + 5 * added,
        "clean_bits_per_byte": 2.0 + added + 0.001 * seed,
        "next_word_accuracy": 0.2 * (kept - 0.001 * seed),
    }
    name = {"part": "noise", "system": system, "seed": seed}
    settings = [("none", 0.0, clean), ("swap", 0.1, changed), ("drop", 0.2, changed)]
    return [{**name, "kind": kind, "rate": rate, **values} for kind, rate, values in settings]


def adaptation(system, role, final, after, seed, curves):
    return {
        "part": "adaptation",
        "system": system,
        "seed": seed,
        "role": role,
        "bits_per_byte": final + 0.01 * seed,
        "english_before": 2.0,
        "english_after": after + 0.01 * seed,
        "curve": curves[system],
    }


def rows(*, better="hat", worse=BPE, seeds=3, roles=("german",), curves=CURVES):
    found = []
    for seed in range(seeds):
        found += [english("bytes", 3.0, 0.1, seed), english(BPE, 2.0, 0.2, seed)]
        found += [english("hat", 2.2, 0.2, seed), english(PATCHES, 2.5, 0.15, seed)]
        found += noise(better, 0.1, 0.9, seed) + noise(worse, 0.3, 0.7, seed)
        for role in roles:
            found.append(adaptation(better, role, 2.0, 2.5, seed, curves))
            found.append(adaptation(worse, role, 3.0, 3.5, seed, curves))
    return found


def outcomes(found):
    return [claim.outcome for claim in claims(found)]


def test_all_that_the_paper_says():
    said = claims(rows())
    assert [claim.outcome for claim in said] == 6 * ["reproduced"] + ["not measured"] + 2 * ["reproduced"]
    assert said[0].ours == "share kept: hat 0.899 ± 0.002, bpe:2048 0.699 ± 0.002"
    assert said[3].claim == "hat adapts to german faster than bpe:2048" and said[3].ours == "2.00 times as fast"
    assert (said[6].claim, said[6].ours) == ("hat adapts better to other_script", "give --source other_script=ADDRESS")
    assert "patches 2.510" in said[7].ours


def test_the_opposite_is_said_too():
    swapped = {"hat": CURVES[BPE], BPE: CURVES["hat"]}
    said = claims(rows(better=BPE, worse="hat", roles=("german", "other_script"), curves=swapped))
    assert [claim.outcome for claim in said] == 9 * ["contradicted"] + 2 * ["reproduced"]
    assert said[3].ours == "0.50 times as fast"


def test_one_seed_decides_nothing():
    assert outcomes(rows(seeds=1)) == 6 * ["undecided"] + ["not measured"] + 2 * ["undecided"]


def test_no_right_word_is_undecided():
    silent = [row | {"next_word_accuracy": 0.0} if row["part"] == "noise" else row for row in rows()]
    assert outcomes(silent)[:2] == ["undecided", "reproduced"]


def test_a_difference_within_noise_is_not_reproduced():
    spread = [row | {"bits_per_byte": 2.0 + row["seed"]} if row["part"] == "english" else row for row in rows()]
    assert outcomes(spread)[-2:] == ["within noise", "reproduced"]


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        (CURVES["hat"], CURVES[BPE], 2.0),
        (CURVES[BPE], CURVES["hat"], 0.5),
        (CURVES["hat"], CURVES["hat"], 1.0),
        ([[0.0, 6.0], [0.5, 2.0], [1.0, 1.0]], CURVES[BPE], 1 / (0.5 * 3 / 4)),  # straight between evaluations
        ([[0.0, 2.5], [0.5, 2.0], [1.0, 1.0]], CURVES[BPE], 2.0),  # there from the start: as fast as can be seen
    ],
)
def test_speed_is_the_ratio_of_budgets(ours, theirs, expected):
    assert speed(ours, theirs) == pytest.approx(expected)


def test_an_unknown_role_is_refused(tmp_path):
    with pytest.raises(SpecError, match="Did you mean 'german'"):
        hat(scale="smoke", seeds=1, directory=tmp_path, sources={"germn": "pydocs"})


@pytest.mark.long
def test_the_study_runs_and_goes_on(tmp_path, monkeypatch):
    """Python source stands in for another language; what has been trained and scored is not done again."""
    path = tmp_path / "source.jsonl"
    records = list(load_source("stdlib"))[:120]
    path.write_text("".join(json.dumps({"text": raw.decode()[:2000]}) + "\n" for raw in records))
    directory, sources = tmp_path / "study", {"other_script": f"jsonl:{path}"}
    result = hat(scale="smoke", seeds=1, directory=directory, progress=False, sources=sources)
    parts = [row["part"] for row in result.rows]
    assert [parts.count(part) for part in ("english", "noise", "adaptation")] == [4, 4 * 5, 2]
    for row in result.rows:
        if row["part"] == "adaptation":
            assert row["bits_per_byte"] < row["bits_before"]
            assert [point[0] for point in row["curve"]][-1] == 1.0
    typed = {
        row["kind"]: row["noisy_bits_per_byte"] for row in result.rows if row["system"] == "bpe:512" and "kind" in row
    }
    assert all(typed[kind] > typed["none"] for kind in ("swap", "insert"))
    assert {claim.outcome for claim in result.claims} == {"undecided", "not measured"}
    monkeypatch.setattr(module, "robustness", lambda *_: pytest.fail("scored again"))
    monkeypatch.setattr(run, "train_model", lambda *_, **__: pytest.fail("trained again"))
    again = hat(scale="smoke", seeds=1, directory=directory, progress=False, sources=sources)
    assert again.claims == result.claims
    assert Result.read(directory / "result.json") == result
