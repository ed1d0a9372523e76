"""Several ways of tokenizing one text, at equal compute: train each, tune each alike, report bits per byte.

Fairness, in one place: every contender reads rows of about the same bytes of context, spends the same budget, has its
learning rate chosen by the same rule on the validation split, and is scored on the same whole test documents.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tokjax.core.errors import CheckpointError, NumericsError, SpecError
from tokjax.core.files import only_user, read_json, write_text
from tokjax.core.spec import check, fingerprint
from tokjax.core.types import Source
from tokjax.data import load_source
from tokjax.data.windows import TokenStream, token_stream
from tokjax.experiment import run
from tokjax.experiment.contenders import Budget, Contender, contender, folder, row_length
from tokjax.experiment.environment import describe as describe_environment
from tokjax.experiment.rates import LEARNING_RATE_RULE, SWEEP_FRACTION, best_rate, sweep_rates
from tokjax.experiment.run import Interrupted
from tokjax.measure.cost import (
    flops_per_byte,
    parameters,
    peak_memory_bytes,
    reset_peak_memory,
    train_flops_per_step,
)
from tokjax.text.fitted import Fitted
from tokjax.train import checkpoint, read_evaluations

CURVE_POINTS = 6  # evaluations of a full run, for the curve against FLOPs
MIN_STEPS = 4  # of the shortest run

_TRAINED = ("valid_bits_per_byte", "curve", "seconds", "peak_memory_bytes")  # what trained.json holds


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
class _Prepared:
    """A contender with everything that does not depend on seed or learning rate."""

    name: str
    config: dict[str, Any]
    source: Source
    fitted: Fitted
    text: TokenStream

    @functools.cached_property
    def seconds_per_step(self) -> float:
        return run.seconds_per_step(self.config, self.fitted, self.source, self.text)

    @property
    def bytes_per_target(self) -> float:
        return self.text.bytes / self.text.pairs


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
    _claim(directory, spec)
    rows: list[dict[str, Any]] = []
    sweep: list[dict[str, Any]] = []
    paragraph = _paragraph(documents)
    shown: dict[str, Any] = {}
    everything = [_prepare(entry, spec, source, directory) for entry in contenders]
    for prepared in everything:  # a budget too small for one is found before any is trained
        _affordable_steps(prepared, Budget.parse(spec.budget).share(SWEEP_FRACTION))
    for prepared in everything:
        rate, tried = _sweep(prepared, spec, directory, progress, say)
        sweep += tried
        for seed in range(spec.seeds):
            row = _measured_run(prepared, spec, directory, rate, seed, documents, progress)
            rows.append(row)
            say(f"{prepared.name} seed {seed}: {row['bits_per_byte']:.3f} bits/byte in {row['seconds']:.0f} s")
        shown[prepared.name] = _tokens(run.load_model(run_directory(directory, prepared.name, rate, 0)), paragraph)
    results = {
        "format": 1,
        "settings": {**dataclasses.asdict(spec), "budget_kind": Budget.parse(spec.budget).kind,
                     "systems": list(spec.systems), "learning_rate_rule": LEARNING_RATE_RULE},
        "environment": describe_environment(),
        "data": _describe_data(source, documents),
        "rows": rows,
        "sweep": sweep,
        "paragraph": {"text": paragraph.decode("utf-8", "replace"), "systems": shown},
    }  # fmt: skip
    write_text(directory / "results.json", json.dumps(results, indent=1))
    return results


def _claim(directory: Path, spec: CompareSpec) -> None:
    """Makes `directory` this comparison's own, or checks that it already is."""
    settings = json.loads(json.dumps(dataclasses.asdict(spec)))
    path = directory / "compare.json"
    if path.exists():
        before = read_json(path)
        # More systems or seeds go on from what is there; what shapes a run must be the same once there is one.
        fixed = settings.keys() - {"systems", "seeds"} if (directory / "sweep").exists() else {"source"}
        changed = [k for k in settings if k in fixed and settings[k] != before.get(k)]
        if changed:
            was = ", ".join(f"{k}={before.get(k)!r}" for k in changed)
            raise CheckpointError(f"--out {directory} holds a comparison with {was}. Choose another directory.")
    write_text(path, json.dumps(settings, indent=1))


def _prepare(entry: Contender, spec: CompareSpec, source: Source, directory: Path) -> _Prepared:
    config = json.loads(entry.config.to_json())
    fitted = run.prepare_tokenizer(
        config["tokenizer"], source.split("train"), directory / "tokenizers" / folder(entry.name)
    )
    prepared = _Prepared(entry.name, config, source, fitted, token_stream(source.split("train"), fitted))
    config["data"]["length"] = row_length(spec.context_bytes, prepared.bytes_per_target)
    return prepared


def _sweep(
    prepared: _Prepared, spec: CompareSpec, directory: Path, progress: bool, say: Callable[[str], None]
) -> tuple[float, list[dict[str, Any]]]:
    """Returns the best learning rate by `LEARNING_RATE_RULE`, and what was tried."""
    base = prepared.config["optimizer"]["learning_rate"]
    share = Budget.parse(spec.budget).share(SWEEP_FRACTION)

    def attempt(rate: float) -> float:
        where = directory / "sweep" / folder(prepared.name) / f"{rate:.2e}"
        try:
            result = _run(prepared, where, share, rate, 0, evaluations=1, progress=progress)
        except NumericsError:  # a rerun need not find it again
            result = dict.fromkeys(_TRAINED)
            write_text(where / "trained.json", json.dumps(result))
        bits = result["valid_bits_per_byte"]
        cost = math.inf if bits is None else bits
        say(f"{prepared.name} learning rate {rate:.2e}: {cost:.3f} bits/byte on validation")
        return cost

    tried = sweep_rates(prepared.name, base, attempt)
    best = best_rate(tried)
    listed = [
        {
            "system": prepared.name,
            "learning_rate": rate,
            "bits_per_byte": bits if math.isfinite(bits) else None,
            "best_at_an_end": best in (tried[0][0], tried[-1][0]),
        }
        for rate, bits in tried
    ]
    return best, listed


def run_directory(directory: Path, system: str, rate: float, seed: int) -> Path:
    """Returns where the comparison in `directory` keeps the run of a contender at a learning rate and seed."""
    return directory / "runs" / folder(system) / f"{rate:.2e}-seed{seed}"


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
    result = _run(prepared, where, Budget.parse(spec.budget), rate, seed, evaluations=CURVE_POINTS, progress=progress)
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


def _run(
    prepared: _Prepared, where: Path, budget: Budget, rate: float, seed: int, *, evaluations: int, progress: bool
) -> dict[str, Any]:
    """Trains in `where` unless that is done; returns `_TRAINED`."""
    done = where / "trained.json"
    if done.exists():
        return read_json(done, needs=_TRAINED)
    config = json.loads(json.dumps(prepared.config))
    planned = where / "config.json"
    if planned.exists():
        config = read_json(planned, needs=config)
    else:
        config["optimizer"]["learning_rate"] = rate
        config["train"]["seed"] = seed
        _plan_steps(prepared, config, budget, evaluations)
        prepared.fitted.save(where / "tokenizer")
        write_text(planned, json.dumps(config, indent=1))
    reset_peak_memory()
    model, interrupted = run.train_model(config, where, source=prepared.source, text=prepared.text, progress=progress)
    if interrupted:
        raise Interrupted(where)
    evaluations_made = read_evaluations(where)
    if not evaluations_made:
        raise CheckpointError(f"{where}: its logs are damaged. Delete this directory and give the command again.")
    curve = [(line["step"], line["bits_per_byte"]) for line in evaluations_made]
    seconds = checkpoint.read_metadata(where, model.step)["seconds"]
    result = dict(zip(_TRAINED, (curve[-1][1], curve, seconds, peak_memory_bytes()), strict=True))
    write_text(done, json.dumps(result))
    return result


def _affordable_steps(prepared: _Prepared, budget: Budget) -> int:
    """Returns the steps that spend `budget`.

    Raises:
      SpecError: fewer than `MIN_STEPS`.
    """
    shape = prepared.config["data"]
    if budget.kind == "flops":
        system = run.build_system(prepared.config["system"], prepared.fitted)
        cost = train_flops_per_step(system, shape["batch_size"], shape["length"])
    elif budget.kind == "bytes":
        cost = shape["batch_size"] * shape["length"] * prepared.bytes_per_target
    else:
        cost = prepared.seconds_per_step
    steps = budget.amount / cost
    if steps < MIN_STEPS:
        raise SpecError(
            f"--budget: {prepared.name} makes {steps:.1f} steps; give at least "
            f"{cost * MIN_STEPS / SWEEP_FRACTION:.2g} {budget.kind}, or a smaller --scale."
        )
    return round(steps)


def _plan_steps(prepared: _Prepared, config: dict[str, Any], budget: Budget, evaluations: int) -> None:
    """Sets the steps that spend `budget`, and the cadence of `evaluations` and checkpoints with them."""
    steps = _affordable_steps(prepared, budget)
    config["train"]["steps"] = steps
    config["train"]["eval_every"] = math.ceil(steps / evaluations)
    config["train"]["checkpoint_every"] = math.ceil(steps / 2)
    config["train"]["log_every"] = max(1, steps // 50)
    config["optimizer"]["warmup_steps"] = max(1, steps // 20)
    if budget.kind == "seconds":
        config["train"]["time_limit_s"] = budget.amount


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
