"""The study of codebooks runs at smoke scale and judges both ways."""

import pytest

from tokjax.studies import quantizers


@pytest.mark.long
def test_runs_and_resumes(tmp_path):
    run = lambda: quantizers.quantizers(scale="smoke", seeds=1, directory=tmp_path, progress=False)  # noqa: E731
    result = run()
    assert {row["quantizer"] for row in result.rows} == set(quantizers._QUANTIZERS)
    assert all(0 < row["codes_used"] <= 1 and row["squared_error"] > 0 for row in result.rows)
    assert {claim.outcome for claim in result.claims} == {"undecided"}, "one seed decides nothing"
    assert run().rows == result.rows


def test_claims_follow_the_numbers():
    def rows(used, error):
        return [
            {"part": "codebook", "quantizer": name, "codes": codes, "seed": seed,
             "codes_used": used(name, codes) + 1e-4 * seed, "squared_error": error(name, codes) + 1e-5 * seed}
            for name in quantizers._QUANTIZERS for codes in (1024, 65536) for seed in range(3)
        ]  # fmt: skip

    collapsed = rows(lambda name, codes: 0.02 if name == "vq" and codes > 1024 else 0.9, lambda name, codes: (
        {"vq": 0.5, "fsq": 0.4, "simvq": 0.3}.get(name, 0.5) + 0.1 * (codes == 1024)
    ))  # fmt: skip
    assert {claim.outcome for claim in quantizers.claims(collapsed)} == {"reproduced"}
    opposite = rows(lambda name, codes: 0.9 if name == "vq" and codes > 1024 else 0.02, lambda name, codes: (
        {"vq": 0.3, "fsq": 0.4, "simvq": 0.5}.get(name, 0.5) - 0.1 * (codes == 1024)
    ))  # fmt: skip
    assert {claim.outcome for claim in quantizers.claims(opposite)} == {"contradicted"}
