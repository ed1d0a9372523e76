"""The study of codes as a language: claims follow made-up rows both ways, and it runs at smoke scale and resumes."""

import math

import numpy as np
import pytest

from tokjax.core.errors import SourceError
from tokjax.studies import visual_language as module
from tokjax.studies.visual_language import claims, visual_language

IMAGES = tuple(module._QUANTIZERS)
TEXT = (module.ENGLISH, module.WORDS)
# Field -> whether codes of images are said to be above English.
COUNTS = {"zipf_exponent": False, "alpha": True, "entropy_share": True, "huffman_share": True}
ORDER = {"early_types": True, "lzma_share": True, "bigram_gain": False}


def rows(holds, *, seeds=3, differing=()):
    """Rows in which the claims hold, or their opposites; in those of the tokenizers `differing`, the other way."""
    found = []
    for name in (*IMAGES, *TEXT):
        for seed in range(seeds):
            said = holds != (name in differing)

            def value(above, name=name, seed=seed, said=said):
                side = 0 if name in TEXT else 1 if above == said else -1
                return 1 + 0.3 * side + 1e-3 * seed

            who = {"tokenizer": name, "seed": seed}
            counts = {field: value(above) for field, above in COUNTS.items()}
            counts |= {"vuong_z": -3.0 if said else 1.0, "benford_deviation": 0.01 if said else 0.03}
            order = {field: value(above) for field, above in ORDER.items()}
            control = order["bigram_gain"] - 0.2 if said else order["bigram_gain"] + 0.2
            scan = "text" if name in TEXT else "raster"
            found.append(who | {"part": "counts"} | counts)
            found.append(who | {"part": "order", "scan": scan, "order": "kept"} | order)
            found.append(who | {"part": "order", "scan": scan, "order": "shuffled"} | order | {"bigram_gain": control})
            in_place = {"scan": scan, "order": "shuffled in place", "bigram_gain": control}
            found.append(who | {"part": "order"} | order | in_place)
            found.append(who | {"part": "order", "scan": "hilbert", "order": "kept"} | order)
            found.append(who | {"part": "grammar", "grammar_perplexity": 100 * value(True)})
    return found


def outcomes(found):
    return [claim.outcome for claim in claims(found)]


def test_claims_follow_the_numbers():
    held, opposite = outcomes(rows(True)), outcomes(rows(False))
    assert set(held) == {"reproduced", "measured", "not measured"}
    assert set(opposite) == {"contradicted", "not reproduced", "measured", "not measured"}
    # Two claims hold or do not; they have no interval.
    assert opposite.count("not reproduced") == 2 and opposite.count("contradicted") == held.count("reproduced") - 2


def test_a_claim_has_to_hold_for_every_tokenizer_and_benfords_law_for_one():
    found = {claim.claim: claim.outcome for claim in claims(rows(True, differing=IMAGES[:1]))}
    benford = next(outcome for claim, outcome in found.items() if "Benford" in claim)
    assert benford == "reproduced"
    assert sorted(set(found.values()) - {benford}) == ["measured", "not measured", "not reproduced"]
    assert list(found.values()).count("reproduced") == 1


def test_one_seed_decides_no_difference():
    assert "undecided" in outcomes(rows(True, seeds=1)) and "contradicted" not in outcomes(rows(True, seeds=1))


def test_text_gives_as_many_tokens_as_asked_for_in_documents_that_the_seed_draws():
    shape = module._SCALES["smoke"]
    text = [b"a few words of the document number %d, each of them on its own" % i for i in range(60)]
    first, again, other = (list(module._of_text(shape, text, "bytes", seed, 1000)) for seed in (0, 0, 1))
    counts = first[0]
    assert counts["part"] == "counts" and counts["tokens"] == 1000
    assert first == again and first != other
    with pytest.raises(SourceError, match="--source text=ADDRESS"):
        list(module._of_text(shape, text, "bytes", 0, 10**6))


def test_the_control_keeps_counts_and_loses_order():
    grids = np.random.default_rng(0).integers(0, 8, (200, 4))
    codes = [np.repeat(row, 4) for row in grids]  # each code four times in a row
    found = list(module._of_streams(module._SCALES["smoke"], {"raster": codes}, 8, 0))
    kept, control = (row for row in found if row["part"] == "order")
    assert kept["order"] == "kept" and control["order"] == "shuffled"
    # Four of five codes follow themselves, and the others any of eight: 3 bits become 0.7 + 0.2 log2 7 at most.
    assert 3 - (0.73 + 0.2 * math.log2(7)) - 0.1 < kept["bigram_gain"] < 3
    assert abs(control["bigram_gain"]) < 0.05
    assert kept["lzma_share"] < 0.7 * control["lzma_share"]


def test_shuffled_in_place_keeps_the_codes_of_each_place():
    codes = np.random.default_rng(0).integers(0, 50, (100, 6)) + 100 * np.arange(6)
    mixed = module.shuffled_in_place(codes, 0)
    np.testing.assert_array_equal(np.sort(mixed, axis=0), np.sort(codes, axis=0))
    assert not any(np.array_equal(np.argsort(a), np.argsort(b)) for a, b in zip(mixed.T, codes.T, strict=True))


@pytest.mark.long
def test_runs_and_resumes(tmp_path):
    run = lambda: visual_language(scale="smoke", seeds=1, directory=tmp_path, progress=False)  # noqa: E731
    result = run()
    assert {row["tokenizer"] for row in result.rows} == {*IMAGES, *TEXT, "bytes"}
    counts = [row for row in result.rows if row["part"] == "counts"]
    assert len({row["tokens"] for row in counts}) == 1
    assert all(1 < row["types"] <= row["vocab_size"] for row in counts)
    assert {claim.outcome for claim in result.claims} - {"undecided", "measured", "not measured"} <= {
        "reproduced",
        "not reproduced",
    }
    assert run().rows == result.rows
