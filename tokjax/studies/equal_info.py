"""What compressed text is worth as tokens: ratios, what can be learned, and models at equal compute.

Lester et al. 2024 report, for windows of 16 bits and a 3M-parameter M1 on C4: ratios AC 5.49 > b128 4.61 > b64 4.16 >
b32 3.49 > b16 2.66 > static AC 1.73 bytes per 8-bit token; models over AC or over windows without model resets learn
nothing beyond the uniform cost; b16 is learnable and, with 65,536 ids, close to but behind SentencePiece at every size.
"""

import dataclasses
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from tokjax.coding.entropy import fit_entropy
from tokjax.coding.papers import LESTER
from tokjax.coding.saved import save_entropy
from tokjax.core.files import write_text
from tokjax.core.registry import studies
from tokjax.data import load_source
from tokjax.data.documents import open_documents
from tokjax.experiment import run
from tokjax.experiment.compare import CompareSpec, Interrupted, compare, run_directory
from tokjax.experiment.config import load_config
from tokjax.experiment.entropy import resolve
from tokjax.measure.compression import compression
from tokjax.studies.result import (
    Claim,
    Result,
    Rows,
    Table,
    against,
    below,
    choose_sources,
    if_held,
    shown,
    values_by,
)
from tokjax.text import fit_tokenizer

_PAPER_RATIOS = {"ac": 5.49, "b128": 4.61, "b64": 4.16, "b32": 3.49, "b16": 2.66, "static_ac": 1.73}
_DECODE = 0.994  # of the sequences, in the paper
_SETTINGS: dict[str, dict[str, Any]] = {
    "ac": {"name": "ac"},
    **{f"b{bits}": {"name": "equal_info", "mode": "paper", "window_bits": bits} for bits in (128, 64, 32, 16)},
    "static_ac": {"name": "static_ac"},
    "gzip": {"name": "gzip"},
}
_TABLES: dict[str, dict[str, Any]] = {
    "ids": {"name": "equal_info", "mode": "ids"},
    "compiled": {"name": "compiled", "vocab_size": 1 << 16},
    "bpe": {"name": "bpe", "vocab_size": 1 << 16},
}
_B16, _B16_WIDE = "equal_info:mode=paper:token_bits=8", "equal_info:mode=paper"
_AC, _NEVER = "ac:token_bits=8", "equal_info:mode=paper:token_bits=8:resets=False"
_B64 = "equal_info:mode=paper:token_bits=8:window_bits=64"
_COMPILED, _BPE = "compiled:65536", "bpe:65536"
_ALL = ("bytes", "bpe:2048", "compiled:2048", _B16, _AC, _NEVER, _B64, _B16_WIDE, _COMPILED, _BPE)
TABLES = (
    Table(
        "ratio",
        {"entropy model": "entropy", "setting": "setting"},
        {
            "ids": "ids",
            "bytes per token": "bytes_per_token",
            "uniform bits/byte": "uniform_bits_per_byte",
            "unigram gain": "unigram_gain",
            "mis-decoded": "misdecoded",
        },
    ),
    Table(
        "model",
        {"model over": "system"},
        {"ids": "vocab_size", "bits/byte": "bits_per_byte", "bytes per token": "bytes_per_token", "steps": "steps"},
    ),
    Table(
        "place",
        {"bits of the window before the token": "bits_before"},
        {"accuracy": "accuracy", "bits per token": "bits_per_token"},
    ),
)
_NOTHING = 0.02  # of the uniform cost; less than this is not learning


@dataclasses.dataclass(frozen=True)
class _Scale:
    """How much of everything.

    Attributes:
      budget: of each model.
      recipe: variant of the models' recipes; small models learn more from a small budget.
      systems: that are trained.
      sample: bytes of the training split that ids are counted in.
      neural_steps: of training M1.
      context_bytes: that a model reads.
    """

    budget: str
    recipe: str
    systems: tuple[str, ...]
    sample: int
    neural_steps: int
    context_bytes: int = 512


_SCALES = {
    "smoke": _Scale("4e10flops", "smoke", ("bytes", _B16, "compiled:2048"), 40_000, 20, context_bytes=128),
    "small": _Scale("6e11flops", "smoke", _ALL, 2_000_000, 300),
    "paper": _Scale("1e19flops", "paper", _ALL, 100_000_000, 2_500_000, context_bytes=4096),
}
_NEURAL_SAMPLE = 20_000  # bytes that M1 codes
_NEURAL_CHUNK = 1024  # bytes that M1 codes in one row, so that a small text fills many


@studies.register(
    "equal_info",
    papers=(LESTER,),
)
def equal_info(
    *, scale: str, seeds: int, directory: Path, progress: bool = True, sources: Mapping[str, str] = MappingProxyType({})
) -> Result:
    """Equal-info windows, compiled tables and their baselines: ratios, and models at equal training FLOPs."""
    address = choose_sources(sources, {"text": "pydocs"})["text"]
    shape, source = _SCALES[scale], load_source(address)
    rows = _ratios(shape, address, seeds, directory, scale, progress)
    spec = CompareSpec(
        source=address,
        systems=shape.systems,
        budget=shape.budget,
        scale=shape.recipe,
        seeds=seeds,
        context_bytes=shape.context_bytes,
    )
    compared = compare(spec, directory / "models", progress=progress, say=print)
    documents = run.sample_documents(source.split("test"), spec.test_bytes)
    models = [{"part": "model", "uniform_bits_per_byte": _uniform(row, documents), **row} for row in compared["rows"]]
    rows += models + list(_by_place(models, documents, directory / "models"))
    result = Result(rows=rows, claims=claims(rows), environment=compared["environment"])
    result.write(directory)
    return result


def _ratios(
    shape: _Scale, address: str, seeds: int, directory: Path, scale: str, progress: bool
) -> list[dict[str, Any]]:
    """Returns what each setting makes of the test split, under an n-gram and under a trained M1.

    Documents are laid end to end, as in the paper. Each seed fits the n-gram on the training split less another tenth,
    and trains another M1.
    """
    rows: list[dict[str, Any]] = []
    source = load_source(address)
    train, test = list(source.split("train")), b"\n\n".join(source.split("test"))
    for seed in range(seeds):
        done = directory / f"ratios-{seed}.json"
        if not done.exists():
            part = [raw for index, raw in enumerate(train) if index % 10 != seed % 10]
            config = json.loads(load_config(f"m1:{scale}").to_json()) | {"source": address}
            trained = _train_entropy(config, shape.neural_steps, seed, directory / "m1" / str(seed), progress)
            found = list(_ngram_ratios(part, test, shape.sample, directory / "ngram" / str(seed)))
            found += _neural_ratios(trained, test[:_NEURAL_SAMPLE])
            write_text(done, json.dumps([{**row, "seed": seed} for row in found]))
        rows += json.loads(done.read_text())
    return rows


def _ngram_ratios(train: Sequence[bytes], test: bytes, sample: int, workdir: Path) -> Iterator[dict[str, Any]]:
    save_entropy(fit_entropy("ngram", open_documents("documents", train)), workdir)
    counted = b"\n\n".join(train)[:sample]
    for setting, fields in _SETTINGS.items():
        own = {} if setting in ("static_ac", "gzip") else {"entropy": str(workdir)}
        yield _ratio(setting, "ngram", {**fields, **own, "token_bits": 8}, train, [test], [counted])
    for setting, fields in _TABLES.items():
        own = {} if setting == "bpe" else {"entropy": str(workdir)}
        yield _ratio(setting, "ngram", {**fields, **own}, train, [test], [counted])


def _neural_ratios(entropy: str, test: bytes) -> Iterator[dict[str, Any]]:
    for setting in list(_PAPER_RATIOS)[:-1]:
        fields = {**_SETTINGS[setting], "entropy": entropy, "token_bits": 8, "chunk_bytes": _NEURAL_CHUNK}
        yield _ratio(setting, "m1", fields, [test], [test])


def _ratio(
    setting: str,
    entropy: str,
    fields: Mapping[str, Any],
    train: Sequence[bytes],
    test: Sequence[bytes],
    counted: Sequence[bytes] = (),
) -> dict[str, Any]:
    fields = resolve(fields)
    fitted = fit_tokenizer(fields.pop("name"), open_documents("documents", train), **fields)
    found = compression(fitted, test, counted)
    row = {"part": "ratio", "setting": setting, "entropy": entropy, "ids": fitted.size, **dataclasses.asdict(found)}
    row["unigram_gain"] = found.unigram_gain
    if fields.get("mode") == "paper" and entropy == "ngram":
        row["misdecoded"] = fitted.spec.audit(fitted.tables, test).rate  # type: ignore[attr-defined]
    return row


def _train_entropy(config: dict[str, Any], steps: int, seed: int, workdir: Path, progress: bool) -> str:
    config["train"] |= {"seed": seed, "steps": steps, "eval_every": steps}
    _, interrupted = run.train_model(config, workdir, progress=progress)
    if interrupted:
        raise Interrupted(workdir)
    return str(workdir)


def _uniform(row: Mapping[str, Any], documents: Sequence[bytes]) -> float:
    """Bits per byte if a model knew nothing: every id and the end of a document as likely as every other."""
    targets_per_byte = 1 / row["bytes_per_token"] + len(documents) / sum(map(len, documents))
    return math.log2(row["vocab_size"]) * targets_per_byte


def _by_place(
    models: Sequence[dict[str, Any]], documents: Sequence[bytes], directory: Path
) -> Iterator[dict[str, Any]]:
    """Yields how often a model over 64-bit windows is right, by the place of the token in its window."""
    for row in models:
        if row["system"] != _B64:
            continue
        model = run.load_model(run_directory(directory, _B64, row["learning_rate"], row["seed"]))
        scored = model.score(documents)
        first = np.searchsorted(scored.document, scored.document)
        last = np.append(scored.document[1:] != scored.document[:-1], True)  # the end of the document is in no window
        place = (np.arange(len(first)) - first) % 8
        for index in range(8):
            here = (place == index) & ~last
            yield {
                "part": "place",
                "system": _B64,
                "seed": row["seed"],
                "bits_before": 8 * index,
                "accuracy": float(scored.correct[here].mean()),
                "bits_per_token": float(scored.nll[here].mean() / math.log(2)),
            }


def claims(rows: Rows) -> tuple[Claim, ...]:
    """Judges each of the paper's claims on `rows`, and measures the compiled table, which is not of the paper."""
    bits = values_by(rows, "bits_per_byte", part="model")
    found = [_order(rows, "ngram"), _order(rows, "m1"), _decodes(rows)]
    ratio = values_by(rows, "bytes_per_token", by="setting", part="ratio", entropy="ngram")
    packs = np.mean(ratio["compiled"]) / np.mean(ratio["ids"])
    ours = f"{packs:.3f}x the bytes per token (aim 1.10x)"
    found.append(Claim("compiled against greedy b16", "not in the paper", ours, "measured"))
    found += _learning(rows, bits)
    if _COMPILED in bits:
        for one, other in ((_COMPILED, _B16_WIDE), (_COMPILED, _BPE), ("compiled:2048", "bpe:2048")):
            ours = against(bits[one], bits[other])
            found.append(Claim(f"bits per byte of {one} against {other}", "not in the paper", ours, "measured"))
        found.append(
            Claim(
                "b16 has fewer bits per byte with 65,536 ids than with 256",
                "1.25 against 1.47 at 25M parameters",
                against(bits[_B16_WIDE], bits[_B16]),
                below(bits[_B16_WIDE], bits[_B16]),
            )
        )
    return tuple(found)


def _order(rows: Rows, entropy: str) -> Claim:
    """Judges the order of bytes per token, which has to hold for every seed."""
    ratio = values_by(rows, "bytes_per_token", by="setting", part="ratio", entropy=entropy)
    order = [name for name in _PAPER_RATIOS if name in ratio]
    held = all(a > b for one, other in itertools.pairwise(order) for a, b in zip(ratio[one], ratio[other], strict=True))
    paper = " > ".join(f"{name} {_PAPER_RATIOS[name]}" for name in order)
    ours = " > ".join(f"{name} {np.mean(ratio[name]):.2f}" for name in order)
    return Claim(f"order of bytes per token with {entropy}", paper, ours, if_held(held))


def _decodes(rows: Rows) -> Claim:
    """Judges whether b16 decodes. A sequence is many windows, so that fewer sequences than windows do."""
    wrong = values_by(rows, "misdecoded", by="setting", part="ratio", entropy="ngram", setting="b16")["b16"]
    ours = f"{shown(wrong, '.1%')} of windows do not"
    return Claim("b16 as published decodes", f"{_DECODE:.1%} of sequences", ours, if_held(max(wrong) <= 1 - _DECODE))


def _learning(rows: Rows, bits: Mapping[str, Sequence[float]]) -> Iterator[Claim]:
    """Judges of each model over bits of codes how far it gets below the uniform cost of its own test tokens."""
    costs = values_by(rows, "uniform_bits_per_byte", part="model")
    for name, claim, paper, learns in (
        (_AC, "AC teaches nothing", "1.46 bits per byte, uniform cost 1.457", False),
        (_NEVER, "b16 without resets teaches nothing", "1.501 bits per byte, its uniform cost", False),
        (_B16, "b16 is learnable", "1.47 bits per byte, uniform cost 3.008", True),
    ):
        if name in bits:
            uniform = float(np.mean(costs[name]))
            gain = 1 - np.mean(bits[name]) / uniform
            ours = f"{gain:.1%} below its uniform cost of {uniform:.3f} bits per byte"
            yield Claim(claim, paper, ours, if_held((gain > _NOTHING) == learns))
