"""SpaceByte's claim: at equal training compute it beats byte models of other shapes and matches subwords.

Slagle 2024, table 1, 1e19 FLOPs, bits per byte on PG-19 / arXiv / GitHub: SpaceByte 1.009 / 0.748 / 0.500, a
subword transformer 0.989 / 0.768 / 0.508. The order is what a small run can test; the numbers are not comparable.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from tokjax.core.registry import Paper, studies
from tokjax.experiment.compare import CompareSpec, compare
from tokjax.measure.statistics import welch
from tokjax.studies.result import Result, choose_sources

_BUDGETS = {"smoke": "4e10flops", "small": "2e12flops", "paper": "1e19flops"}
_SYSTEMS = ("bytes", "megabyte", "spacebyte", "bpe")
_CLOSE = 0.03  # the paper's own gap to subwords is at most 3%


@studies.register(
    "spacebyte",
    papers=(
        Paper(
            title="SpaceByte: Towards Deleting Tokenization from Large Language Modeling",
            authors="Slagle",
            year=2024,
            url="https://arxiv.org/abs/2404.14408",
        ),
    ),
)
def spacebyte(
    *, scale: str, seeds: int, directory: Path, progress: bool = True, sources: Mapping[str, str] = MappingProxyType({})
) -> Result:
    """SpaceByte against bytes, MEGABYTE and BPE at equal training FLOPs."""
    spec = CompareSpec(
        source=choose_sources(sources, {"text": "pydocs"})["text"],
        systems=_SYSTEMS,
        budget=_BUDGETS[scale],
        scale=scale,
        seeds=seeds,
        context_bytes=128 if scale == "smoke" else 512,
    )
    results = compare(spec, directory, progress=progress, say=print)
    bits = {name: [row["bits_per_byte"] for row in results["rows"] if row["system"] == name] for name in _SYSTEMS}
    result = Result(rows=results["rows"], verdict=verdict(bits), environment=results["environment"])
    result.write(directory)
    return result


def verdict(bits: dict[str, list[float]]) -> str:
    """Judges bits per byte of each seed, by system, against the two halves of the claim.

    A half holds only where the 95% interval of the difference (Welch) leaves no doubt; a single seed has no interval
    and is judged by its value.
    """

    def below(name: str, bound: list[float]) -> bool:
        difference, _ = welch(bits[name], bound)
        return (difference.mean or 0.0) > (difference.half_width or 0.0)

    beats_bytes = below("spacebyte", bits["bytes"]) and below("spacebyte", bits["megabyte"])
    matches_subwords = below("spacebyte", [(1 + _CLOSE) * value for value in bits["bpe"]])
    word = {2: "reproduced", 1: "partly reproduced", 0: "not reproduced"}[beats_bytes + matches_subwords]
    ours = ", ".join(f"{name} {np.mean(values):.3f}" for name, values in bits.items())
    return (
        f"{word}: bits per byte {ours}. SpaceByte {'beats' if beats_bytes else 'does not beat'} the other byte models "
        f"and is {'within' if matches_subwords else 'not within'} {_CLOSE:.0%} of BPE. "
        "Paper (PG-19, 1e19 FLOPs): SpaceByte 1.009, subwords 0.989."
    )
