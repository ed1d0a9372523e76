"""The comparison end to end on a small text: complete, resumable, equal in budget, and the same bits again."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from tokjax.core.errors import CheckpointError, SourceError, SpecError
from tokjax.experiment import compare as module
from tokjax.experiment.compare import CompareSpec, Interrupted, compare

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dogs", "while", "seven", "wise", "owls", "watch"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    generator = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("text") / "text.txt"
    paragraphs = [" ".join(generator.choice(WORDS, 30)) + f" {i}." for i in range(200)]
    path.write_text("\n\n".join(paragraphs))
    return f"file:{path}?records=paragraphs"


def spec(source, **changes):
    fields = {"source": source, "systems": ("bytes", "hat"), "budget": "8e9flops", "scale": "smoke", "seeds": 1}
    return CompareSpec(**{**fields, "context_bytes": 64, **changes})


@pytest.fixture(scope="module")
def finished(source, tmp_path_factory):
    directory = tmp_path_factory.mktemp("compare")
    return directory, compare(spec(source), directory, progress=False)


def test_rows_are_complete(finished):
    directory, results = finished
    assert json.loads((directory / "results.json").read_text()) == json.loads(json.dumps(results))
    needed = {
        "system", "tokenizer", "bits_per_byte", "bytes_per_token", "train_flops", "flops_per_byte", "params", "seconds",
        "seed", "versions", "device", "source", "split_hash", "peak_memory_bytes", "learning_rate", "by_position",
    }  # fmt: skip
    assert [row["system"] for row in results["rows"]] == ["bytes", "hat"]
    for row in results["rows"]:
        assert needed <= set(row)
        assert 0 < row["bits_per_byte"] < 8.1


def test_budgets_are_equal(finished):
    """Each spends its budget to within half a step."""
    for row in finished[1]["rows"]:
        assert abs(row["train_flops"] - 8e9) <= 0.5 * row["train_flops"] / row["steps"] + 1


def test_the_paragraph_is_whole_under_each_system(finished):
    shown = finished[1]["paragraph"]
    for tokens in shown["systems"].values():
        assert b"".join(bytes.fromhex(token["hex"]) for token in tokens).decode() == shown["text"]
        assert all(math.isfinite(token["bits"]) and token["bits"] >= 0 for token in tokens)


def test_a_finished_comparison_is_not_run_again(finished, source, monkeypatch):
    directory, results = finished
    monkeypatch.setattr(module.run, "train_model", lambda *_, **__: pytest.fail("trained again"))
    assert compare(spec(source), directory, progress=False)["rows"] == results["rows"]


def test_other_settings_need_another_directory(finished, source):
    with pytest.raises(CheckpointError, match="budget='8e9flops'"):
        compare(spec(source, budget="5e9flops"), finished[0], progress=False)


def test_an_interrupted_comparison_goes_on_to_the_same_numbers(finished, source, tmp_path, monkeypatch):
    real, calls = module.run.train_model, []

    def stop_at_the_third(config, workdir, **options):
        calls.append(workdir)
        model, stopped = real(config, workdir, **options)
        return (model, "SIGINT") if len(calls) == 3 else (model, stopped)

    monkeypatch.setattr(module.run, "train_model", stop_at_the_third)
    with pytest.raises(Interrupted):
        compare(spec(source), tmp_path, progress=False)
    assert not (tmp_path / "results.json").exists()
    rows = compare(spec(source), tmp_path, progress=False)["rows"]
    for again, before in zip(rows, finished[1]["rows"], strict=True):
        assert again["bits_per_byte"] == before["bits_per_byte"]


def test_a_budget_that_buys_nothing(source, tmp_path):
    with pytest.raises(SpecError, match=r"give at least .* flops"):
        compare(spec(source, budget="1e6flops"), tmp_path, progress=False)


@pytest.mark.slow
@pytest.mark.parametrize("budget", ["20kB", "2s"])
def test_other_budgets(source, tmp_path, budget):
    (row,) = compare(spec(source, systems=("bpe:300",), budget=budget), tmp_path, progress=False)["rows"]
    if budget == "20kB":
        assert abs(row["train_bytes"] - 20e3) < row["train_bytes"] / row["steps"]
    else:
        assert row["seconds"] < 3


def test_settings_bind_only_once_a_run_has_begun(source, tmp_path):
    with pytest.raises(SpecError, match="--budget"):
        compare(spec(source, systems=("bytes",), budget="1e6flops"), tmp_path, progress=False)
    with pytest.raises(SpecError, match="--budget"):  # the budget may be put right; the text has been learned from
        compare(spec(source, systems=("bytes",), budget="2e6flops"), tmp_path, progress=False)
    with pytest.raises(CheckpointError, match="source="):
        compare(spec("stdlib", systems=("bytes",)), tmp_path, progress=False)


@pytest.mark.parametrize("name", ["row.json", "compare.json"])
def test_damaged_files_of_a_comparison_are_named(finished, source, tmp_path, name):
    directory = Path(shutil.copytree(finished[0], tmp_path / "c"))
    for path in directory.rglob(name):
        path.write_text("{")
    with pytest.raises(CheckpointError, match=f"{name}: damaged"):
        compare(spec(source), directory, progress=False)


def test_an_interrupt_while_the_machine_is_timed_is_no_measurement(source, tmp_path, monkeypatch):
    monkeypatch.setattr(module.run, "train_model", lambda *_, **__: (None, "SIGINT"))
    with pytest.raises(Interrupted):
        compare(spec(source, systems=("bytes",), budget="5s"), tmp_path, progress=False)
    assert not list(tmp_path.rglob("config.json"))


def test_a_tokenizer_that_was_cut_short_is_fitted_again(source, tmp_path):
    documents = module.load_source(source)
    (tmp_path / "tokenizer").mkdir()
    fitted = module.run.prepare_tokenizer({"name": "bytes"}, documents, tmp_path)
    assert module.run.prepare_tokenizer({"name": "bytes"}, documents, tmp_path).hash == fitted.hash


def test_a_source_without_validation_documents_is_refused_before_training(tmp_path):
    (tmp_path / "one.txt").write_text("one document")
    config = module.contender("bytes", source=f"file:{tmp_path}/one.txt", scale="smoke").config.to_dict()
    with pytest.raises(SourceError, match="valid is empty"):
        module.run.train_model(config, tmp_path / "w", progress=False)
    assert not (tmp_path / "w" / "metrics.jsonl").exists()
    with pytest.raises(SourceError, match="test is empty"):
        compare(spec(f"file:{tmp_path}/one.txt"), tmp_path / "c", progress=False)
