"""SpaceByte's claim: at equal training compute it beats byte models of other shapes and matches subwords.

Slagle 2024, table 1, 1e19 FLOPs, bits per byte on PG-19 / arXiv / GitHub: SpaceByte 1.009 / 0.748 / 0.500, a
subword transformer 0.989 / 0.768 / 0.508. The order is what a small run can test; the numbers are not comparable.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from tokjax.core.registry import Paper, studies
from tokjax.experiment.compare import CompareSpec, compare
from tokjax.studies.result import Claim, Result, Rows, Table, against, below, choose_sources, values_by

_BUDGETS = {"smoke": "4e10flops", "small": "2e12flops", "paper": "1e19flops"}
_SYSTEMS = ("bytes", "megabyte", "spacebyte", "bpe")
_CLOSE = 0.03  # the paper's own gap to subwords is at most 3%
TABLES = (
    Table(
        "model",
        {"system": "system"},
        {
            "bits/byte": "bits_per_byte",
            "bytes per token": "bytes_per_token",
            "next words right": "next_word_accuracy",
            "steps": "steps",
            "parameters": "params",
        },
    ),
)


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
    rows = [{"part": "model", **row} for row in results["rows"]]
    result = Result(rows=rows, claims=claims(rows), environment=results["environment"])
    result.write(directory)
    return result


def claims(rows: Rows) -> tuple[Claim, ...]:
    """Judges both halves of the claim, which hold only where the 95% interval over seeds leaves no doubt."""
    bits = values_by(rows, "bits_per_byte")
    ours = bits["spacebyte"]
    beats = [
        Claim(
            f"spacebyte has fewer bits per byte than {name}",
            "1.009, best of the byte models (PG-19, 1e19 FLOPs)",
            against(ours, bits[name]),
            below(ours, bits[name]),
        )
        for name in ("bytes", "megabyte")
    ]
    room = [(1 + _CLOSE) * value for value in bits["bpe"]]
    close = Claim(
        f"spacebyte is within {_CLOSE:.0%} of bpe in bits per byte",
        "1.009 against 0.989 (PG-19, 1e19 FLOPs)",
        against(ours, bits["bpe"]),
        below(ours, room),
    )
    return (*beats, close)
