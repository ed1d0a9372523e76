"""Tokens on no grid: TiTok against tokens on a grid, bit for bit.

Yu et al. 2024, ImageNet at 256 pixels: 32 tokens reconstruct (rFID 2.21, TiTok-L-32) about as well as the 256 of a grid
(2.28, MaskGIT's VQGAN); 64 and 128 tokens better (1.70, 1.71).
"""

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tokjax.core.registry import studies
from tokjax.data.images import load_images
from tokjax.experiment.environment import describe
from tokjax.experiment.images import ImageModel
from tokjax.nn.param import count
from tokjax.studies.image_runs import Training
from tokjax.studies.result import Claim, Result, Rows, Table, against, below, choose_sources, values_by
from tokjax.systems.vision.titok import YU

_QUANTIZER = "vq:codes={codes}:update=ema:init=kmeans:revival=batch:dead_below=0.05"
_WIDTH = 8  # channels of a vector that is quantized
TABLES = (
    Table(
        "tokenizer",
        {"tokenizer": "tokenizer", "tokens": "tokens"},
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
    sweep: bool = True


_SCALES = {
    "smoke": _Scale(8, 2, (4, 16), 64, {"width": 32, "layers": 1, "heads": 2}, 8, 10, 16, sweep=False),
    "small": _Scale(16, 2, (4, 16, 64), 512, {"width": 96, "layers": 3, "heads": 4}, 24, 600, 32),
    "paper": _Scale(256, 16, (16, 64, 256), 4096, {"width": 768, "layers": 12, "heads": 12}, 128, 500_000, 256),
}
_SOURCES = {"smoke": "digits", "small": "photos:?size=16", "paper": None}


@studies.register("titok", papers=(YU,))
def titok(
    *, scale: str, seeds: int, directory: Path, progress: bool = True, sources: Mapping[str, str] = MappingProxyType({})
) -> Result:
    """TiTok against convolutions with codes on a grid, at equal numbers of codes and equal steps.

    Role of `sources`: `images`, an address of `load_images`.
    """
    shape = _SCALES[scale]
    images = load_images(choose_sources(sources, {"images": _SOURCES[scale]})["images"])
    training = Training(
        images=images, steps=shape.steps, batch_size=shape.batch_size, directory=directory, sweep=shape.sweep,
        progress=progress,
    )  # fmt: skip
    test = images.split("test")

    def measure(model: ImageModel) -> list[dict[str, Any]]:
        found = model.evaluate(test)
        size = {"parameters": count(model.system.declare()), "mflops": model.system.image_flops() / 1e6}
        distance = {"frechet": found.frechet.value, "features": found.frechet.extractor}
        names = ("nominal_bits", "coded_bits", "squared_error", "psnr", "ssim", "codes_used")
        return [{name: float(getattr(found, name)) for name in names} | size | distance]

    rows: list[dict[str, Any]] = []
    for name in ("titok", "grid"):
        for tokens in shape.tokens:
            label = f"{name}_{tokens}"
            system = _system(shape, name, tokens, images[0].pixels.shape[-1])
            rate = training.best_rate(label, system)
            key = {"part": "tokenizer", "tokenizer": name, "tokens": tokens}
            rows += [key | row for row in training.rows(label, system, rate, seeds, measure)]
    result = Result(rows=rows, claims=claims(rows), environment=describe())
    result.write(directory)
    return result


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
    """Judges that more tokens help, and where tokens on no grid are better, by the 95% intervals over seeds."""
    error = {name: values_by(rows, "squared_error", by="tokens", tokenizer=name) for name in ("titok", "grid")}
    counts = sorted(error["titok"])
    found = []
    for fewer, more in itertools.pairwise(counts):
        ours, theirs = error["titok"][more], error["titok"][fewer]
        claim = f"titok has a lower error with {more} tokens than with {fewer}"
        found.append(
            Claim(claim, "rFID 2.21, 1.70, 1.71 with 32, 64, 128", against(ours, theirs, ".4f"), below(ours, theirs))
        )
    for tokens in counts:
        ours, theirs = error["titok"][tokens], error["grid"][tokens]
        claim = f"{tokens} tokens on no grid have a lower error than on a grid"
        paper = "better at few tokens" if tokens < counts[-1] else "32 of them are about as good as 256 on a grid"
        found.append(Claim(claim, paper, against(ours, theirs, ".4f"), below(ours, theirs)))
    return tuple(found)
