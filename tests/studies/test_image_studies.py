"""The studies of image tokenizers run at smoke scale, go on where they stopped, and judge both ways."""

import pytest

from tokjax.studies import flextok, titok


@pytest.mark.slow
def test_titok_runs_and_resumes(tmp_path):
    run = lambda: titok.titok(scale="smoke", seeds=1, directory=tmp_path, progress=False)  # noqa: E731
    result = run()
    assert {(row["tokenizer"], row["tokens"]) for row in result.rows} == {
        (name, tokens) for name in ("titok", "grid") for tokens in (4, 16)
    }
    for row in result.rows:
        assert row["nominal_bits"] == 6 * row["tokens"], "the same bits on a grid and on none"
    assert {claim.outcome for claim in result.claims} == {"undecided"}, "one seed decides nothing"
    assert run().rows == result.rows


@pytest.mark.slow
def test_flextok_runs(tmp_path):
    result = flextok.flextok(scale="smoke", seeds=1, directory=tmp_path, progress=False)
    names = {"nested dropout", "no dropout", "flow", "fixed length"}
    assert {(row["model"], row["keep"]) for row in result.rows} == {(name, keep) for name in names for keep in (1, 4)}
    assert {claim.outcome for claim in result.claims} == {"undecided"}


def titok_rows(titok_error, grid_error):
    return [
        {"part": "tokenizer", "tokenizer": name, "tokens": tokens, "seed": seed,
         "squared_error": error(tokens) + 1e-5 * seed}
        for name, error in (("titok", titok_error), ("grid", grid_error)) for tokens in (4, 16, 64) for seed in range(3)
    ]  # fmt: skip


def test_titok_claims_follow_the_numbers():
    held = titok.claims(titok_rows(lambda tokens: 1 / tokens, lambda tokens: 2 / tokens))
    assert {claim.outcome for claim in held} == {"reproduced"} and len(held) == 5
    opposite = titok.claims(titok_rows(lambda tokens: tokens, lambda tokens: tokens / 2))
    assert {claim.outcome for claim in opposite} == {"contradicted"}


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
