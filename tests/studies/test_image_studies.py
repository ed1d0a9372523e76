"""The studies of image tokenizers run at smoke scale, go on where they stopped, and judge both ways."""

import pytest

from tokjax.studies import flextok, titok


@pytest.mark.long
def test_titok_runs_and_resumes(tmp_path):
    run = lambda: titok.titok(scale="smoke", seeds=1, directory=tmp_path, progress=False)  # noqa: E731
    result = run()
    parts = {name: [row for row in result.rows if row["part"] == name] for name in ("tokenizer", "generation", "time")}
    every = {(name, tokens) for name in ("titok", "grid") for tokens in (4, 16)}
    for rows in parts.values():
        assert {(row["tokenizer"], row["tokens"]) for row in rows} == every
    for row in parts["tokenizer"]:
        assert row["nominal_bits"] == 6 * row["tokens"], "the same bits on a grid and on none"
    steps = {tokens: [r["steps"] for r in parts["generation"] if r["tokens"] == tokens] for tokens in (4, 16)}
    assert steps == {4: [2, 4] * 2, 16: [2, 4] * 2}
    assert all(row["frechet"] > 0 for row in parts["generation"])
    assert all(row["milliseconds"] > 0 for row in parts["time"]) and len(parts["time"]) == 5 * len(parts["generation"])
    assert [row["training"] for row in result.rows if row["part"] == "stages"] == ["one", "two"]
    *quality, time = result.claims
    assert {claim.outcome for claim in quality} == {"undecided"}, "one seed decides nothing"
    assert time.outcome == "measured"
    again = run()
    kept = lambda found: [row for row in found.rows if row["part"] != "time"]  # noqa: E731
    assert kept(again) == kept(result)


@pytest.mark.long
def test_flextok_runs(tmp_path):
    result = flextok.flextok(scale="smoke", seeds=1, directory=tmp_path, progress=False)
    names = {"nested dropout", "no dropout", "flow", "fixed length"}
    assert {(row["model"], row["keep"]) for row in result.rows} == {(name, keep) for name in names for keep in (1, 4)}
    assert {claim.outcome for claim in result.claims} == {"undecided"}


def titok_rows(titok_error, grid_error, two_stages):
    """Errors by tokens; distances of generators are those errors, too, and best on validation images in 4 steps."""
    rows = []
    for seed in range(3):
        noise = 1e-5 * seed
        for name, error in (("titok", titok_error), ("grid", grid_error)):
            for tokens in (4, 16, 64):
                key = {"tokenizer": name, "tokens": tokens, "seed": seed}
                rows.append({"part": "tokenizer", "squared_error": error(tokens) + noise} | key)
                for steps in (2, 4, 8):
                    value = error(tokens) + noise
                    chosen = {"valid_frechet": abs(steps - 4) + noise, "frechet": value + 1e-3 * steps}
                    rows.append({"part": "generation", "steps": steps} | chosen | key)
                    rows.append({"part": "time", "steps": steps, "milliseconds": value * steps} | key)
        for kind, error in (("one", 1.0), ("two", two_stages)):
            rows.append({"part": "stages", "training": kind, "squared_error": error + noise, "seed": seed})
    return rows


def test_titok_claims_follow_the_numbers():
    held = titok.claims(titok_rows(lambda tokens: 1 / tokens, lambda tokens: 2 / tokens + 1, 0.5))
    *quality, time = held
    assert {claim.outcome for claim in quality} == {"reproduced"} and len(held) == 8
    # 4 steps of 1 / 16 and of 2 / 64 + 1, and noise of 1e-5
    assert "in 4 steps of 16 tokens and 4 of 64" in time.claim and "a ratio of 16.5" in time.ours
    *opposite, time = titok.claims(titok_rows(lambda tokens: tokens, lambda tokens: tokens / 8, 1.5))
    assert {claim.outcome for claim in opposite} == {"contradicted"} and time.outcome == "measured"


def flextok_rows(**models):
    return [
        {"part": "prefix", "model": name.replace("_", " "), "keep": keep, "seed": seed,
         "squared_error": error(keep) + 1e-5 * seed, "frechet": distance(keep) + 1e-5 * seed}
        for name, (error, distance) in models.items() for keep in (1, 4, 16) for seed in range(3)
    ]  # fmt: skip


def test_flextok_claims_follow_the_numbers():
    held = flextok.claims(flextok_rows(
        nested_dropout=(lambda k: 1 / k, lambda k: 5.0), fixed_length=(lambda k: 0.99 / k, lambda k: 5.0),
        no_dropout=(lambda k: 3.0, lambda k: 9.0), flow=(lambda k: 2.0, lambda k: 1.0),
    ))  # fmt: skip
    assert {claim.outcome for claim in held} == {"reproduced"} and len(held) == 8
    opposite = flextok.claims(flextok_rows(
        nested_dropout=(lambda k: 3.0, lambda k: 1.0), fixed_length=(lambda k: 1.0, lambda k: 5.0),
        no_dropout=(lambda k: 1.0, lambda k: 1.0), flow=(lambda k: 1.0, lambda k: 9.0),
    ))  # fmt: skip
    assert {claim.outcome for claim in opposite} == {"contradicted"}
