"""The claims about SpaceByte say what the rows hold."""

import pytest

from tokjax.studies.spacebyte import claims


def rows(spacebyte, seeds=3):
    bits = {"bytes": 3.0, "megabyte": 2.8, "spacebyte": spacebyte, "bpe": 2.0}
    return [
        {"part": "model", "system": system, "seed": seed, "bits_per_byte": value + 0.01 * seed}
        for system, value in bits.items()
        for seed in range(seeds)
    ]


@pytest.mark.parametrize(
    ("spacebyte", "outcomes"),
    [
        (1.9, ["reproduced", "reproduced", "reproduced"]),
        (2.02, ["reproduced", "reproduced", "reproduced"]),  # within 3% of 2.0
        (2.06, ["reproduced", "reproduced", "within noise"]),
        (2.5, ["reproduced", "reproduced", "contradicted"]),
        (2.9, ["reproduced", "contradicted", "contradicted"]),
        (3.5, ["contradicted", "contradicted", "contradicted"]),
    ],
)
def test_each_half_is_judged(spacebyte, outcomes):
    assert [claim.outcome for claim in claims(rows(spacebyte))] == outcomes


def test_one_seed_decides_nothing():
    assert {claim.outcome for claim in claims(rows(1.5, seeds=1))} == {"undecided"}


def test_differences_are_shown_with_their_intervals():
    assert claims(rows(1.9))[2].ours == "1.910 ± 0.025 against 2.010 ± 0.025 (difference -0.100 ± 0.023)"
