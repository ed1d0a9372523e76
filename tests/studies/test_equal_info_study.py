"""The claims about equal-info windows say what the rows hold, whichever way they point."""

import itertools
import math

import pytest

from tokjax.studies import equal_info as module
from tokjax.studies.equal_info import _ALL, _B16, _B16_WIDE, _PAPER_RATIOS, _uniform, claims, equal_info
from tokjax.studies.result import Result

SEEDS = range(3)
ORDER = tuple(_PAPER_RATIOS)


def ratio(entropy, setting, value, seed, wrong=0.25):
    misdecoded = {"misdecoded": wrong} if setting == "b16" and entropy == "ngram" else {}
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


def rows(order=ORDER, learned=None, systems=_ALL, wrong=0.25):
    found = [ratio("ngram", "ids", 4.8, seed) for seed in SEEDS] + [ratio("ngram", "compiled", 5.4, s) for s in SEEDS]
    for entropy, (place, setting), seed in itertools.product(("ngram", "m1"), enumerate(order), SEEDS):
        if entropy == "ngram" or setting != "static_ac":
            found.append(ratio(entropy, setting, 5.0 - 0.5 * place, seed, wrong))
    bits = {name: 4.0 for name in systems} | (learned or {})
    return found + [model(name, bits[name], seed) for name in systems for seed in SEEDS]


def judged(found):
    return {claim.claim: (claim.outcome, claim.ours) for claim in claims(found)}


ORDERS = ("order of bytes per token with ngram", "order of bytes per token with m1")


def test_all_that_the_paper_says():
    said = judged(rows(learned={_B16: 3.5, _B16_WIDE: 3.0}, wrong=0.005))
    assert {outcome for outcome, _ in said.values()} == {"reproduced", "measured"}
    assert "ac 5.00 > b128 4.50 > " in said[ORDERS[0]][1] and "static_ac" in said[ORDERS[0]][1]
    assert "static_ac" not in said[ORDERS[1]][1]
    assert said["b16 is learnable"][1] == "12.3% below its uniform cost of 4.000 bits per byte"
    assert said["compiled against greedy b16"][1].startswith("1.125x")


def test_none_of_it():
    learned = {"ac:token_bits=8": 3.0, "equal_info:mode=paper:token_bits=8:resets=False": 3.0, _B16_WIDE: 5.0}
    said = judged(rows(order=ORDER[::-1], learned=learned))
    wrong = {claim: outcome for claim, (outcome, _) in said.items() if outcome != "measured"}
    assert wrong.pop("b16 has fewer bits per byte with 65,536 ids than with 256") == "contradicted"
    assert len(wrong) == 6 and set(wrong.values()) == {"not reproduced"}
    assert said["b16 as published decodes"][1] == "25.0% ± 0.0% of windows do not"


def test_a_single_seed_out_of_order_counts():
    swapped = rows()
    first = next(row for row in swapped if row.get("setting") == "b64" and row["entropy"] == "ngram")
    first["bytes_per_token"] = 9.0
    said = judged(swapped)
    assert [said[order][0] for order in ORDERS] == ["not reproduced", "reproduced"]


def test_models_are_compared_with_their_noise():
    said = judged(rows(learned={"compiled:65536": 3.0, "bpe:65536": 2.0}))
    assert said["bits per byte of compiled:65536 against bpe:65536"] == (
        "measured", "3.010 ± 0.025 against 2.010 ± 0.025 (difference +1.000 ± 0.023)"
    )  # fmt: skip
    assert said["b16 has fewer bits per byte with 65,536 ids than with 256"][0] == "within noise"
    assert len(judged(rows(systems=("bytes", _B16)))) == 5  # as at smoke scale, where few are trained


def test_the_uniform_cost_counts_ends_of_documents():
    row = {"bytes_per_token": 2.0, "vocab_size": 257}
    assert _uniform(row, [bytes(60), bytes(40)]) == pytest.approx(math.log2(257) * (50 + 2) / 100)


@pytest.mark.long
def test_the_study_runs_and_goes_on(tmp_path, monkeypatch):
    result = equal_info(scale="smoke", seeds=1, directory=tmp_path, progress=False)
    assert {row["part"] for row in result.rows} == {"ratio", "model"}  # no model over 64-bit windows at this scale
    assert (result.claims[0].claim, result.claims[0].outcome) == (ORDERS[0], "reproduced")
    measured = [row["misdecoded"] for row in result.rows if row.get("misdecoded") is not None]
    assert len(measured) == 4 and all(0.05 < rate < 0.6 for rate in measured)
    assert Result.read(tmp_path / "result.json") == result
    monkeypatch.setattr(module, "fit_tokenizer", lambda *_, **__: pytest.fail("measured again"))
    again = equal_info(scale="smoke", seeds=1, directory=tmp_path, progress=False)
    assert again.claims == result.claims
