"""The verdict on equal-info windows says what the rows hold, whichever way they point."""

import itertools
import json
import math

import pytest

from tokjax.studies import equal_info as module
from tokjax.studies.equal_info import _ALL, _B16, _PAPER_ORDER, _uniform, equal_info, verdict

SEEDS = range(3)


def ratio(entropy, setting, value, seed):
    misdecoded = {"misdecoded": 0.25} if setting == "b16" and entropy == "ngram" else {}
    return {
        "part": "ratio",
        "entropy": entropy,
        "setting": setting,
        "bytes_per_token": value,
        "seed": seed,
        **misdecoded,
    }


def model(system, bits, seed):
    row = {"part": "model", "system": system, "seed": seed}
    return {**row, "bits_per_byte": bits + 0.01 * seed, "uniform_bits_per_byte": 4.0}


def rows(order=_PAPER_ORDER, learned=None, systems=_ALL):
    found = [ratio("ngram", "ids", 4.8, seed) for seed in SEEDS] + [ratio("ngram", "compiled", 5.4, s) for s in SEEDS]
    for entropy, (place, setting), seed in itertools.product(("ngram", "m1"), enumerate(order), SEEDS):
        if entropy == "ngram" or setting != "static_ac":
            found.append(ratio(entropy, setting, 5.0 - 0.5 * place, seed))
    bits = {name: 4.0 for name in systems} | (learned or {})
    return found + [model(name, bits[name], seed) for name in systems for seed in SEEDS]


def test_all_that_the_paper_says():
    said = verdict(rows(learned={_B16: 3.5}))
    assert "not reproduced" not in said
    assert "order of ratios with ngram reproduced (ac 5.00 > b128 4.50" in said
    assert "order of ratios with m1 reproduced" in said
    assert "mis-decodes 25% of windows" in said
    assert "compiled packs 1.125x" in said
    assert "b16 is learnable reproduced (12.3% below its uniform cost of 4.000 bits per byte)" in said


def test_none_of_it():
    said = verdict(rows(order=_PAPER_ORDER[::-1], learned={"ac:token_bits=8": 3.0}))
    assert "order of ratios with ngram not reproduced" in said
    assert "AC teaches nothing not reproduced" in said
    assert "b16 is learnable not reproduced" in said


def test_a_single_seed_out_of_order_counts():
    swapped = rows()
    first = next(row for row in swapped if row.get("setting") == "b64" and row["entropy"] == "ngram")
    first["bytes_per_token"] = 9.0
    assert "order of ratios with ngram not reproduced" in verdict(swapped)


def test_models_are_compared_with_their_noise():
    said = verdict(rows(learned={"compiled:65536": 3.0, "bpe:65536": 2.0}))
    assert "compiled:65536 3.010 against bpe:65536 2.010 bits per byte (difference +1.000 ± 0.023)" in said
    assert "compiled" in verdict(rows(systems=("bytes", _B16)))  # as at smoke scale, where few are trained


def test_the_uniform_cost_counts_ends_of_documents():
    row = {"bytes_per_token": 2.0, "vocab_size": 257}
    assert _uniform(row, [bytes(60), bytes(40)]) == pytest.approx(math.log2(257) * (50 + 2) / 100)


@pytest.mark.slow
def test_the_study_runs_and_goes_on(tmp_path, monkeypatch):
    result = equal_info(scale="smoke", seeds=1, directory=tmp_path, progress=False)
    assert {row["part"] for row in result.rows} == {"ratio", "model"}  # no model over 64-bit windows at this scale
    assert "order of ratios with ngram reproduced" in result.verdict
    measured = [row["misdecoded"] for row in result.rows if row.get("misdecoded") is not None]
    assert len(measured) == 4 and all(0.05 < rate < 0.6 for rate in measured)
    assert json.loads((tmp_path / "result.json").read_text())["verdict"] == result.verdict
    monkeypatch.setattr(module, "fit_tokenizer", lambda *_, **__: pytest.fail("measured again"))
    again = equal_info(scale="smoke", seeds=1, directory=tmp_path, progress=False)
    assert again.verdict == result.verdict
