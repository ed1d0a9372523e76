"""A training run as an entropy model: export, once per step, and what cannot be exported."""

import chex
import jax
import numpy as np
import pytest

from tokjax.cli import main
from tokjax.coding.entropy import fit_entropy
from tokjax.coding.neural import Transformer, to_params
from tokjax.core.errors import CheckpointError, SpecError
from tokjax.core.spec import build
from tokjax.data import load_source
from tokjax.experiment import entropy as module
from tokjax.experiment.config import load_config, override
from tokjax.experiment.entropy import export_entropy, resolve
from tokjax.experiment.run import Model, RunSpec, build_system, load_model, prepare_tokenizer, train_model
from tokjax.objectives.language import stream_batch
from tokjax.text import fit_tokenizer


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n\n".join(f"the {n}th of many short texts, about {n * n}." for n in range(400)))
    return f"file:{path}?records=paragraphs"


def train(reference, directory, text, *changes):
    few = ("train.steps=3", "train.eval_every=3", "optimizer.warmup_steps=1")
    config = override(load_config(reference), [f"source={text}", *few, *changes])
    return train_model(config.to_dict(), directory, progress=False)[0]


@pytest.fixture(scope="module")
def m1(text, tmp_path_factory):
    directory = tmp_path_factory.mktemp("m1")
    train("m1:smoke", directory, text)
    return directory


def test_the_export_predicts_what_the_run_does(m1):
    fitted, model = export_entropy(m1), load_model(m1)
    assert isinstance(fitted.spec, Transformer)
    assert fitted.spec.context == model.spec.data.length
    chex.assert_trees_all_equal(to_params(fitted.tables), model.params)
    document = b"the 12th of many"
    found = fitted.next_probabilities([document[:n] for n in range(1, len(document))])
    ids = np.frombuffer(document, np.uint8).astype(np.int32)[None]
    logits = model.system.logits(model.params, stream_batch(ids))[0][0, :-1, :256]  # no end of document can come here
    np.testing.assert_allclose(found, jax.nn.softmax(logits), rtol=1e-4, atol=1e-7)  # sums in another order


def test_the_first_byte_has_its_frequency_in_the_training_stream(m1, text):
    first = export_entropy(m1).next_probabilities([b""])[0]
    joined = b"".join(load_source(text).split("train"))
    assert first[ord("t")] == (joined.count(b"t") + 1) / (len(joined) + 256)


def test_a_run_is_exported_once_for_each_step(m1, text, monkeypatch):
    resolved = resolve({"entropy": str(m1), "token_bits": 8})
    assert resolved == {"entropy": str(m1 / "entropy" / "00000003"), "token_bits": 8}
    chex.assert_trees_all_equal(fit_entropy(resolved["entropy"], []).tables, export_entropy(m1).tables)
    with monkeypatch.context() as patch:
        patch.setattr(module, "export_entropy", lambda _: pytest.fail("exported again"))
        assert resolve({"entropy": str(m1)})["entropy"] == resolved["entropy"]
    train("m1:smoke", m1, text, "train.steps=4")
    later = resolve({"entropy": str(m1)})["entropy"]
    assert later == str(m1 / "entropy" / "00000004")
    assert not np.array_equal(
        fit_entropy(later, []).tables["embedding"], fit_entropy(resolved["entropy"], []).tables["embedding"]
    )


@pytest.mark.parametrize("fields", [{}, {"entropy": "ngram:order=3"}, {"entropy": "absent/directory"}])
def test_other_fields_stay_as_they_are(fields):
    assert resolve(fields) == fields


@pytest.mark.parametrize(("reference", "tokenizer"), [("lm", "words"), ("megabyte", "bytes")])
def test_other_runs_are_refused(reference, tokenizer, monkeypatch):
    config = override(load_config(f"{reference}:smoke"), [f"tokenizer.name={tokenizer}"])
    spec, fitted = build(RunSpec, config.to_dict()), fit_tokenizer(tokenizer, [b"text"])
    model = Model(spec, fitted, build_system(spec.system, fitted), {}, 3)
    monkeypatch.setattr(module, "load_model", lambda _: model)
    with pytest.raises(SpecError, match=f"'{reference}' over '{tokenizer}'; an entropy model is `lm` over bytes"):
        export_entropy("runs/other")


def test_no_run_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint"):
        export_entropy(tmp_path)


def test_a_run_serves_a_tokenizer_on_the_command_line_and_in_a_recipe(m1, text, tmp_path, capsys):
    arguments = ["--tokenizer", "ac", "--option", f"entropy={m1}", "--source", text, "--out", str(tmp_path / "ac")]
    assert main(["fit", *arguments]) == 0, capsys.readouterr().err
    fitted = prepare_tokenizer({"name": "ac", "entropy": str(m1)}, [b"text"], tmp_path / "run")
    again = prepare_tokenizer({"name": "ac", "entropy": str(m1)}, [b"text"], tmp_path / "run")
    assert fitted.hash == again.hash
    assert fitted.spec.entropy.startswith(str(m1 / "entropy"))
    raw = b"the 7th of many short texts"
    assert fitted.decode(fitted.encode(raw)) == raw
