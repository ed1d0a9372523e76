"""The study's claims say what its rows say, and its noise and labels are what the page promises."""

import json

import pytest

from tokjax.core.errors import SpecError
from tokjax.core.registry import studies
from tokjax.data import load_source
from tokjax.data.python_docs import docstring_packages
from tokjax.studies.byte2word import BYTES, ONE_MASK, PIECES, _word_noise, claims

SEEDS = (0, 1, 2)


def rows(*, bits=10.0, lost=0.2, forgot=0.1, jitter=0.01, seeds=SEEDS, transfer=None):
    """Results where wordpiece encoders cost 10 bits, lose 0.3 bits and 0.2 of accuracy; byte2word what is given."""
    found = []
    for system in (BYTES, PIECES, ONE_MASK):
        own = system == BYTES
        for seed in seeds:
            shared = {"system": system, "seed": seed}
            clean, more, less = (bits, lost, forgot) if own else (10.0, 0.3, 0.2)
            clean, accuracy = clean + jitter * seed, 0.6 + 0.1 * jitter * seed
            cost = {"embedding_params": 40 if own else 400, "train_flops": 8e12 if own else 1e13}
            found.append(shared | {"part": "cost"} | cost)
            for noise, bad, worse in ((0.0, 0.0, 0.0), (0.3, more, less)):
                found.append(
                    shared | {"part": "masked", "noise": noise, "bits_per_word": clean + bad * (1 + jitter * seed)}
                )
                found.append(
                    shared | {"part": "probe", "noise": noise, "accuracy": accuracy - worse * (1 + jitter * seed)}
                )
            if transfer is not None:
                change = transfer if own else 0.0
                for start, value in (("scratch", 12.0), ("pretrained", 11.0 + change + jitter * seed)):
                    found.append(shared | {"part": "transfer", "start": start, "bits_per_word": value})
    return found


def outcomes(**given):
    return [claim.outcome for claim in claims(rows(**given))]


@pytest.mark.parametrize(
    ("given", "par", "robust", "steady"),
    [
        ({}, "reproduced", "reproduced", "reproduced"),
        ({"bits": 10.1}, "reproduced", "reproduced", "reproduced"),  # on par within 2%
        ({"bits": 10.5}, "contradicted", "reproduced", "reproduced"),
        ({"lost": 0.4}, "reproduced", "contradicted", "reproduced"),
        ({"forgot": 0.3}, "reproduced", "reproduced", "contradicted"),
        ({"seeds": (0,)}, "undecided", "undecided", "undecided"),  # one seed leaves doubt
        ({"jitter": 5.0}, "within noise", "within noise", "within noise"),  # so do wide intervals
    ],
)
def test_claims_hold_only_without_doubt(given, par, robust, steady):
    assert outcomes(**given) == [par, robust, steady, "not measured"]


def test_claims_show_the_numbers():
    par, robust, steady, transfer = claims(rows())
    assert "10.010 ± 0.025 against 10.010 ± 0.025 (difference +0.000 ± 0.0" in par.ours
    assert "10% of the embedding parameters and 80% of the training FLOPs of wordpiece" in par.ours
    assert "0.202 ± 0.005 against 0.303 ± 0.007 (difference -0.101" in robust.ours
    assert "0.101 ± 0.002 against 0.202 ± 0.005 (difference -0.101" in steady.ours
    assert transfer.ours == "give --source language=ADDRESS"


def test_transfer_is_judged_where_it_was_run():
    assert outcomes(transfer=-0.5)[-1] == "reproduced"
    assert outcomes(transfer=0.5)[-1] == "contradicted"
    assert outcomes(transfer=0.0)[-1] == "within noise"


def test_noise_stays_inside_the_word():
    change = _word_noise(0.3)
    words = [b" word", b"\n", b"    ", " Zürich,".encode(), b"x"]
    for place in range(40):
        for word in words:
            noisy = change(word, place)
            assert noisy.startswith(b" ") == word.startswith(b" ")
            noisy.decode()  # still text
            if not word.strip():
                assert noisy == word
    assert any(change(b" several", place) != b" several" for place in range(4))


@pytest.mark.slow  # parses the standard library
def test_labels_are_packages_of_pydocs():
    packages, source = docstring_packages(), load_source("pydocs")
    labelled = [raw for raw in source if raw in packages]
    assert len(labelled) == len(packages) > 0.9 * len(source)
    assert {"asyncio", "email", "logging"} <= set(packages.values())


def test_roles_are_checked(tmp_path):
    with pytest.raises(SpecError, match="languages"):
        studies["byte2word"](scale="smoke", seeds=1, directory=tmp_path, sources={"languages": "pydocs"})


@pytest.mark.long
def test_smoke_runs_and_goes_on(tmp_path):
    """The study with another language; given again it trains nothing and says the same."""
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"Absatz {i} dieses Textes sagt, dass {i * i} ein Quadrat ist." for i in range(300)))
    sources = {"language": f"file:{text}?records=paragraphs"}
    options = {"scale": "smoke", "seeds": 1, "directory": tmp_path / "out", "progress": False, "sources": sources}
    first = studies["byte2word"](**options)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs").rglob("metrics.jsonl")}
    again = studies["byte2word"](**options)
    assert first.rows == again.rows and first.claims == again.claims
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}
    stored = json.loads((tmp_path / "out" / "result.json").read_text())
    assert {row["part"] for row in stored["rows"]} == {"cost", "masked", "probe", "transfer"}
    starts = {row["start"] for row in stored["rows"] if row["part"] == "transfer"}
    assert starts == {"pretrained", "scratch"}
