"""Several ways of tokenizing one text, at equal compute: train each, tune each alike, report bits per byte.

Fairness, in one place: every contender reads rows of about the same bytes of context, spends the same budget, has its
learning rate chosen by the same rule on the validation split, and is scored on the same whole test documents.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from tokjax.core.files import only_user, read_json, write_text
from tokjax.core.spec import check, fingerprint
from tokjax.core.types import Source
from tokjax.data import load_source
from tokjax.data.windows import Text
from tokjax.experiment import run
from tokjax.experiment.budget import Budget
from tokjax.experiment.contenders import Contender, contender, folder, row_length
from tokjax.experiment.contest import (
    CURVE_POINTS,
    Entrant,
    affordable_steps,
    choose_rate,
    claim,
    run_directory,
    train_once,
)
from tokjax.experiment.environment import describe as describe_environment
from tokjax.experiment.rates import LEARNING_RATE_RULE, SWEEP_FRACTION
from tokjax.experiment.run import Interrupted
from tokjax.measure.cost import flops_per_byte, parameters, train_flops_per_step
from tokjax.text.fitted import Fitted

__all__ = ["CompareSpec", "Interrupted", "compare", "run_directory"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareSpec:
    """One comparison.

    Attributes:
      source: address of the text.
      systems: names as of `contenders.contender`.
      budget: as of `Budget.parse`.
      scale: variant of the recipes, 'smoke' or 'small'.
      seeds: runs of each system, with seeds 0, 1, ...
      context_bytes: text that a row holds, about.
      test_bytes: a fixed sample of test documents of about so many bytes is scored, all of them when there are fewer.
    """

    source: str
    systems: tuple[str, ...]
    budget: str
    scale: str = "small"
    seeds: int = 3
    context_bytes: int = 512
    test_bytes: int = 200_000

    def __post_init__(self):
        check(len(self.systems) >= 1, "--systems", self.systems, "name at least one.")
        check(len(set(self.systems)) == len(self.systems), "--systems", self.systems, "name each once.")
        check(self.seeds >= 1, "--seeds", self.seeds, "must be at least 1.")
        check(self.context_bytes >= 16, "--context-bytes", self.context_bytes, "must be at least 16.")
        Budget.parse(self.budget)


@dataclasses.dataclass(frozen=True)
class _Prepared(Entrant):
    """A way of tokenizing, fitted, and the text in its tokens."""

    source: Source
    fitted: Fitted
    text: Text
    metric: ClassVar[str] = "bits_per_byte"
    metric_in_words: ClassVar[str] = "bits/byte"
    least_data: ClassVar[dict[str, Any]] = {"eval_bytes": 1}

    @property
    def bytes_per_target(self) -> float:
        return self.text.bytes_per_pair

    def train(self, config: dict[str, Any], where: Path, *, progress: bool) -> tuple[run.Model, str | None]:
        return run.train_model(config, where, source=self.source, text=self.text, progress=progress)

    def flops_per_step(self) -> float:
        shape = self.config["data"]
        system = run.build_system(self.config["system"], self.fitted)
        return train_flops_per_step(system, shape["batch_size"], shape["length"])

    def data_per_step(self) -> float:
        shape = self.config["data"]
        return shape["batch_size"] * shape["length"] * self.bytes_per_target

    def prepare(self, where: Path) -> None:
        self.fitted.save(where / "tokenizer")


def compare(
    spec: CompareSpec, directory: Path, *, progress: bool = True, say: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Runs the comparison, or goes on with the one in `directory`; returns what `directory/results.json` holds.

    Args:
      spec: what to compare.
      directory: made if absent; keeps every run, so that an interrupted comparison goes on.
      progress: show a bar per run.
      say: takes a line per finished run.

    Raises:
      Interrupted: SIGINT or SIGTERM; the current run is saved.
      CheckpointError: `directory` holds a comparison with other settings.
      OutputError: `directory` cannot be written, or another process compares in it.
    """
    with only_user(directory):
        return _compare(spec, directory, progress, say)


def _compare(spec: CompareSpec, directory: Path, progress: bool, say: Callable[[str], None]) -> dict[str, Any]:
    contenders = [contender(name, source=spec.source, scale=spec.scale) for name in spec.systems]
    source = load_source(spec.source)
    documents = run.sample_documents(source.split("test"), spec.test_bytes)
    budget = Budget.parse(spec.budget)
    claim(directory, dataclasses.asdict(spec))
    rows: list[dict[str, Any]] = []
    sweep: list[dict[str, Any]] = []
    paragraph = _paragraph(documents)
    shown: dict[str, Any] = {}
    everything = [_prepare(entry, spec, source, directory) for entry in contenders]
    for prepared in everything:  # a budget too small for one is found before any is trained
        affordable_steps(prepared, budget.share(SWEEP_FRACTION))
    for prepared in everything:
        rate, tried = choose_rate(prepared, budget, directory, progress=progress, say=say)
        sweep += tried
        for seed in range(spec.seeds):
            row = _measured_run(prepared, spec, directory, rate, seed, documents, progress)
            rows.append(row)
            say(f"{prepared.name} seed {seed}: {row['bits_per_byte']:.3f} bits/byte in {row['seconds']:.0f} s")
        shown[prepared.name] = _tokens(run.load_model(run_directory(directory, prepared.name, rate, 0)), paragraph)
    results = {
        "format": 1,
        "settings": {**dataclasses.asdict(spec), "budget_kind": budget.kind,
                     "systems": list(spec.systems), "learning_rate_rule": LEARNING_RATE_RULE},
        "environment": describe_environment(),
        "data": _describe_data(source, documents),
        "rows": rows,
        "sweep": sweep,
        "paragraph": {"text": paragraph.decode("utf-8", "replace"), "systems": shown},
    }  # fmt: skip
    write_text(directory / "results.json", json.dumps(results, indent=1))
    return results


def _prepare(entry: Contender, spec: CompareSpec, source: Source, directory: Path) -> _Prepared:
    config = json.loads(entry.config.to_json())
    fitted = run.prepare_tokenizer(
        config["tokenizer"], source.split("train"), directory / "tokenizers" / folder(entry.name)
    )
    prepared = _Prepared(entry.name, config, source, fitted, run.training_stream(source.split("train"), fitted))
    config["data"]["length"] = row_length(spec.context_bytes, prepared.bytes_per_target)
    return prepared


def _measured_run(
    prepared: _Prepared,
    spec: CompareSpec,
    directory: Path,
    rate: float,
    seed: int,
    documents: Sequence[bytes],
    progress: bool,
) -> dict[str, Any]:
    """Trains one seed on the whole budget and scores it on the test documents; a row of the results."""
    where = run_directory(directory, prepared.name, rate, seed)
    done = where / "row.json"
    if done.exists():
        return read_json(done, needs=("system", "seed", "bits_per_byte", "seconds"))
    budget = Budget.parse(spec.budget)
    result = train_once(prepared, where, budget, rate, seed, evaluations=CURVE_POINTS, progress=progress)
    model = run.load_model(where)
    evaluation = model.evaluate(documents)
    shape = model.spec.data
    per_step = train_flops_per_step(model.system, shape.batch_size, shape.length)
    row = {
        "system": prepared.name,
        "model": prepared.config["system"]["name"],
        "tokenizer": prepared.fitted.name,
        "vocab_size": prepared.fitted.size + 1,
        "seed": seed,
        "bits_per_byte": evaluation.bits_per_byte,
        "bytes_per_token": evaluation.bytes_per_token,
        "next_word_accuracy": evaluation.next_word_accuracy,
        "train_flops": per_step * model.step,
        "flops_per_byte": flops_per_byte(model.system, shape.length, prepared.bytes_per_target),
        "params": parameters(model.system),
        "seconds": result["seconds"],
        "peak_memory_bytes": result["peak_memory_bytes"],
        "train_bytes": model.step * shape.batch_size * shape.length * prepared.bytes_per_target,
        "steps": model.step,
        "length": shape.length,
        "batch_size": shape.batch_size,
        "learning_rate": rate,
        "overflow": evaluation.overflow,
        "tokenizer_hash": prepared.fitted.hash,
        "by_position": [list(pair) for pair in evaluation.by_position],
        "curve": [[per_step * step, value] for step, value in result["curve"]],
        "source": spec.source,
        "split_hash": fingerprint([raw.hex() for raw in documents]),
        **describe_environment(),
    }
    write_text(done, json.dumps(row))
    return row


def _paragraph(documents: Sequence[bytes], size: int = 600) -> bytes:
    """Returns the first test document of at least `size` bytes, cut to whole characters; the longest when none is."""
    long_enough = [raw for raw in documents if len(raw) >= size]
    raw = (long_enough[0] if long_enough else max(documents, key=len))[:size]
    return raw.decode("utf-8", "ignore").encode() or raw


def _tokens(model: run.Model, paragraph: bytes) -> list[dict[str, Any]]:
    """Returns each token of `paragraph`, the end of the document included, with its cost in bits."""
    scored = model.score([paragraph])
    pieces = [paragraph[start : start + n] for start, n in zip(scored.start, scored.units, strict=True)]
    return [
        {"text": piece.decode("utf-8", "replace"), "hex": piece.hex(), "bits": round(nats / math.log(2), 4)}
        for piece, nats in zip(pieces, scored.nll, strict=True)
    ]


def _describe_data(source: Source, documents: Sequence[bytes]) -> dict[str, Any]:
    return {
        "documents": len(source),
        "bytes": sum(len(raw) for raw in source),
        "duplicates": source.duplicates,
        "fingerprint": source.fingerprint,
        "split_fingerprints": {name: source.split(name).fingerprint for name in ("train", "valid", "test")},
        "test_documents": len(documents),
        "test_bytes": sum(len(raw) for raw in documents),
    }
