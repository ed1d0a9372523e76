"""Several tokenizers of one set of images, at equal compute: train each, tune each alike, report bits and distortion.

Fairness, in one place: every tokenizer sees images of the same size, spends the same budget, has its learning rate
chosen by the same rule on the validation split, and is measured on the same test images. One with ordered codes is
measured at 1, 2, 4, ... codes of an image, which is its curve of rate and distortion; the others are a point.
"""

import base64
import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from tokjax.core.errors import SourceError, SpecError
from tokjax.core.files import only_user, read_json, write_text
from tokjax.core.spec import build, check
from tokjax.data.images import ImageBatch, Images, load_images
from tokjax.data.images.pixels import encode_png, to_uint8
from tokjax.experiment import images as runs
from tokjax.experiment.budget import Budget
from tokjax.experiment.contenders import Contender, image_contender
from tokjax.experiment.contest import (
    CURVE_POINTS,
    Entrant,
    Say,
    affordable_steps,
    choose_rate,
    claim,
    run_directory,
    train_once,
)
from tokjax.experiment.environment import describe as describe_environment
from tokjax.experiment.rates import LEARNING_RATE_RULE, SWEEP_FRACTION
from tokjax.experiment.run import Interrupted
from tokjax.measure.cost import parameters, train_flops_per_step
from tokjax.measure.images import psnr
from tokjax.measure.reconstruction import ImageEvaluation
from tokjax.nn.param import materialize
from tokjax.objectives.image import ImageTokenizer
from tokjax.quantize import NO_CODE

SHOWN = 6  # test images whose reconstructions are kept

__all__ = ["CompareImagesSpec", "Interrupted", "compare_images", "lengths"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareImagesSpec:
    """One comparison.

    Attributes:
      source: address of the images.
      systems: names as of `contenders.image_contender`.
      budget: as of `Budget.parse`.
      scale: variant of the recipes whose name has none.
      seeds: runs of each system, with seeds 0, 1, ...
      test_images: a fixed sample of so many test images is measured, all of them when there are fewer.
    """

    source: str
    systems: tuple[str, ...]
    budget: str
    scale: str = "small"
    seeds: int = 3
    test_images: int = 5000

    def __post_init__(self):
        check(len(self.systems) >= 1, "--systems", self.systems, "name at least one.")
        check(len(set(self.systems)) == len(self.systems), "--systems", self.systems, "name each once.")
        check(self.seeds >= 1, "--seeds", self.seeds, "must be at least 1.")
        check(self.test_images >= 2, "test_images", self.test_images, "distances need at least 2.")
        Budget.parse(self.budget, "images")


@dataclasses.dataclass(frozen=True)
class _Prepared(Entrant):
    """A tokenizer of images and what it is trained on."""

    source: Images
    system: ImageTokenizer
    metric: ClassVar[str] = "squared_error"
    metric_in_words: ClassVar[str] = "squared error"
    least_data: ClassVar[dict[str, Any]] = {"eval_images": 2}

    def train(self, config: dict[str, Any], where: Path, *, progress: bool) -> tuple[runs.ImageModel, str | None]:
        return runs.train_image_tokenizer(config, where, source=self.source, progress=progress)

    def flops_per_step(self) -> float:
        return train_flops_per_step(self.system, self.config["data"]["batch_size"], self.system.tokens)

    def data_per_step(self) -> float:
        return self.config["data"]["batch_size"]


def compare_images(
    spec: CompareImagesSpec, directory: Path, *, progress: bool = True, say: Say = lambda line: None
) -> dict[str, Any]:
    """Runs the comparison, or goes on with the one in `directory`; returns what `directory/results.json` holds.

    Args:
      spec: what to compare.
      directory: made if absent; keeps every run, so that an interrupted comparison goes on.
      progress: show a bar per run.
      say: takes a line per finished run.

    Raises:
      Interrupted: SIGINT or SIGTERM; the current run is saved.
      UserError: images that are missing or too few, systems that cannot be compared on them, a budget too small.
      CheckpointError: `directory` holds a comparison with other settings.
      OutputError: `directory` cannot be written, or another process compares in it.
    """
    with only_user(directory):
        return _compare(spec, directory, progress, say)


def _compare(spec: CompareImagesSpec, directory: Path, progress: bool, say: Say) -> dict[str, Any]:
    source = _require_splits(load_images(spec.source))
    everything = [_prepare(image_contender(name, images=source, scale=spec.scale), source) for name in spec.systems]
    _require_same_images(everything)
    budget, test = Budget.parse(spec.budget, "images"), source.split("test")
    claim(directory, dataclasses.asdict(spec))
    for prepared in everything:  # a budget too small for one is found before any is trained
        affordable_steps(prepared, budget.share(SWEEP_FRACTION))
    rows: list[dict[str, Any]] = []
    sweep: list[dict[str, Any]] = []
    shown: dict[str, Any] = {}
    examples = _examples(everything[0], test, spec.test_images)
    for prepared in everything:
        rate, tried = choose_rate(prepared, budget, directory, progress=progress, say=say)
        sweep += tried
        for seed in range(spec.seeds):
            row = _measured_run(prepared, spec, directory, rate, seed, test, progress)
            rows.append(row)
            say(f"{prepared.name} seed {seed}: {row['psnr']:.2f} dB in {row['seconds']:.0f} s")
        model = runs.load_image_tokenizer(run_directory(directory, prepared.name, rate, 0))
        shown[prepared.name] = _reconstructions(model, examples)
    results = {
        "format": 1,
        "kind": "images",
        "settings": {**dataclasses.asdict(spec), "budget_kind": budget.kind, "systems": list(spec.systems),
                     "learning_rate_rule": LEARNING_RATE_RULE},
        "environment": describe_environment(),
        "data": _describe_data(source, everything[0].system, rows[0]["images"]),
        "rows": rows,
        "sweep": sweep,
        "examples": {"originals": _files(examples), "systems": shown},
    }  # fmt: skip
    write_text(directory / "results.json", json.dumps(results, indent=1))
    return results


def _require_splits(source: Images) -> Images:
    """Returns `source`, unless a split has too few images."""
    for name in ("train", "valid", "test"):
        split = source.split(name)
        split.require_images()
        if name != "train" and len(split) < 2:
            raise SourceError(f"{split.name}: 1 image, of {source.opened}; distances need at least 2. {source.advice}.")
    return source


def _prepare(entry: Contender, source: Images) -> _Prepared:
    """Returns the entrant, once its loss is known to need nothing but images."""
    config = json.loads(entry.config.to_json())
    system = runs.build_image_tokenizer(config["system"])
    build(runs.ImageRunSpec, config)  # the other groups may be changed too
    of_pixels = jax.ShapeDtypeStruct((1, system.size, system.size, system.channels), jnp.float32)
    label, mask = (jax.ShapeDtypeStruct((1,), kind) for kind in (jnp.int32, jnp.float32))
    batch = ImageBatch(pixels=of_pixels, labels=label, mask=mask)  # type: ignore[arg-type]

    def loss(key: jax.Array, batch: ImageBatch) -> Any:
        return system.loss(materialize(system.declare(), key), system.init_state(key), batch, key)

    try:
        jax.eval_shape(loss, jax.random.key(0), batch)
    except SpecError as error:
        raise SpecError(f"--systems {entry.name}: {error}") from None
    return _Prepared(entry.name, config, source, system)


def _require_same_images(everything: Sequence[_Prepared]) -> None:
    """Raises SpecError unless all see images of one shape; numbers of others do not compare."""
    shapes = {entrant.name: (entrant.system.size, entrant.system.channels) for entrant in everything}
    if len(set(shapes.values())) > 1:
        seen = ", ".join(f"{name} {size} x {size} x {channels}" for name, (size, channels) in shapes.items())
        raise SpecError(f"--systems: images differ: {seen}. Give all the same, as in NAME/size=32/channels=3.")


def lengths(system: ImageTokenizer) -> tuple[int, ...]:
    """Returns at how many codes of an image `system` is measured: powers of two and all, or all where it must be."""
    if not system.ordered:
        return (system.tokens,)
    return (*(2**power for power in range(system.tokens.bit_length()) if 2**power < system.tokens), system.tokens)


def _measured_run(
    prepared: _Prepared,
    spec: CompareImagesSpec,
    directory: Path,
    rate: float,
    seed: int,
    test: Images,
    progress: bool,
) -> dict[str, Any]:
    """Trains one seed on the whole budget and measures it on the test images; a row of the results."""
    where = run_directory(directory, prepared.name, rate, seed)
    done = where / "row.json"
    if done.exists():
        return read_json(done, needs=("system", "seed", "points", "psnr", "seconds"))
    budget = Budget.parse(spec.budget, "images")
    result = train_once(prepared, where, budget, rate, seed, evaluations=CURVE_POINTS, progress=progress)
    model = runs.load_image_tokenizer(where)
    system, batch_size = model.system, model.spec.data.batch_size
    measured = [model.evaluate(test, limit=spec.test_images, keep=keep) for keep in lengths(system)]
    per_step, whole = prepared.flops_per_step(), measured[-1]
    row = {
        "system": prepared.name,
        "model": prepared.config["system"]["name"],
        "quantizer": prepared.config["system"].get("quantizer"),
        "seed": seed,
        "images": whole.images,
        "vocab_size": system.vocab_size,
        "ordered": system.ordered,
        **_point(whole),
        "points": [_point(found) for found in measured],
        "labels": {"frechet": whole.frechet.label, "kernel": whole.kernel.label},
        "features": f"{whole.frechet.extractor} {whole.frechet.fingerprint}",
        "train_flops": per_step * model.step,
        "flops_per_image": system.image_flops(),
        "params": parameters(system),
        "seconds": result["seconds"],
        "peak_memory_bytes": result["peak_memory_bytes"],
        "train_images": model.step * batch_size,
        "steps": model.step,
        "batch_size": batch_size,
        "learning_rate": rate,
        "curve": [[per_step * step, value] for step, value in result["curve"]],
        "source": spec.source,
        "split_hash": test.fingerprint,
        **describe_environment(),
    }
    write_text(done, json.dumps(row))
    return row


def _point(found: ImageEvaluation) -> dict[str, Any]:
    """Returns one point of rate and distortion; None where a number is not defined."""
    numbers: Mapping[str, Any] = {
        **{
            name: getattr(found, name)
            for name in (
                "tokens", "nominal_bits", "coded_bits", "psnr", "ssim", "squared_error", "codes_used", "perplexity",
            )
        },
        "frechet": found.frechet.value,
        "kernel": found.kernel.value,
    }  # fmt: skip
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}


def _examples(prepared: _Prepared, test: Images, limit: int) -> np.ndarray:
    """Returns `SHOWN` of the test images as tokenizers see them, spread evenly: float32 [n, S, S, C]."""
    spec = build(runs.ImageRunSpec, prepared.config)
    model = runs.ImageModel(spec, prepared.system, {}, {}, 0)
    pixels = np.concatenate([batch.pixels[np.asarray(batch.mask) > 0] for batch in model.batches(test, limit=limit)])
    return pixels[np.unique(np.linspace(0, len(pixels) - 1, SHOWN).astype(int))]


def _reconstructions(model: runs.ImageModel, examples: np.ndarray) -> list[dict[str, Any]]:
    """Returns what `model` makes of `examples` at each of its lengths: PNG files in base 64, and their PSNR."""
    count = len(examples)
    batch = ImageBatch(pixels=examples, labels=np.full(count, -1), mask=np.ones(count))  # type: ignore[arg-type]
    codes, system = model.encode([batch]), model.system
    shown = []
    for tokens in lengths(system):
        kept = np.where(np.arange(system.tokens) < tokens, codes, NO_CODE)
        decoded = model.decode(kept)
        decibels = psnr(jnp.asarray(decoded), jnp.asarray(examples), value_range=(-1.0, 1.0))
        shown.append(
            {
                "tokens": tokens,
                "nominal_bits": tokens * system.bits / system.tokens,
                "psnr": [round(value, 3) if math.isfinite(value) else None for value in decibels.tolist()],
                "images": _files(decoded),
            }
        )
    return shown


def _files(images: np.ndarray) -> list[str]:
    return [base64.b64encode(encode_png(pixels)).decode() for pixels in to_uint8(images)]


def _describe_data(source: Images, system: ImageTokenizer, measured: int) -> dict[str, Any]:
    return {
        "images": len(source),
        "duplicates": source.duplicates,
        "fingerprint": source.fingerprint,
        "split_fingerprints": {name: source.split(name).fingerprint for name in ("train", "valid", "test")},
        "split_images": {name: len(source.split(name)) for name in ("train", "valid", "test")},
        "test_images": measured,
        "size": system.size,
        "channels": system.channels,
    }
