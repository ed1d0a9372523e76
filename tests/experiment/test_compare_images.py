"""The comparison of image tokenizers: names, what is refused before training, and end to end on small digits."""

import base64
import io
import itertools
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage

from tokjax.core.errors import CheckpointError, SourceError, SpecError, UnknownNameError
from tokjax.data.images import Image, load_images, open_images
from tokjax.experiment import compare_images as module
from tokjax.experiment.budget import Budget
from tokjax.experiment.compare_images import CompareImagesSpec, Interrupted, compare_images, lengths
from tokjax.experiment.contenders import contender, image_contender, split_names
from tokjax.experiment.images import build_image_tokenizer

GRID = "vqgan/quantizer=fsq:levels=4,4,4/code_width=3/body.widths=8,8"
ORDERED = (
    "flextok/decoder=pixels/registers=5/encoder_body.layers=1/decoder_body.layers=1/encoder_body.width=16/"
    "decoder_body.width=16"
)


@pytest.fixture(scope="module")
def digits():
    return load_images("digits")


def spec(**changes):
    fields = {"source": "digits", "systems": (GRID, ORDERED), "budget": "640images", "scale": "smoke", "seeds": 2}
    return CompareImagesSpec(**{**fields, "test_images": 40, **changes})


def tokenizer(name, images, scale="smoke"):
    return build_image_tokenizer(image_contender(name, images=images, scale=scale).config.system.to_dict())


def test_commas_between_numbers_do_not_part_names():
    assert split_names("bytes, bpe:2048,hat,") == ("bytes", "bpe:2048", "hat")
    text = f"vqgan,{GRID},titok:small/latents=8,equal_info:token_bits=8,hat"
    assert split_names(text) == ("vqgan", GRID, "titok:small/latents=8", "equal_info:token_bits=8", "hat")
    assert split_names("a/x=-1.5,2e-3/y=3,b") == ("a/x=-1.5,2e-3/y=3", "b")


def test_a_name_is_a_recipe_and_changes_to_it(digits):
    config = image_contender("vqgan:small/code_width=3/data.batch_size=7", images=digits, scale="smoke").config
    assert (config.system.code_width, config.data.batch_size, config.source) == (3, 7, "digits")
    assert config.system.body.widths != image_contender("vqgan", images=digits, scale="smoke").config.system.body.widths


def test_slashes_inside_a_quantizer_do_not_part_fields(digits):
    with pytest.raises(SpecError, match=r"quantizer: got 'residual:depth=2/vq:codes=4'"):
        image_contender("vqgan/quantizer=residual:depth=2/vq:codes=4", images=digits, scale="smoke")


def test_systems_take_the_shape_of_images_of_one_size_unless_told_otherwise(digits):
    assert (tokenizer("vqgan:small", digits).size, tokenizer("vqgan:small", digits).channels) == (8, 1)
    assert (tokenizer("vqgan/size=16", digits).size, tokenizer("vqgan/channels=3", digits).channels) == (16, 3)
    pixels = [np.full((height, 9, 3), height, np.uint8) for height in (9, 12)]
    mixed = open_images("mixed", [Image(pixels=x) for x in pixels])
    assert (tokenizer("vqgan", mixed).size, tokenizer("vqgan", mixed).channels) == (8, 1)  # the recipe's own


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("vqgna", UnknownNameError, "--systems vqgna: .*'vqgan'"),
        ("vqgan:smal", SpecError, "--systems vqgan:smal: .*'small'"),
        ("vqgan/quantizr=fsq", SpecError, "'quantizer'"),
        ("vqgan/data.batch_sise=8", SpecError, "'batch_size'"),
        ("vqgan/size=9", SpecError, "size: got 9"),
        ("lm:small", SpecError, "--systems lm:small: turns no images into codes"),
        ("maskgit", SpecError, "turns no images into codes"),
    ],
)
def test_names_that_are_no_tokenizer_of_images(digits, name, error, says):
    with pytest.raises(error, match=says):
        image_contender(name, images=digits, scale="smoke")


def test_a_system_of_images_is_no_contender_on_text():
    with pytest.raises(SpecError, match="'vqgan' reads no text; name its data with --images"):
        contender("vqgan", source="pydocs", scale="smoke")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seeds": 0}, "--seeds"),
        ({"systems": ()}, "--systems"),
        ({"systems": (GRID, GRID)}, "name each once"),
        ({"test_images": 1}, "at least 2"),
        ({"budget": "5MB"}, "FLOPs, seconds or images"),
        ({"budget": "0images"}, "more than nothing"),
    ],
)
def test_comparisons_that_cannot_be(changes, says):
    with pytest.raises(SpecError, match=says):
        spec(**changes)


def test_budgets_count_what_is_trained_on():
    assert Budget.parse("5e4images", "images") == Budget("images", 5e4)
    assert Budget.parse("1e9flops", "images") == Budget.parse("1e9flops")
    with pytest.raises(SpecError, match="5MB"):
        Budget.parse("5e4images")


@pytest.mark.parametrize("registers", [1, 2, 5, 8, 12])
def test_ordered_codes_are_measured_at_powers_of_two_and_at_all(digits, registers):
    found = lengths(tokenizer(f"flextok/registers={registers}", digits))
    assert found == tuple(sorted(set(found))) and found[0] == 1 and found[-1] == registers
    assert all(math.log2(tokens).is_integer() for tokens in found[:-1])
    assert all(2 * before >= after for before, after in itertools.pairwise(found))


def test_codes_without_order_are_measured_once(digits):
    system = tokenizer(GRID, digits)
    assert lengths(system) == (system.tokens,)


def refused(tmp_path, **changes):
    """What a comparison is refused for, without having trained anything."""
    with pytest.raises((SpecError, SourceError)) as caught:
        compare_images(spec(**changes), tmp_path, progress=False)
    assert not (tmp_path / "sweep").exists()
    return str(caught.value)


def test_what_cannot_be_compared_is_refused_before_training(tmp_path):
    assert "images differ" in refused(tmp_path, systems=(GRID, f"{GRID}/size=16"))
    assert "give at least 5.2e+02 images" in refused(tmp_path, systems=(GRID, ORDERED), budget="40images")
    assert "give at least" in refused(tmp_path, systems=(GRID,), budget="1e3flops")
    assert "the codes of another tokenizer" in refused(tmp_path, systems=(GRID, "titok_l32"))
    assert "code_width" in refused(tmp_path, systems=(GRID, "vqgan/quantizer=fsq:levels=4,4/code_width=none"))


def test_an_empty_split_is_refused_before_training(tmp_path):
    for number in range(2):
        pixels = np.full((8, 8), 50 * number, np.uint8)
        PILImage.fromarray(pixels).save(tmp_path / f"{number}.png")
    assert "is empty" in refused(tmp_path / "out", source=f"folder:{tmp_path}/*.png")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("compare")
    return directory, compare_images(spec(), directory, progress=False)


@pytest.mark.slow
def test_rows_are_complete_and_budgets_equal(finished):
    directory, results = finished
    text = (directory / "results.json").read_text()
    assert json.loads(text) == json.loads(json.dumps(results)) and "NaN" not in text
    needed = {
        "nominal_bits", "coded_bits", "psnr", "frechet", "labels", "features", "params", "train_flops", "seconds",
        "learning_rate", "versions", "device", "source", "split_hash", "quantizer", "vocab_size", "curve",
    }  # fmt: skip
    assert [(row["system"], row["seed"]) for row in results["rows"]] == [
        (s, n) for s in (GRID, ORDERED) for n in (0, 1)
    ]
    for row in results["rows"]:
        assert needed <= set(row)
        assert row["train_images"] == 640 and row["images"] == 40
        assert row["labels"]["frechet"] == "FD(random_pyramid)" and row["ssim"] is None  # a window of 11 pixels
    assert len({(row["features"], row["split_hash"]) for row in results["rows"]}) == 1  # so that distances compare


@pytest.mark.slow
def test_curves_rise_in_rate_and_end_at_all_codes(finished):
    for row in finished[1]["rows"]:
        points = row["points"]
        assert [point["tokens"] for point in points] == ([1, 2, 4, 5] if row["ordered"] else [16])
        assert all(row[name] == value for name, value in points[-1].items())
        for name in ("nominal_bits", "coded_bits"):
            bits = [point[name] for point in points]
            assert bits == sorted(set(bits)) and bits[0] > 0
        for point in points:
            assert point["nominal_bits"] == pytest.approx(point["tokens"] * math.log2(row["vocab_size"]))


@pytest.mark.slow
def test_examples_are_images_of_the_right_kind_at_every_length(finished, digits):
    examples = finished[1]["examples"]
    originals = [decoded(file) for file in examples["originals"]]
    test = digits.split("test")
    known = {test[index].pixels[..., 0].tobytes() for index in range(len(test))}
    assert len(originals) == module.SHOWN and all(pixels.tobytes() in known for pixels in originals)
    for row in finished[1]["rows"]:
        shown = examples["systems"][row["system"]]
        assert [entry["tokens"] for entry in shown] == [point["tokens"] for point in row["points"]]
        for entry in shown:
            for original, file, psnr in zip(originals, entry["images"], entry["psnr"], strict=True):
                error = np.mean((original / 255.0 - decoded(file) / 255.0) ** 2)
                assert -10 * np.log10(error) == pytest.approx(psnr, abs=0.1)  # files are rounded to 8 bits


def decoded(file):
    return np.asarray(PILImage.open(io.BytesIO(base64.b64decode(file))))


@pytest.mark.slow
def test_a_finished_comparison_is_not_run_again_and_takes_more_seeds(finished, monkeypatch, tmp_path):
    directory = Path(shutil.copytree(finished[0], tmp_path / "c"))
    real, calls = module.runs.train_image_tokenizer, []
    monkeypatch.setattr(module.runs, "train_image_tokenizer", lambda *a, **k: (calls.append(a[1]), real(*a, **k))[1])
    again = compare_images(spec(), directory, progress=False)
    assert calls == [] and again["rows"] == finished[1]["rows"] and again["examples"] == finished[1]["examples"]
    with pytest.raises(CheckpointError, match="budget='640images'"):
        compare_images(spec(budget="1280images"), directory, progress=False)
    more = compare_images(spec(systems=(GRID,), seeds=3), directory, progress=False)
    assert len(calls) == 1 and more["rows"][:2] == finished[1]["rows"][:2]


@pytest.mark.slow
def test_an_interrupted_comparison_goes_on_to_the_same_numbers(finished, monkeypatch, tmp_path):
    real, calls = module.runs.train_image_tokenizer, []

    def stop_at_the_third(config, workdir, **options):
        calls.append(workdir)
        model, stopped = real(config, workdir, **options)
        return (model, "SIGINT") if len(calls) == 3 else (model, stopped)

    monkeypatch.setattr(module.runs, "train_image_tokenizer", stop_at_the_third)
    only = spec(systems=(GRID,), seeds=1)
    with pytest.raises(Interrupted):
        compare_images(only, tmp_path, progress=False)
    assert not (tmp_path / "results.json").exists()
    (row,) = compare_images(only, tmp_path, progress=False)["rows"]
    assert row["points"] == finished[1]["rows"][0]["points"]


@pytest.mark.slow
def test_seconds_and_flops_are_budgets_too(tmp_path):
    only = {"systems": (GRID,), "seeds": 1}
    (row,) = compare_images(spec(**only, budget="2s"), tmp_path / "s", progress=False)["rows"]
    assert row["seconds"] < 4
    (row,) = compare_images(spec(**only, budget="2e9flops"), tmp_path / "f", progress=False)["rows"]
    assert abs(row["train_flops"] - 2e9) <= 0.5 * row["train_flops"] / row["steps"] + 1
