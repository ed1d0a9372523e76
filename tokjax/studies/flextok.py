"""Codes in order: one model of any length against a model of each length, and flows against plain decoders.

Bachmann et al. 2025, ImageNet at 256 pixels: rFID below 2 with 8 to 128 of 256 codes (d18-d28), from one model. Their
follow-up on video reports that generative decoders have the worst PSNR and the best feature distance.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tokjax.core.registry import studies
from tokjax.data.images import load_images
from tokjax.experiment.environment import describe
from tokjax.experiment.images import ImageModel
from tokjax.studies.image_runs import Training
from tokjax.studies.result import Claim, Result, Rows, Table, against, below, choose_sources, values_by
from tokjax.systems.vision.flextok import BACHMANN

_CLOSE = 0.10  # by which the error of one model may be above that of a model made for the length
TABLES = (
    Table(
        "prefix",
        {"model": "model", "codes kept": "keep"},
        {
            "bits/image": "nominal_bits",
            "squared error": "squared_error",
            "PSNR, dB": "psnr",
            "SSIM": "ssim",
            "feature distance": "frechet",
            "kernel distance": "kernel",
        },
    ),
)


@dataclasses.dataclass(frozen=True)
class _Scale:
    """How much of everything.

    Attributes:
      size: of images, and the rows of a patch.
      registers: codes of an image.
      kept: how many of them are decoded.
      levels: of FSQ.
      body: of both transformers.
      steps, batch_size: of training.
      sweep: whether learning rates are chosen.
    """

    size: int
    patch: int
    registers: int
    kept: tuple[int, ...]
    levels: str
    body: Mapping[str, int]
    steps: int
    batch_size: int
    sweep: bool = True


_SCALES = {
    "smoke": _Scale(8, 2, 4, (1, 4), "5,5,5", {"width": 32, "layers": 1, "head_dim": 16}, 10, 16, sweep=False),
    "small": _Scale(16, 4, 16, (1, 4, 16), "8,5,5,5", {"width": 64, "layers": 2, "head_dim": 32}, 1200, 32),
    "paper": _Scale(
        256, 2, 256, (1, 2, 4, 8, 16, 32, 64, 128, 256), "8,8,8,5,5,5",
        {"width": 1152, "layers": 18, "head_dim": 64}, 250_000, 256,
    ),
}  # fmt: skip
_SOURCES = {"smoke": "digits", "small": "photos:?size=16", "paper": None}


@studies.register("flextok", papers=(BACHMANN,))
def flextok(
    *, scale: str, seeds: int, directory: Path, progress: bool = True, sources: Mapping[str, str] = MappingProxyType({})
) -> Result:
    """Nested dropout against models of a fixed length, and flow decoders against plain ones, by codes kept.

    Role of `sources`: `images`, an address of `load_images`.
    """
    shape = _SCALES[scale]
    images = load_images(choose_sources(sources, {"images": _SOURCES[scale]})["images"])
    channels = images[0].pixels.shape[-1]
    test = images.split("test")

    def measured(kept: tuple[int, ...]) -> Any:
        def measure(model: ImageModel) -> list[dict[str, Any]]:
            return [_measure(model, test, keep) for keep in kept]

        return measure

    plain = {"decoder": "pixels", "registers": shape.registers}
    models: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
        "nested dropout": (plain | {"dropout": "uniform"}, shape.kept),
        "no dropout": (plain | {"dropout": "none"}, shape.kept),
        "flow": ({"decoder": "flow", "registers": shape.registers, "dropout": "uniform"}, shape.kept),
    }
    for keep in shape.kept[:-1]:
        models[f"fixed {keep}"] = (plain | {"dropout": "none", "registers": keep}, (keep,))
    rows: list[dict[str, Any]] = []
    for name, (fields, kept) in models.items():
        training = Training(
            images=images, steps=shape.steps, batch_size=shape.batch_size, directory=directory, sweep=shape.sweep,
            # Errors of a flow's samples are noisy, and not what it is trained for.
            target="FD(random_pyramid)" if name == "flow" else "squared_error", progress=progress,
        )  # fmt: skip
        system = _system(shape, channels) | fields
        folder = name.replace(" ", "_")
        rate = training.best_rate(folder, system)
        shown_as = "fixed length" if name.startswith("fixed") else name
        key = {"part": "prefix", "model": shown_as}
        rows += [key | row for row in training.rows(folder, system, rate, seeds, measured(kept))]
    # A model without dropout that keeps all its codes is the one of that fixed length.
    full = [row for row in rows if row["model"] == "no dropout" and row["keep"] == shape.registers]
    rows += [row | {"model": "fixed length"} for row in full]
    result = Result(rows=rows, claims=claims(rows), environment=describe())
    result.write(directory)
    return result


def _system(shape: _Scale, channels: int) -> dict[str, Any]:
    body = dict(shape.body)
    return {
        "name": "flextok", "size": shape.size, "channels": channels, "patch": shape.patch,
        "encoder_body": body, "decoder_body": body, "code_width": shape.levels.count(",") + 1,
        "quantizer": f"fsq:levels={shape.levels}",
    }  # fmt: skip


def _measure(model: ImageModel, test: Any, keep: int) -> dict[str, Any]:
    found = model.evaluate(test, keep=keep)
    names = ("nominal_bits", "squared_error", "psnr", "ssim", "codes_used")
    distances = {"frechet": found.frechet.value, "kernel": found.kernel.value, "features": found.frechet.extractor}
    return {"keep": keep} | {name: float(getattr(found, name)) for name in names} | distances


def claims(rows: Rows) -> tuple[Claim, ...]:
    """Judges lengths and decoders, by the 95% intervals over seeds."""
    error = {name: values_by(rows, "squared_error", by="keep", model=name) for name in _names(rows)}
    kept = sorted(error["nested dropout"])
    found = []
    for keep in kept:
        ours, fixed = error["nested dropout"][keep], error["fixed length"][keep]
        room = [(1 + _CLOSE) * value for value in fixed]
        claim = f"one model with nested dropout is within {_CLOSE:.0%} of a model of {keep} codes"
        found.append(Claim(claim, "tracks the envelope", against(ours, fixed, ".4f"), below(ours, room)))
    few = kept[len(kept) // 2]
    ours, theirs = error["nested dropout"][few], error["no dropout"][few]
    claim = f"without dropout, {few} of {kept[-1]} codes decode worse than with"
    found.append(Claim(claim, "truncation fails", against(theirs, ours, ".4f"), below(ours, theirs)))
    flow, plain = (values_by(rows, "frechet", by="keep", model=name) for name in ("flow", "nested dropout"))
    for keep in (kept[0], few):
        claim = f"at {keep} codes a flow decodes to a lower feature distance than a plain decoder"
        found.append(
            Claim(
                claim, "best feature distance", against(flow[keep], plain[keep], ".2f"), below(flow[keep], plain[keep])
            )
        )
        claim = f"and to a higher error, at {keep} codes"
        higher, lower = error["flow"][keep], error["nested dropout"][keep]
        found.append(Claim(claim, "worst PSNR", against(higher, lower, ".4f"), below(lower, higher)))
    return tuple(found)


def _names(rows: Rows) -> list[str]:
    return sorted({row["model"] for row in rows})
