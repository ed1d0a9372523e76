"""Codebook collapse: how much of a codebook is used as it grows, and what helps.

Zhu et al. 2024 (SimVQ, table 2 and README), ImageNet at 128 pixels, 65,536 codes: VQGAN uses 1.4 to 4.5% of them
(rFID 3.74 to 3.23), FSQ with 64,000 codes has rFID 2.80, LFQ 2.88, SimVQ 2.24 and uses 100%. Fifty et al. 2024 report
usage of the rotation trick near that of ten times the codebook. What a small run can test is usage and the order of
errors at equal steps, on one body.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tokjax.core.registry import studies
from tokjax.data.images import Images, load_images
from tokjax.experiment.environment import describe
from tokjax.experiment.images import ImageModel
from tokjax.quantize.simvq import ZHU
from tokjax.studies.image_runs import Training
from tokjax.studies.result import Claim, Result, Rows, Table, against, below, choose_sources, values_by

_WIDTH = 8  # channels of a vector, where the quantizer does not say
_FSQ = {256: "8,6,5", 1024: "8,5,5,5", 8192: "8,8,8,4,4", 65536: "8,8,8,5,5,5"}
_BITS = {256: 8, 1024: 10, 8192: 13, 65536: 16}
# Name -> the quantizer, of K codes.
_QUANTIZERS = {
    "vq": "vq:codes={codes}",
    "vq, cosine": "vq:codes={codes}:cosine=True",
    "vq, rotation": "vq:codes={codes}:gradient=rotation",
    "vq, averages": "vq:codes={codes}:update=ema:init=kmeans",
    "vq, averages and revival": "vq:codes={codes}:update=ema:init=kmeans:revival=batch:dead_below=0.05",
    "vq, anchors": "vq:codes={codes}:revival=anchor",
    "simvq": "simvq:codes={codes}",
    "fsq": "fsq:levels={levels}",
    "lfq": "lfq",
    "ibq": "ibq:codes={codes}",
}
TABLES = (
    Table(
        "codebook",
        {"quantizer": "quantizer", "codes": "codes"},
        {
            "codes used": "codes_used",
            "perplexity": "perplexity",
            "PSNR, dB": "psnr",
            "squared error": "squared_error",
            "coded bits/image": "coded_bits",
            "feature distance": "frechet",
        },
    ),
)


@dataclasses.dataclass(frozen=True)
class _Scale:
    """How much of everything.

    Attributes:
      size: of images.
      widths: channels of the body at each resolution.
      codes: sizes of codebooks.
      steps: of training.
      batch_size: images.
      counted: images whose codes are counted, of those that were trained on.
      softmax: largest codebook of `ibq`, whose steps take a softmax over all codes for every vector.
      sweep: whether learning rates are chosen.
    """

    size: int
    widths: tuple[int, ...]
    codes: tuple[int, ...]
    steps: int
    batch_size: int
    counted: int
    softmax: int
    sweep: bool = True


_SCALES = {
    "smoke": _Scale(8, (8, 16), (256,), 10, 16, 64, 256, sweep=False),
    "small": _Scale(16, (16, 32), (1024, 65536), 400, 32, 4000, 1024),
    "paper": _Scale(128, (128, 128, 256, 512), (1024, 8192, 65536), 250_000, 256, 50_000, 65536),
}
_SOURCES = {"smoke": "digits", "small": "photos:?size=16", "paper": None}


@studies.register("quantizers", papers=(ZHU,))
def quantizers(
    *, scale: str, seeds: int, directory: Path, progress: bool = True, sources: Mapping[str, str] = MappingProxyType({})
) -> Result:
    """Quantizers in one convolutional tokenizer: codes used and errors as the codebook grows.

    Role of `sources`: `images`, an address of `load_images`.
    """
    shape = _SCALES[scale]
    images = load_images(choose_sources(sources, {"images": _SOURCES[scale]})["images"])
    channels = images[0].pixels.shape[-1]
    rows: list[dict[str, Any]] = []
    for name in _QUANTIZERS:
        training = Training(
            images=images, steps=shape.steps, batch_size=shape.batch_size, sweep=shape.sweep, progress=progress,
            directory=directory / name.replace(", ", "_").replace(" ", "_"),
        )  # fmt: skip
        rate = training.best_rate("rates", _system(shape, name, shape.codes[0], channels))
        for codes in shape.codes:
            if name == "ibq" and codes > shape.softmax:
                continue
            system = _system(shape, name, codes, channels)
            found = training.rows(str(codes), system, rate, seeds, lambda model: [_measure(shape, model, images)])
            rows += [{"part": "codebook", "quantizer": name, "codes": codes, **row} for row in found]
    result = Result(rows=rows, claims=claims(rows), environment=describe())
    result.write(directory)
    return result


def _system(shape: _Scale, name: str, codes: int, channels: int) -> dict[str, Any]:
    return {
        "name": "vqgan",
        "size": shape.size,
        "channels": channels,
        "body": {"widths": list(shape.widths), "blocks": 1},
        "code_width": {"fsq": _FSQ[codes].count(",") + 1, "lfq": _BITS[codes]}.get(name, _WIDTH),
        "quantizer": _QUANTIZERS[name].format(codes=codes, levels=_FSQ[codes]),
    }


def _measure(shape: _Scale, model: ImageModel, images: Images) -> dict[str, Any]:
    """Errors on test images; codes of images that were trained on, enough of them to use a large codebook."""
    test = model.evaluate(images.split("test"))
    train = model.evaluate(images.split("train"), limit=shape.counted)
    return {
        "psnr": test.psnr,
        "squared_error": test.squared_error,
        "frechet": test.frechet.value,
        "features": test.frechet.extractor,
        "vocab_size": model.system.vocab_size,
        "nominal_bits": test.nominal_bits,
        "coded_bits": train.coded_bits,
        "codes_used": float(train.codes_used),
        "perplexity": train.perplexity,
        "counted_codes": train.images * train.tokens,
    }


def claims(rows: Rows) -> tuple[Claim, ...]:
    """Judges what is said of usage and errors, by the 95% intervals over seeds."""
    sizes = sorted({row["codes"] for row in rows})
    small, large = sizes[0], sizes[-1]

    def of(field: str, codes: int) -> dict[Any, list[float]]:
        return values_by(rows, field, by="quantizer", codes=codes)

    used, error = of("codes_used", large), of("squared_error", large)
    found = [
        Claim(
            f"plain vq uses a smaller share of {large} codes than of {small}",
            "1.4 to 4.5% of 65,536 (VQGAN)",
            against(used["vq"], of("codes_used", small)["vq"], ".4f"),
            below(used["vq"], of("codes_used", small)["vq"]),
        )
    ]
    published = {
        "vq, rotation": "usage of 25% becomes 100% on a toy, 40 to 90% dead without revival elsewhere",
        "vq, averages and revival": "revival is what practitioners advise",
        "vq, anchors": "100% (CVQ)",
        "simvq": "100%",
        "ibq": "99% of 1,024, 84% of 262,144",
    }
    for name, paper in published.items():
        claim = f"{name} uses more of {large} codes than plain vq"
        if name not in used:
            found.append(Claim(claim, paper, "not run at this scale", "not measured"))
            continue
        found.append(Claim(claim, paper, against(used[name], used["vq"], ".4f"), below(used["vq"], used[name])))
    for name, paper in {"fsq": "rFID 2.80 against 3.23", "simvq": "rFID 2.24 against 3.23"}.items():
        claim = f"{name} has a lower error than plain vq at {large} codes"
        found.append(Claim(claim, paper, against(error[name], error["vq"], ".4f"), below(error[name], error["vq"])))
    claim = f"simvq has a lower error than fsq at {large} codes"
    ours = against(error["simvq"], error["fsq"], ".4f")
    found.append(Claim(claim, "rFID 2.24 against 2.80", ours, below(error["simvq"], error["fsq"])))
    for name in ("fsq", "vq"):
        before = of("squared_error", small)[name]
        claim = f"a larger codebook lowers the error of {name} ({small} to {large} codes)"
        paper = {"fsq": "yes", "vq": "no gain without usage"}[name]
        found.append(Claim(claim, paper, against(error[name], before, ".4f"), below(error[name], before)))
    return tuple(found)
