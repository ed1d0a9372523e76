"""Runs of generators of images: codes of a trained tokenizer, the loop of all systems, and images drawn from files."""

import dataclasses
import json
import os
import shutil
import signal

import jax
import numpy as np
import pytest
from PIL import Image

from tokjax.cli import main
from tokjax.core.errors import CheckpointError, SourceError, SpecError
from tokjax.data.images import load_images
from tokjax.data.images.code_rows import CodeVocabulary
from tokjax.experiment import image_generator as runs
from tokjax.experiment.config import load_config
from tokjax.experiment.images import build_image_tokenizer, train_image_tokenizer
from tokjax.generate.codes import CodeGenerator
from tokjax.nn.param import count
from tokjax.quantize import NO_CODE
from tokjax.train import read_evaluations

TOKENIZER = {
    "name": "flextok", "size": 8, "channels": 1, "patch": 4, "registers": 3, "decoder": "pixels",
    "encoder_body": {"width": 16, "layers": 1, "head_dim": 8},
    "decoder_body": {"width": 16, "layers": 1, "head_dim": 8},
    "code_width": 2, "quantizer": "fsq:levels=4,4",
}  # fmt: skip
GENERATORS = {
    "maskgit": {"name": "maskgit", "body": {"width": 32, "layers": 1, "heads": 2}},
    "lm": {"name": "lm", "backbone": {"width": 32, "layers": 1, "heads": 2}, "tied": True},
}
CODES = {"maskgit": None, "lm": 2}  # of 3, that are generated
TRAIN = {
    "optimizer": {"learning_rate": 1e-2, "warmup_steps": 2},
    "train": {"steps": 60, "log_every": 10, "eval_every": 20, "checkpoint_every": 60},
}


def config(place, name, **fields):
    data = {"batch_size": 32, "codes": CODES[name]}
    return {"codes_of": str(place), "system": GENERATORS[name], "data": data} | TRAIN | fields


def train(fields, workdir):
    model, interrupted = runs.train_image_generator(fields, workdir, progress=False)
    assert interrupted is None
    return model


def train_tokenizer(workdir, steps):
    short = {"steps": steps, "log_every": 10, "eval_every": steps, "checkpoint_every": steps}
    fields = {"source": "digits", "system": TOKENIZER, "data": {"batch_size": 32}, **TRAIN, "train": short}
    train_image_tokenizer(fields | {"optimizer": {"learning_rate": 1e-2}}, workdir, progress=False)
    return workdir


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_tokenizer(tmp_path_factory.mktemp("flextok"), 20)


@pytest.fixture(scope="module")
def trained(tokenizer, tmp_path_factory):
    places = {name: tmp_path_factory.mktemp(name) for name in GENERATORS}
    return {name: (place, train(config(tokenizer, name), place)) for name, place in places.items()}


@pytest.mark.parametrize("name", GENERATORS)
def test_training_learns_which_codes_there_are(trained, name):
    workdir, model = trained[name]
    first, *_, last = read_evaluations(workdir)
    assert last["split"] == "valid" and last["loss"] < first["loss"]
    # Better than what knows no more than how many codes there are.
    assert last["masked_nll" if name == "maskgit" else "loss"] < np.log(model.tokenizer.system.vocab_size)


@pytest.mark.parametrize("name", GENERATORS)
def test_a_saved_run_draws_what_the_one_in_memory_does(trained, name):
    workdir, model = trained[name]
    loaded = runs.load_image_generator(workdir)
    labels = np.arange(40) % 10  # a batch and a part of one
    codes = model.codes(labels, seed=3)
    np.testing.assert_array_equal(codes, loaded.codes(labels, seed=3))
    np.testing.assert_array_equal(codes[:32], model.codes(labels[:32], seed=3))
    assert np.any(codes != model.codes(labels, seed=4))
    kept = 3 if name == "maskgit" else 2
    assert codes.shape == (40, 3) and codes[:, :kept].min() >= 0 and np.all(codes[:, kept:] == NO_CODE)
    pictures = model.images(labels, seed=3)
    np.testing.assert_array_equal(pictures, model.tokenizer.decode(codes, seed=3))
    assert pictures.shape == (40, 8, 8, 1) and len(model.images(labels[:0])) == 0
    found = loaded.evaluate(load_images("digits").split("test"))
    assert found.images == 62 and found.frechet.value > 0 and found.frechet.reference == "digits/test"


def test_codes_are_those_of_the_tokenizer_and_mirrors_those_of_mirrored_images(trained):
    model = trained["lm"][1].tokenizer
    images = load_images("digits").split("valid")
    rows = runs.code_rows(model, images, codes=2, mirror=True)
    whole = model.encode(model.batches(images))
    np.testing.assert_array_equal(rows.codes[: len(images)], whole[:, :2])
    np.testing.assert_array_equal(rows.labels, np.tile(images.labels, 2))
    mirrored = [batch.replace(pixels=batch.pixels[:, :, ::-1]) for batch in model.batches(images)]
    np.testing.assert_array_equal(rows.codes[len(images) :], model.encode(mirrored)[:, :2])
    assert np.any(rows.codes[len(images) :] != whole[:, :2])
    assert rows.vocabulary.codes == 16 and rows.vocabulary.classes == 10
    assert len(runs.code_rows(model, images, limit=7).codes) == 7


def test_a_resumed_run_is_the_same_run(trained, tokenizer, tmp_path, monkeypatch):
    batch = runs.train_codes

    def interrupting(rows, step, **fields):
        if step == 30:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch(rows, step, **fields)

    monkeypatch.setattr(runs, "train_codes", interrupting)
    model, reason = runs.train_image_generator(config(tokenizer, "maskgit"), tmp_path, progress=False)
    assert reason == "SIGTERM" and 0 < model.step < 60
    monkeypatch.undo()
    model = train(config(tokenizer, "maskgit"), tmp_path)
    jax.tree.map(np.testing.assert_array_equal, model.params, trained["maskgit"][1].params)


def test_a_run_is_found_from_elsewhere_and_goes_on_where_its_tokenizer_was_moved(tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tokenizer.parent)
    short = TRAIN["train"] | {"steps": 3}
    train(config(tokenizer.name, "maskgit", train=short), tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    assert runs.load_image_generator(tmp_path / "run").classes == tuple("0123456789")
    shutil.copytree(tokenizer, tmp_path / "moved")
    short["steps"] = 4
    assert train(config("moved", "maskgit", train=short), tmp_path / "run").step == 4


def test_without_classes_any_images_will_do_and_guidance_will_not(trained):
    _, model = trained["maskgit"]
    alike = dataclasses.replace(model.generator, system=dataclasses.replace(model.system, classes=0))
    bare = dataclasses.replace(model, classes=(), generator=alike)
    assert bare.evaluate(load_images("digits").split("valid"), limit=20).images == 20
    with pytest.raises(SpecError, match="there are no classes"):
        bare.codes(np.full(2, -1), sampling=bare.sampling({"guidance": 1.0}))
    with pytest.raises(SpecError, match="there are no classes"):
        CodeGenerator(system=trained["lm"][1].system, vocabulary=CodeVocabulary(codes=26, classes=0), guidance=2.0)


def test_another_tokenizer_in_its_place_is_refused(tokenizer, tmp_path):
    workdir = tmp_path / "tokenizer"
    shutil.copytree(tokenizer, workdir)
    short = TRAIN["train"] | {"steps": 3, "checkpoint_every": 3}
    train(config(workdir, "maskgit", train=short), tmp_path / "run")
    runs.load_image_generator(tmp_path / "run")
    shutil.rmtree(workdir)
    train_tokenizer(workdir, 2)
    with pytest.raises(CheckpointError, match="trained on the codes of another tokenizer"):
        runs.load_image_generator(tmp_path / "run")
    with pytest.raises(CheckpointError):
        train(config(workdir, "maskgit"), tmp_path / "run")


def test_misuse_says_what_to_do(trained, tokenizer, tmp_path):
    def attempt(name="maskgit", **change):
        train(config(tokenizer, name) | change, tmp_path / "never")

    for change, message in (
        ({"codes_of": None}, "codes_of: missing; give the directory"),
        ({"system": {"name": "vqgan"}}, "generates no codes; use maskgit or a language system"),
        ({"system": {"body": {}}}, "system.name: missing"),
        ({"system": GENERATORS["maskgit"] | {"tokens": 5}}, r"system.tokens: got 5; the codes of .* need 3"),
        ({"system": GENERATORS["lm"] | {"vocab_size": 5}}, r"system.vocab_size: got 5; the codes of .* need 27"),
        ({"data": {"batch_size": 32, "codes": 4}}, "data.codes: got 4; use 1 to 3"),
        ({"data": {"batch_size": 32, "class_drop": 0.2}}, "set system.class_drop"),
        ({"system": {"name": "word_pooled"}}, "generates no codes"),
    ):
        with pytest.raises(SpecError, match=message):
            attempt(**change)
    with pytest.raises(CheckpointError, match=r"codes_of: .*nothing"):
        attempt(codes_of=str(tmp_path / "nothing"))
    _, model = trained["maskgit"]
    on_grid = dataclasses.replace(model.tokenizer, system=build_image_tokenizer(load_config("vqgan:smoke").system))
    with pytest.raises(SpecError, match="have no order; generate all of them"):
        runs.code_rows(on_grid, load_images("digits"), codes=2)
    with pytest.raises(SourceError, match="use -1 to 9"):
        model.codes(np.array([10]))
    with pytest.raises(SourceError, match="other classes than the generator"):
        model.evaluate(dataclasses.replace(load_images("digits"), classes=tuple("abcdefghij")))
    with pytest.raises(SpecError, match="CodeSamplingSpec has no such field"):
        trained["lm"][1].sampling({"steps": 3})
    with pytest.raises(SpecError, match="generates no images"):
        runs.load_image_generator(tokenizer)
    assert not runs.holds_image_generator(tokenizer) and runs.holds_image_generator(trained["lm"][0])
    assert not runs.holds_image_generator(tmp_path)


def test_generate_writes_pictures(trained, tmp_path, capsys):
    def tokjax(*arguments):
        code = main([*map(str, arguments)])
        return code, capsys.readouterr()

    workdir, model = trained["maskgit"]
    code, said = tokjax(
        "generate", "--workdir", workdir, "--count", 3, "--label", 7, "--seed", 1, "--out", tmp_path / "drawn",
        "--sampling", "steps=2", "--sampling", "guidance=1.5",
    )  # fmt: skip
    assert code == 0, said.err
    names = sorted(path.name for path in (tmp_path / "drawn").iterdir())
    assert names == ["0.png", "1.png", "2.png", "sheet.png"]
    assert np.asarray(Image.open(tmp_path / "drawn" / "sheet.png")).shape == (17, 17)
    wanted = model.images(np.full(3, 7), seed=1, sampling=model.sampling({"steps": 2, "guidance": 1.5}))
    found = np.asarray(Image.open(tmp_path / "drawn" / "2.png"))
    assert np.abs(found - (wanted[2, ..., 0] + 1) * 127.5).max() <= 0.51
    code, said = tokjax("eval", "--workdir", workdir, "--json")
    assert code == 0 and json.loads(said.out)["FD(random_pyramid)"] >= 0
    for arguments, message in (
        (("generate", "--workdir", workdir, "--out", tmp_path / "drawn"), "not empty"),
        (("generate", "--workdir", workdir, "--label", "seven", "--out", tmp_path / "bad"), "use one of 0, 1, 2"),
        (("generate", "--workdir", workdir, "--sampling", "steps", "--out", tmp_path / "bad"), "write FIELD=VALUE"),
        (("sample", "--workdir", workdir), "no model of text"),
    ):
        code, said = tokjax(*arguments)
        assert code != 0 and message in said.err
    assert not (tmp_path / "bad").exists()


@pytest.mark.parametrize("variant", ["smoke", "small"])
def test_maskgit_has_the_sizes_of_the_tokenizer_of_its_scale(variant):
    maskgit, titok = (load_config(f"{name}:{variant}").system for name in ("maskgit", "titok"))
    assert maskgit.tokens == titok.latents
    assert f"codes={maskgit.vocab_size}:" in titok.quantizer
    assert maskgit.classes == {"smoke": 10, "small": 0}[variant]  # of digits, of photographs


def test_the_recipe_of_a_language_model_holds_what_the_published_one_holds():
    """1.33B: 24 blocks of 2,048, each of 12 D^2 but for the norms, and one table of 64,000 codes and 1,001 classes."""
    from tokjax.core.registry import systems
    from tokjax.core.spec import build

    fields = load_config("code_lm:paper").system.to_dict()
    lm = build(systems[fields.pop("name")], fields | {"vocab_size": 65_001})
    assert abs(count(lm.declare()) / 1.33e9 - 1) < 0.02
