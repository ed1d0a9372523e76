"""Runs of image tokenizers: the training loop of all systems, from a configuration to files and back."""

import io
import json
import os
import signal

import jax
import numpy as np
import pytest
from PIL import Image

from tokjax.cli import main
from tokjax.core.errors import CheckpointError, SourceError, SpecError
from tokjax.data.images import load_images
from tokjax.experiment import images as runs
from tokjax.experiment.config import load_config, override
from tokjax.train import read_evaluations, read_metrics

CONFIG = {
    "source": "digits",
    "system": {
        "name": "vqgan",
        "size": 8,
        "channels": 1,
        "body": {"widths": [16, 32], "blocks": 1},
        "code_width": 4,
        "quantizer": "vq:codes=64:update=ema:init=kmeans:revival=batch:decay=0.9",
    },
    "data": {"batch_size": 32, "eval_images": 64},
    "optimizer": {"learning_rate": 3e-3, "warmup_steps": 5, "ema_decay": 0.9},
    "train": {"steps": 60, "log_every": 10, "eval_every": 30, "checkpoint_every": 30},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    model, interrupted = runs.train_image_tokenizer(CONFIG, workdir, progress=False)
    assert interrupted is None and model.step == 60
    return workdir, model


def test_training_lowers_the_error_and_uses_the_codes(trained):
    workdir, model = trained
    first, last = read_evaluations(workdir)
    assert last["squared_error"] < first["squared_error"]
    test = load_images("digits").split("test")
    found = model.evaluate(test)
    pixels = np.concatenate([batch.pixels[batch.mask > 0] for batch in model.batches(test)])
    assert found.squared_error < 0.25 * pixels.var()
    assert found.images == len(test) and found.tokens == 16 and found.nominal_bits == 96
    assert found.coded_bits > 0 and found.perplexity > 8 and 0.2 < found.codes_used <= 1
    # PSNR of images is that of their own errors, and its mean is never below that of the mean error.
    assert found.psnr > 10 * np.log10(4 / found.squared_error) - 1e-4
    assert found.frechet.label == "FD(random_pyramid)" and found.frechet.reference == "digits/test"


def test_a_saved_run_decodes_its_codes_as_the_one_in_memory_does(trained):
    workdir, model = trained
    loaded = runs.load_image_tokenizer(workdir)
    test = load_images("digits").split("test")
    codes = loaded.encode(loaded.batches(test))
    np.testing.assert_array_equal(codes, model.encode(model.batches(test)))
    np.testing.assert_array_equal(loaded.decode(codes), model.decode(codes))
    assert codes.shape == (len(test), 16) and codes.dtype == np.int32
    assert loaded.state["quantizer"]["steps"] == 60  # what gradients did not train is there


def test_a_resumed_run_is_the_same_run(trained, tmp_path, monkeypatch):
    _, model = trained
    batch = runs.train_images

    def interrupting(images, step, **fields):
        if step == 30:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch(images, step, **fields)

    monkeypatch.setattr(runs, "train_images", interrupting)
    first, reason = runs.train_image_tokenizer(CONFIG, tmp_path, progress=False)
    assert reason == "SIGTERM" and 0 < first.step < 60
    monkeypatch.undo()
    resumed, _ = runs.train_image_tokenizer(CONFIG, tmp_path, progress=False)
    assert resumed.step == 60
    for a, b in ((resumed.params, model.params), (resumed.state, model.state)):
        jax.tree.map(np.testing.assert_array_equal, a, b)


def test_files_become_codes_and_files_again(trained, tmp_path, capsys):
    workdir, model = trained
    picture = load_images("digits").split("test")[0].pixels
    Image.fromarray(picture[..., 0]).resize((24, 24), Image.Resampling.NEAREST).save(tmp_path / "in.png")

    def tokjax(*arguments):
        code = main([*map(str, arguments)])
        return code, capsys.readouterr()

    for text in ([], ["--text"]):
        code, said = tokjax("encode", "--tokenizer", workdir, *text, tmp_path / "in.png", tmp_path / "ids")
        assert code == 0, said.err
        code, said = tokjax("decode", "--tokenizer", workdir, *text, tmp_path / "ids", tmp_path / "out.png")
        assert code == 0, said.err
        decoded = np.asarray(Image.open(tmp_path / "out.png"))
        codes = model.encode_file((tmp_path / "in.png").read_bytes(), where="in.png")
        np.testing.assert_array_equal(decoded, np.asarray(Image.open(io.BytesIO(model.decode_file(codes)))))
        if not text:
            np.testing.assert_array_equal(np.fromfile(tmp_path / "ids", "<u2"), codes)
    (tmp_path / "bad.png").write_bytes(b"no image")
    code, said = tokjax("encode", "--tokenizer", workdir, tmp_path / "bad.png", tmp_path / "bad_ids")
    assert code == 2 and "bad.png" in said.err and not (tmp_path / "bad_ids").exists()
    (tmp_path / "short").write_bytes(b"\0\0")
    code, said = tokjax("decode", "--tokenizer", workdir, tmp_path / "short", tmp_path / "bad_out.png")
    assert code == 2 and "give integers [N, 16]" in said.err and not (tmp_path / "bad_out.png").exists()
    code, said = tokjax("eval", "--workdir", workdir, "--json")
    assert code == 0 and json.loads(said.out)["FD(random_pyramid)"] >= 0


def test_misuse_says_what_to_do(trained, tmp_path):
    _, model = trained
    with pytest.raises(SourceError, match="this tokenizer has 0 to 63"):
        model.decode(np.full((1, 16), 64))
    with pytest.raises(SpecError, match="have no order"):
        model.evaluate(load_images("digits").split("test"), keep=3)
    with pytest.raises(SpecError, match="turns no images into codes"):
        runs.build_image_tokenizer({"name": "lm"})
    with pytest.raises(CheckpointError):
        runs.load_image_tokenizer(tmp_path)
    assert not runs.holds_image_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 9}, "size: got 9; the body divides it by 2"),
        ({"channels": 2}, "channels"),
        ({"quantizer": "residual:depth=2/vq:codes=4"}, "several codes per vector"),
        ({"quantizer": "fsq:levels=5,5"}, "the width is 4"),
        ({"reconstruction": {"features": "vgg16", "perceptual": 1.0}}, "weights"),
        ({"reconstruction": {"adversarial": -1.0}}, "adversarial"),
    ],
)
def test_impossible_systems_say_what_to_do(change, message):
    with pytest.raises(SpecError, match=message):
        runs.build_image_tokenizer(CONFIG["system"] | change)


@pytest.mark.slow
def test_two_stages_learn_from_a_proxy_and_from_each_other(tmp_path):
    """The commands of the recipes, at smoke scale: a vqgan, its codes learned, then pixels."""

    def train(workdir, config, **fields):
        config = override(load_config(f"{config}:smoke"), [f"{name}={value}" for name, value in fields.items()])
        return runs.train_image_tokenizer(json.loads(config.to_json()), tmp_path / workdir, progress=False)[0]

    proxy = train("proxy", "vqgan")
    with pytest.raises(SpecError, match="proxy: missing; give the directory of the run of a vqgan"):
        train("stage1", "titok_l32")
    first = train("stage1", "titok_l32", proxy=tmp_path / "proxy")
    assert read_metrics(tmp_path / "stage1")[-1]["loss"] < read_metrics(tmp_path / "stage1")[0]["loss"]
    jax.tree.map(np.testing.assert_array_equal, first.params["proxy"]["decoder"], proxy.params["decoder"])
    start = {"train.init_from": tmp_path / "stage1", "system.stage": "pixels"}
    second = train("stage2", "titok_l32", **start)
    test = load_images("digits").split("test")
    np.testing.assert_array_equal(first.encode(first.batches(test)), second.encode(second.batches(test)))
    assert second.evaluate(test).squared_error < first.evaluate(test).squared_error
    with pytest.raises(SpecError, match="learns no other's codes"):
        train("other", "titok_l32", **start, proxy=tmp_path / "proxy")
