"""Tokens on no grid: TiTok against tokens on a grid, bit for bit.

Yu et al. 2024, ImageNet at 256 pixels: 32 tokens reconstruct (rFID 2.21, TiTok-L-32) about as well as the 256 of a grid
(2.28, MaskGIT's VQGAN); 64 and 128 tokens better (1.70, 1.71). They are trained on a proxy's codes before pixels. A
MaskGIT draws 32 tokens in 8 steps (gFID 2.77; 6.18 of 256 on a grid).
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import mean
from types import MappingProxyType
from typing import Any

from tokjax.core.registry import studies
from tokjax.data.images import load_images
from tokjax.experiment.environment import describe
from tokjax.experiment.images import ImageModel
from tokjax.nn.param import count
from tokjax.studies.image_generation import Generation
from tokjax.studies.image_runs import Training
from tokjax.studies.result import Claim, Result, Rows, Table, against, below, choose_sources, values_by
from tokjax.systems.vision.titok import YU

_QUANTIZER = "vq:codes={codes}:update=ema:init=kmeans:revival=batch:dead_below=0.05"
_WIDTH = 8  # channels of a vector that is quantized
_TOKENIZER = {"tokenizer": "tokenizer", "tokens": "tokens"}
_STEPS = _TOKENIZER | {"steps": "steps"}
TABLES = (
    Table(
        "tokenizer",
        _TOKENIZER,
        {
            "bits/image": "nominal_bits",
            "coded bits/image": "coded_bits",
            "squared error": "squared_error",
            "PSNR, dB": "psnr",
            "SSIM": "ssim",
            "feature distance": "frechet",
            "codes used": "codes_used",
            "parameters": "parameters",
            "MFLOP/image": "mflops",
        },
    ),
    Table(
        "stages",
        {"stages": "training"},
        {
            "squared error": "squared_error",
            "PSNR, dB": "psnr",
            "feature distance": "frechet",
            "codes used": "codes_used",
        },
    ),
    Table(
        "generation",
        _STEPS,
        {
            "feature distance": "frechet",
            "kernel distance": "kernel",
            "temperature": "temperature",
            "generator MFLOP/image": "mflops",
        },
    ),
    Table("time", _STEPS, {"ms/image, decoded": "milliseconds"}),
)


@dataclasses.dataclass(frozen=True)
class _Scale:
    """How much of everything.

    Attributes:
      size: of images, and the rows of a `patch` of TiTok.
      tokens: of an image, each a power of 4 so that a grid has as many.
      codes: K.
      body: of both transformers.
      width: channels of the first convolution; each of the others has twice those before it, up to four times.
      steps, batch_size: of training.
      generator: body of the generator of codes.
      sampling: numbers of steps it draws in, and temperatures that are tried.
      sweep: whether learning rates are chosen.
    """

    size: int
    patch: int
    tokens: tuple[int, ...]
    codes: int
    body: Mapping[str, int]
    width: int
    steps: int
    batch_size: int
    generator: Mapping[str, int]
    sampling: tuple[tuple[int, ...], tuple[float, ...]] = ((2, 4, 8, 16), (0.5, 1.0, 2.0, 4.0))
    sweep: bool = True


_SCALES = {
    "smoke": _Scale(
        8, 2, (4, 16), 64, {"width": 32, "layers": 1, "heads": 2}, 8, 10, 16,
        {"width": 32, "layers": 1, "heads": 2}, ((2, 4), (1.0,)), sweep=False,
    ),
    "small": _Scale(
        16, 4, (1, 4, 16), 512, {"width": 64, "layers": 2, "heads": 2}, 16, 1200, 32,
        {"width": 128, "layers": 4, "heads": 4},
    ),
    "paper": _Scale(
        256, 16, (16, 64, 256), 4096, {"width": 768, "layers": 12, "heads": 12}, 128, 500_000, 256,
        {"width": 768, "layers": 24, "heads": 16},
    ),
}  # fmt: skip
_SOURCES = {"smoke": "digits", "small": "photos:?size=16", "paper": None}


@studies.register("titok", papers=(YU,))
def titok(
    *, scale: str, seeds: int, directory: Path, progress: bool = True, sources: Mapping[str, str] = MappingProxyType({})
) -> Result:
    """TiTok against convolutions with codes on a grid, at equal numbers of codes and equal steps.

    One stage against two, of as many steps together, those of the proxy not counted, at the most tokens but one.
    Generators of the codes of each tokenizer.

    Role of `sources`: `images`, an address of `load_images`.
    """
    shape = _SCALES[scale]
    images = load_images(choose_sources(sources, {"images": _SOURCES[scale]})["images"])
    training = Training(
        images=images, steps=shape.steps, batch_size=shape.batch_size, directory=directory, sweep=shape.sweep,
        progress=progress,
    )  # fmt: skip
    generation = Generation(
        images=images, directory=directory, body=shape.generator, steps=shape.steps, batch_size=shape.batch_size,
        sampling_steps=shape.sampling[0], temperatures=shape.sampling[1], progress=progress,
    )  # fmt: skip
    keys = {f"{name}_{tokens}": (name, tokens) for name in ("titok", "grid") for tokens in shape.tokens}
    rows: list[dict[str, Any]] = []
    for label, (name, tokens) in keys.items():
        found = _run(training, label, _system(shape, name, tokens, training.channels), seeds)
        rows += [{"part": "tokenizer", "tokenizer": name, "tokens": tokens} | row for row in found]
    for kind, row in _stages(shape, training, seeds):
        rows.append({"part": "stages", "training": kind} | row)
    several = {label: key for label, key in keys.items() if key[1] >= min(shape.sampling[0])}
    for label, (name, tokens) in several.items():
        key = {"part": "generation", "tokenizer": name, "tokens": tokens}
        rows += [key | row for row in generation.rows(label, seeds)]
    for label, row in generation.seconds(list(several)):
        name, tokens = keys[label]
        rows.append({"part": "time", "tokenizer": name, "tokens": tokens} | row)
    result = Result(rows=rows, claims=claims(rows), environment=describe())
    result.write(directory)
    return result


def _run(training: Training, label: str, system: dict[str, Any], seeds: int) -> list[dict[str, Any]]:
    test = training.images.split("test")

    def measure(model: ImageModel) -> list[dict[str, Any]]:
        found = model.evaluate(test)
        size = {"parameters": count(model.system.declare()), "mflops": model.system.image_flops() / 1e6}
        distance = {"frechet": found.frechet.value, "features": found.frechet.extractor}
        names = ("nominal_bits", "coded_bits", "squared_error", "psnr", "ssim", "codes_used")
        return [{name: float(getattr(found, name)) for name in names} | size | distance]

    return list(training.rows(label, system, training.best_rate(label, system), seeds, measure))


def _stages(shape: _Scale, training: Training, seeds: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """A stage on the codes of the grid that has one for each patch, then one on pixels; and a single one.

    Codes of averages are no parameters, which the second stage starts from: both have learned codes, cosine.
    """
    tokens, places = shape.tokens[-2], (shape.size // shape.patch) ** 2
    single = _system(shape, "titok", tokens, training.channels) | {"quantizer": f"vq:codes={shape.codes}:cosine=True"}
    for row in _run(training, f"cosine_{tokens}", single, seeds):
        yield "one", row
    proxy, label = _system(shape, "grid", places, training.channels), f"grid_{places}"
    _run(training, label, proxy, seeds)  # done already where it is one of the grids that are compared
    two = single | {"proxy": {"body": proxy["body"], "codes": shape.codes, "code_width": _WIDTH}}
    staged = dataclasses.replace(training, proxy=lambda seed: training.directory / label / str(seed))
    for row in _run(staged, f"two_stages_{tokens}", two, seeds):
        yield "two", row


def _system(shape: _Scale, name: str, tokens: int, channels: int) -> dict[str, Any]:
    common = {
        "size": shape.size,
        "channels": channels,
        "code_width": _WIDTH,
        "quantizer": _QUANTIZER.format(codes=shape.codes),
    }
    if name == "titok":
        body = dict(shape.body)
        return {"name": "titok", **common, "patch": shape.patch, "latents": tokens, "encoder": body, "decoder": body}
    halvings = round(shape.size / tokens**0.5).bit_length() - 1
    widths = [shape.width * min(2**level, 4) for level in range(halvings + 1)]
    return {"name": "vqgan", **common, "body": {"widths": widths, "blocks": 1}}


def claims(rows: Rows) -> tuple[Claim, ...]:
    """Judges that more tokens help, where tokens on no grid are better, and what they are worth to a generator."""
    return (*_of_tokens(rows), _of_stages(rows), *_of_generators(rows))


def _of_tokens(rows: Rows) -> Iterator[Claim]:
    where = {"part": "tokenizer"}
    error = {name: values_by(rows, "squared_error", by="tokens", tokenizer=name, **where) for name in ("titok", "grid")}
    counts = sorted(error["titok"])
    for fewer, more in itertools.pairwise(counts):
        ours, theirs = error["titok"][more], error["titok"][fewer]
        claim = f"titok has a lower error with {more} tokens than with {fewer}"
        paper = "rFID 2.21, 1.70, 1.71 with 32, 64, 128"
        yield Claim(claim, paper, against(ours, theirs, ".4f"), below(ours, theirs))
    for tokens in counts:
        ours, theirs = error["titok"][tokens], error["grid"][tokens]
        claim = f"{tokens} tokens on no grid have a lower error than on a grid"
        paper = "better at few tokens" if tokens < counts[-1] else "32 of them are about as good as 256 on a grid"
        yield Claim(claim, paper, against(ours, theirs, ".4f"), below(ours, theirs))


def _of_stages(rows: Rows) -> Claim:
    error = values_by(rows, "squared_error", by="training", part="stages")
    ours, theirs = error["two"], error["one"]
    claim = "a first stage on a proxy's codes lowers the error, at equal steps without those of the proxy"
    return Claim(claim, "needed for rFID 2.21", against(ours, theirs, ".4f"), below(ours, theirs))


def _of_generators(rows: Rows) -> Iterator[Claim]:
    """The most tokens but one on no grid, against the most on a grid, in the steps best on validation images."""
    counts = sorted({row["tokens"] for row in rows if row["part"] == "generation"})
    sides = [{"tokenizer": "titok", "tokens": counts[-2]}, {"tokenizer": "grid", "tokens": counts[-1]}]
    steps, distances, times = [], [], []
    for side in sides:
        valid = values_by(rows, "valid_frechet", by="steps", part="generation", **side)
        best = min((mean(values), count) for count, values in valid.items())[1]
        steps.append(best)
        distances.append(values_by(rows, "frechet", by="steps", part="generation", **side)[best])
        times.append(mean(values_by(rows, "milliseconds", by="steps", part="time", **side)[best]))
    few, many = counts[-2:]
    claim = f"generated from {few} tokens on no grid, images are closer to real ones than from {many} on a grid"
    found = against(distances[0], distances[1], ".1f")
    yield Claim(claim, "gFID 2.77 of 32 tokens, 6.18 of 256 on a grid", found, below(*distances))
    claim = f"time of these images, decoded, in {steps[0]} steps of {few} tokens and {steps[1]} of {many}"
    found = f"{times[0]:.2f} ms and {times[1]:.2f} ms per image: a ratio of {times[1] / times[0]:.1f}"
    yield Claim(claim, "8 steps of 32; 100 images per second on an A100", found, "measured")
