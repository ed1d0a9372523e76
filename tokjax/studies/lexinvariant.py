"""What a model learns of a text in an alphabet that it has never seen.

Huang et al. 2023 report, for 150M parameters over characters of the Pile: the gap in perplexity to the standard model
falls from 9x to less than 1x within 512 characters, sooner on code than on prose; a probe recovers 99.6% of a
substitution cipher; accuracy on synthetic in-context reasoning is about 4x that of the standard model.
"""

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from tokjax.core.files import write_text
from tokjax.core.registry import studies
from tokjax.core.spec import build
from tokjax.core.types import Source
from tokjax.data import load_source
from tokjax.data.reasoning import Task
from tokjax.embed.lexinvariant import HUANG
from tokjax.experiment import run
from tokjax.experiment.compare import Interrupted
from tokjax.experiment.config import load_config
from tokjax.experiment.environment import describe
from tokjax.measure.decipher import decipher, fit_decipherer, key_accuracy, match_frequencies, stretches
from tokjax.measure.exchangeable import fit_restaurant
from tokjax.studies.result import Claim, Result, Rows, Table, choose_sources, if_held, shown, values_by
from tokjax.systems.language.lm import Lm
from tokjax.train import OptimizerSpec, TrainSpec, fit

_MODELS = ("standard", "lexinvariant")
_SOURCES = {"prose": "letters:joined:4096:pydocs", "code": "stdlib"}
_CIPHERS = "prose"  # the text that is enciphered
_TASKS = {"lookup": Task("lookup", 8), "permutation": Task("permutation", 4)}
TABLES = (
    Table("text", {"text": "text", "model": "model"}, {"bits/byte": "bits_per_byte", "parameters": "parameters"}),
    Table(
        "gap",
        {"text": "text", "from symbol": "first"},
        {
            "standard, nats": "standard",
            "lexinvariant, nats": "lexinvariant",
            "restaurant, nats": "reference",
            "gap": "gap",
        },
    ),
    Table(
        "cipher",
        {"text": "text"},
        {
            "symbols": "symbols",
            "key right": "key_accuracy",
            "text right": "text_accuracy",
            "key right by frequency": "key_by_frequency",
            "text right by frequency": "text_by_frequency",
        },
    ),
    Table(
        "reasoning",
        {"task": "task", "model": "model", "symbols": "symbols"},
        {"accuracy": "accuracy", "guessing": "guessing"},
    ),
)
_SYMBOLS = 64  # of the tasks; models are trained on the first half
_KEYS = 0.996  # of the symbols of ciphers, in the paper


@dataclasses.dataclass(frozen=True)
class _Scale:
    """How much of everything.

    Attributes:
      recipe: variant of the models' recipe.
      length: symbols of a row.
      batch_size: rows.
      steps: of training on text.
      task_steps: of training on a task.
      task_rows: rows of a batch of a task.
      texts: that are deciphered, and on which the probe is fitted.
      positions: that the probe is fitted on.
      test_bytes: of test documents.
    """

    recipe: str
    length: int
    batch_size: int
    steps: int
    task_steps: int
    task_rows: int
    texts: int
    positions: int
    test_bytes: int


_SCALES = {
    "smoke": _Scale("smoke", 128, 8, 20, 20, 16, 4, 300, 5_000),
    "small": _Scale("small", 256, 16, 500, 600, 32, 64, 8000, 50_000),
    "paper": _Scale("paper", 512, 256, 250_000, 20_000, 256, 1000, 50_000, 1_000_000),
}


@studies.register("lexinvariant", papers=(HUANG,))
def lexinvariant(
    *, scale: str, seeds: int, directory: Path, progress: bool = True, sources: Mapping[str, str] = MappingProxyType({})
) -> Result:
    """Lexinvariant models against standard ones: the gap by position, ciphers, in-context reasoning.

    Roles of `sources`: `prose`, which is enciphered too, and `code`.
    """
    shape = _SCALES[scale]
    texts = choose_sources(sources, _SOURCES)
    rows: list[dict[str, Any]] = []
    for seed in range(seeds):
        for text, address in texts.items():
            for name in _MODELS:
                done = directory / f"{text}-{name}-{seed}.json"
                if not done.exists():
                    model = _train(shape, name, address, seed, directory / text / name / str(seed), progress)
                    found = list(_measure(shape, model, load_source(address), name, text, seed))
                    write_text(done, json.dumps([{"text": text, "model": name, "seed": seed, **row} for row in found]))
                rows += json.loads(done.read_text())
        for task in _TASKS:
            for name in _MODELS:
                rows += _reasoning(shape, task, name, seed, directory / task / name / str(seed), progress)
    rows += list(_gaps(rows))
    result = Result(rows=rows, claims=claims(rows), environment=describe())
    result.write(directory)
    return result


def _train(shape: _Scale, name: str, address: str, seed: int, workdir: Path, progress: bool) -> run.Model:
    config = json.loads(load_config(f"lexinvariant:{shape.recipe}").to_json()) | {"source": address}
    config["system"] |= _system(shape.recipe, name)
    config["data"] |= {"length": shape.length, "batch_size": shape.batch_size, "eval_bytes": shape.test_bytes}
    config["train"] |= {"seed": seed, "steps": shape.steps, "eval_every": shape.steps, "checkpoint_every": shape.steps}
    config["optimizer"]["warmup_steps"] = max(1, shape.steps // 20)
    model, interrupted = run.train_model(config, workdir, progress=progress)
    if interrupted:
        raise Interrupted(workdir)
    return model


def _system(recipe: str, name: str) -> dict[str, Any]:
    """Fields of a model's system: of equal size, and a standard one starts as standard ones do."""
    fields = load_config(f"lexinvariant:{recipe}").to_dict()["system"]
    if name == "standard":
        return {"name": "lm", "embedding": "table", "draws": 1, "backbone": fields["backbone"] | {"init": "random"}}
    return fields


def _measure(
    shape: _Scale, model: run.Model, source: Source, name: str, text: str, seed: int
) -> Iterator[dict[str, Any]]:
    """Yields the cost by position of a model and of the reference, and what becomes of ciphers."""
    documents = run.sample_documents(source.split("test"), shape.test_bytes)
    scored = model.score(documents)
    place = np.arange(len(scored.nll)) - np.searchsorted(scored.document, scored.document)
    last = np.append(scored.document[1:] != scored.document[:-1], True)
    yield {
        "part": "text",
        "bits_per_byte": float(scored.nll.sum() / math.log(2) / scored.units.sum()),
        "parameters": sum(array.size for array in jax.tree.leaves(model.params)),
    }
    yield from _by_position(place[~last], scored.nll[~last], shape.length)
    if name != "lexinvariant":
        return
    vocab_size = model.system.vocab_size - 1
    train = run.sample_documents(source.split("train"), 2 * shape.test_bytes)
    # Where a model's row is full it starts anew half a row back, so the reference reads as much.
    rule = fit_restaurant([model.fitted.encode(raw)[: shape.length] for raw in train], vocab_size)
    costs = [rule.nll(model.fitted.encode(raw)[: shape.length], vocab_size) for raw in documents]
    places = np.concatenate([np.arange(len(cost)) for cost in costs])
    for row in _by_position(places, np.concatenate(costs), shape.length):
        yield {**row, "part": "reference"}
    if text == _CIPHERS:
        yield _ciphers(shape, model, train, list(source.split("test")), seed)


def _by_position(place: np.ndarray, nll: np.ndarray, length: int) -> Iterator[dict[str, Any]]:
    """Yields the mean cost in nats of symbols at places [2^i, 2^(i+1)) of their document, up to `length`."""
    first = 1
    while first < length:
        here = (place + 1 >= first) & (place + 1 < 2 * first)
        if here.any():
            yield {"part": "position", "first": first, "nats": float(nll[here].mean())}
        first *= 2


def _ciphers(
    shape: _Scale, model: run.Model, train: Sequence[bytes], test: Sequence[bytes], seed: int
) -> dict[str, Any]:
    system = model.system
    assert isinstance(system, Lm)
    length = shape.length - 1  # the end of the document stands before
    seen = stretches(map(model.fitted.encode, train), length, shape.texts)
    counts = np.bincount(np.concatenate([model.fitted.encode(raw) for raw in train]), minlength=system.vocab_size)
    alphabet = np.flatnonzero(counts)
    reader = fit_decipherer(system, model.params, seen, positions=shape.positions, seed=seed)
    texts = stretches(map(model.fitted.encode, test), length, shape.texts)
    texts = texts[np.isin(texts, alphabet).all(axis=1)]
    found = decipher(system, model.params, reader, texts, alphabet, seed=seed)
    by_frequency = match_frequencies(texts, counts)
    late = slice(3 * length // 4, None)
    return {
        "part": "cipher",
        "symbols": len(alphabet),
        "key_accuracy": key_accuracy(found),
        "text_accuracy": float(np.mean([text.right for text in found])),
        "late_position_accuracy": float(np.mean([(text.guessed == text.plain)[late] for text in found])),
        "most_frequent": float(counts.max() / counts.sum()),
        "key_by_frequency": key_accuracy(by_frequency),
        "text_by_frequency": float(np.mean([text.right for text in by_frequency])),
    }


def _reasoning(shape: _Scale, task: str, name: str, seed: int, workdir: Path, progress: bool) -> list[dict[str, Any]]:
    """Trains on a task over half of the symbols; returns the accuracy of answers over them and over the others."""
    done = workdir / "result.json"
    if done.exists():
        return json.loads(done.read_text())
    fields = _system(shape.recipe, name)
    sized = {"vocab_size": _SYMBOLS + 1, "backbone": fields["backbone"], "embedding": fields["embedding"]}
    system = build(Lm, sized)
    halves = np.split(np.arange(_SYMBOLS), 2)
    asked = _TASKS[task]

    def batch(step: int, symbols: np.ndarray = halves[0], stream: int = 0) -> Any:
        return asked.batch(np.random.default_rng([seed, stream, step]), shape.task_rows, symbols, _SYMBOLS)

    steps = shape.task_steps
    state = fit(
        system, batch, TrainSpec(steps=steps, checkpoint_every=steps, seed=seed),
        OptimizerSpec(learning_rate=3e-3, warmup_steps=max(1, steps // 20)),
        workdir=workdir, config={"task": task, "model": name, "seed": seed, "steps": steps}, progress=progress,
    )  # fmt: skip
    if state.stopped:
        raise Interrupted(workdir)
    score = jax.jit(system.score)
    rows = []
    for symbols, half in (("seen", halves[0]), ("unseen", halves[1])):
        results = [(score(state.params, b).correct.sum(), b.loss_mask.sum()) for b in
                   (batch(step, half, 1) for step in range(8))]  # fmt: skip
        right, total = (float(sum(column)) for column in zip(*results, strict=True))
        rows.append({
            "part": "reasoning", "task": task, "model": name, "seed": seed, "symbols": symbols,
            "accuracy": right / total, "guessing": 1 / asked.size,
        })  # fmt: skip
    write_text(done, json.dumps(rows))
    return rows


def claims(rows: Rows) -> tuple[Claim, ...]:
    """Judges each of the paper's claims on `rows`: it holds where it does for every seed."""
    seeds = sorted({row["seed"] for row in rows})
    gaps = {text: [gap_by_position(rows, text, seed) for seed in seeds] for text in ("prose", "code")}
    found = []
    for text, gap in gaps.items():
        firsts = sorted(gap[0])
        early, late = ([of_seed[first] for of_seed in gap] for first in (firsts[1], firsts[-1]))
        closes = all(b < a for a, b in zip(early, late, strict=True))
        ours = f"{shown(early, '.1f')}x at symbol {firsts[1]}, {shown(late, '.2f')}x from symbol {firsts[-1]} on"
        found.append(
            Claim(
                f"the gap in perplexity closes to below 1x on {text}",
                "9x to below 1x within 512",
                ours,
                if_held(closes and all(value < 1 for value in late)),
            )
        )
    last = max(set(gaps["code"][0]) & set(gaps["prose"][0]))
    code, prose = ([of_seed[last] for of_seed in gaps[text]] for text in ("code", "prose"))
    sooner = all(a < b for a, b in zip(code, prose, strict=True))
    ours = f"{shown(code, '.2f')}x on code, {shown(prose, '.2f')}x on prose from symbol {last} on"
    found.append(Claim("the gap closes sooner on code than on prose", "sooner", ours, if_held(sooner)))
    return (*found, _deciphers(rows), *(_reasons(rows, task) for task in _TASKS))


def _deciphers(rows: Rows) -> Claim:
    keys, frequency = (
        values_by(rows, field, by="text", part="cipher")[_CIPHERS] for field in ("key_accuracy", "key_by_frequency")
    )
    ours = f"{shown(keys, '.1%')} of the symbols; {shown(frequency, '.1%')} by frequency alone"
    return Claim("a probe recovers the key of a cipher", f"{_KEYS:.1%}", ours, if_held(min(keys) >= _KEYS))


def _reasons(rows: Rows, task: str) -> Claim:
    right = values_by(rows, "accuracy", by="model", part="reasoning", task=task, symbols="unseen")
    ours, theirs = right["lexinvariant"], right["standard"]
    return Claim(
        f"better at {task} over new symbols than the standard model",
        "about 4x as often right, trained on text",
        f"{shown(ours, '.1%')} against {shown(theirs, '.1%')} right",
        if_held(min(ours) > max(theirs)),
    )


def _gaps(rows: Rows) -> Iterator[dict[str, Any]]:
    """Yields the models and the reference side by side, by position."""
    for seed in sorted({row["seed"] for row in rows}):
        for text in ("prose", "code"):
            reference = _nats(rows, "reference", text, "lexinvariant", seed)
            for first, gap in gap_by_position(rows, text, seed).items():
                models = {
                    name: _nats(rows, "position", text, name, seed)[first] for name in ("standard", "lexinvariant")
                }
                yield {"part": "gap", "text": text, "seed": seed, "first": first, **models,
                       "reference": reference.get(first), "gap": gap}  # fmt: skip


def gap_by_position(rows: Rows, text: str, seed: int) -> dict[int, float]:
    """Returns, for each range of positions, how far the lexinvariant perplexity is above the standard one, over it."""

    ours, theirs = (_nats(rows, "position", text, model, seed) for model in ("lexinvariant", "standard"))
    return {first: math.expm1(ours[first] - theirs[first]) for first in sorted(ours.keys() & theirs.keys())}


def _nats(rows: Rows, part: str, text: str, model: str, seed: int) -> dict[int, float]:
    key = (part, text, model, seed)
    return {row["first"]: row["nats"] for row in rows if _key(row) == key}


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["part"], row.get("text"), row.get("model"), row["seed"]
