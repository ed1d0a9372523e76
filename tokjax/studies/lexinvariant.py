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

from tokjax.core.errors import SourceError
from tokjax.core.files import read_json, write_text
from tokjax.core.registry import studies
from tokjax.core.spec import build
from tokjax.core.types import Params, Source
from tokjax.data import load_source
from tokjax.data.reasoning import Task
from tokjax.embed.lexinvariant import HUANG
from tokjax.experiment import run
from tokjax.experiment.compare import Interrupted
from tokjax.experiment.config import load_config
from tokjax.experiment.environment import describe
from tokjax.experiment.rates import SWEEP_FRACTION, best_rate, sweep_rates
from tokjax.measure.decipher import (
    Deciphered,
    decipher,
    fit_decipherer,
    key_accuracy,
    match_frequencies,
    stretches,
)
from tokjax.measure.exchangeable import fit_restaurant, history
from tokjax.measure.key_posterior import read_by_bayes
from tokjax.measure.ngrams import fit_ngram
from tokjax.studies.result import Claim, Result, Rows, Table, choose_sources, if_held, shown, values_by
from tokjax.systems.language.lm import Lm
from tokjax.train import OptimizerSpec, TrainSpec, fit, read_evaluations

_MODELS = ("standard", "lexinvariant")
_SOURCES = {"prose": "letters:joined:4096:pydocs", "code": "stdlib"}
_CIPHERS = "prose"  # the text that is enciphered
_TASKS = {"lookup": Task("lookup", 4, questions=12), "permutation": Task("permutation", 3)}
_FEWEST = 2  # of the sizes of a task that are trained on; answers are counted at the largest
TABLES = (
    Table("text", {"text": "text", "model": "model"}, {"bits/byte": "bits_per_byte", "parameters": "parameters"}),
    Table(
        "gap",
        {"text": "text", "from symbol": "first"},
        {
            "standard, nats": "standard",
            "lexinvariant, nats": "lexinvariant",
            "restaurant, nats": "reference",
            "trigrams, key unknown": "unknown",
            "trigrams, key known": "known",
            "gap": "gap",
            "symbols seen": "seen",
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
            "key right by trigrams": "key_by_trigrams",
            "text right by trigrams": "text_by_trigrams",
        },
    ),
    Table(
        "reasoning",
        {"task": "task", "model": "model", "symbols": "symbols"},
        {"accuracy": "accuracy", "guessing": "guessing"},
    ),
)
_SYMBOLS = 32  # of the tasks; models are trained on the first half
_TASK_RATE = 1e-3  # that the choice of a learning rate for a task begins at
_COUNTED = 20  # times the bytes of test documents: what trigrams are counted in
_BATCHES = 8  # of questions that answers are counted on
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
      readings: texts that trigrams decipher, and how slowly, 1 being as slowly as `read_by_bayes` does by itself.
      sweep: whether learning rates are chosen, or those of the recipe.
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
    readings: tuple[int, float]
    sweep: bool = True


_SCALES = {
    "smoke": _Scale("smoke", 128, 8, 20, 20, 16, 4, 300, 5_000, (2, 0.03), sweep=False),
    "small": _Scale("small", 256, 16, 300, 1500, 32, 64, 8000, 50_000, (16, 1.0)),
    "paper": _Scale("paper", 512, 256, 250_000, 20_000, 256, 1000, 50_000, 1_000_000, (64, 4.0)),
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
    for name in _MODELS:
        for text, address in texts.items():
            rows += _text(shape, text, address, name, seeds, directory / text / name, progress)
        for task in _TASKS:
            rows += _reasoning(shape, task, name, seeds, directory / task / name, progress)
    rows += list(_gaps(rows))
    result = Result(rows=rows, claims=claims(rows), environment=describe())
    result.write(directory)
    return result


def _text(
    shape: _Scale, text: str, address: str, name: str, seeds: int, directory: Path, progress: bool
) -> list[dict[str, Any]]:
    """Returns the rows of one kind of model on one text."""

    def train(where: str, rate: float, seed: int, steps: int) -> run.Model:
        return _train(shape, name, address, rate, seed, steps, directory / where, progress)

    def attempt(rate: float) -> float:
        where = f"{rate:.2e}"
        train(where, rate, 0, round(SWEEP_FRACTION * shape.steps))
        return read_evaluations(directory / where)[-1]["bits_per_byte"]

    base = load_config(f"lexinvariant:{shape.recipe}").optimizer.learning_rate
    rate = best_rate(sweep_rates(f"{name} on {text}", base, attempt)) if shape.sweep else base
    rows: list[dict[str, Any]] = []
    for seed in range(seeds):
        done = directory / f"{seed}.json"
        if not done.exists():
            model = train(str(seed), rate, seed, shape.steps)
            found = list(_measure(shape, model, load_source(address), name, text, seed))
            write_text(done, json.dumps({"rows": found}))
        found = read_json(done, needs=("rows",))["rows"]
        rows += [{"text": text, "model": name, "seed": seed, "learning_rate": rate, **row} for row in found]
    return rows


def _train(
    shape: _Scale, name: str, address: str, rate: float, seed: int, steps: int, workdir: Path, progress: bool
) -> run.Model:
    config = json.loads(load_config(f"lexinvariant:{shape.recipe}").to_json()) | {"source": address}
    config["system"] = _system(shape.recipe, name)
    config["data"] |= {"length": shape.length, "batch_size": shape.batch_size, "eval_bytes": shape.test_bytes}
    config["train"] |= {"seed": seed, "steps": steps, "eval_every": steps, "checkpoint_every": steps}
    config["optimizer"] |= {"learning_rate": rate, "warmup_steps": max(1, steps // 20)}
    model, interrupted = run.train_model(config, workdir, progress=progress)
    if interrupted:
        raise Interrupted(workdir)
    return model


def _system(recipe: str, name: str) -> dict[str, Any]:
    """Fields of a model's system: of equal size, and a standard one starts as standard ones do."""
    fields = load_config(f"lexinvariant:{recipe}").to_dict()["system"]
    if name == "standard":
        return {"name": "lm", "embedding": "table", "backbone": fields["backbone"] | {"init": "random"}}
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
    yield from _by_position("position", place[~last], shape.length, nats=scored.nll[~last])
    if name != "lexinvariant":
        return
    vocab_size = model.system.vocab_size - 1
    train = run.sample_documents(source.split("train"), 2 * shape.test_bytes)
    # Where a model's row is full it starts anew half a row back, so the reference reads as much.
    rule = fit_restaurant([model.fitted.encode(raw)[: shape.length] for raw in train], vocab_size)
    texts = [model.fitted.encode(raw)[: shape.length] for raw in documents]
    places = np.concatenate([np.arange(len(ids)) for ids in texts])
    costs, seen = np.concatenate([rule.nll(ids, vocab_size) for ids in texts]), [history(ids)[1] for ids in texts]
    yield from _by_position("reference", places, shape.length, nats=costs, seen=np.concatenate(seen))
    found, priced = _read_by_trigrams(shape, model, source, texts, seed)
    yield from priced
    if text == _CIPHERS:
        yield {
            **_ciphers(shape, model, train, list(source.split("test")), seed),
            "key_by_trigrams": key_accuracy(found),
            "text_by_trigrams": float(np.mean([text.right for text in found])),
        }


def _read_by_trigrams(
    shape: _Scale, model: run.Model, source: Source, texts: Sequence[np.ndarray], seed: int
) -> tuple[list[Deciphered], list[dict[str, Any]]]:
    """Returns the beginnings of `texts`, deciphered, and what they cost by position with and without their keys."""
    counted = run.sample_documents(source.split("train"), _COUNTED * shape.test_bytes)
    encoded = [model.fitted.encode(raw) for raw in counted]
    trigrams, alphabet = fit_ngram(encoded, 3, model.system.vocab_size), np.unique(np.concatenate(encoded))
    count, slowness = shape.readings
    length = shape.length - 1
    begun = [ids[:length] for ids in texts if len(ids) >= length and np.isin(ids[:length], alphabet).all()][:count]
    if not begun:
        raise SourceError(f"{source.name}: no test document has {length} symbols that all occur in the training split.")
    lengths = [2**i - 1 for i in range(1, shape.length.bit_length()) if 2**i <= shape.length]
    temperatures = max(1, round(slowness * len(alphabet) ** 2))
    found, total = read_by_bayes(
        np.stack(begun), trigrams, alphabet, lengths=lengths, seed=seed, temperatures=temperatures
    )
    known = np.mean([-np.cumsum(trigrams.log_probabilities(ids))[np.array(lengths) - 1] for ids in begun], axis=0)
    symbols = np.diff(lengths, prepend=0)
    nats = {"unknown": total.mean(axis=0), "known": known}
    each = {name: np.diff(of, prepend=0.0) / symbols for name, of in nats.items()}
    return found, [
        {"part": "trigrams", "first": first, **{name: float(of[i]) for name, of in each.items()}}
        for i, first in enumerate(symbols.tolist())
    ]


def _by_position(part: str, place: np.ndarray, length: int, **values: np.ndarray) -> Iterator[dict[str, Any]]:
    """Yields the means of symbols at places [2^i, 2^(i+1)) of their document, up to `length`."""
    first = 1
    while first < length:
        here = (place + 1 >= first) & (place + 1 < 2 * first)
        if here.any():
            yield {"part": part, "first": first, **{name: float(of[here].mean()) for name, of in values.items()}}
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


def _reasoning(
    shape: _Scale, task: str, name: str, seeds: int, directory: Path, progress: bool
) -> list[dict[str, Any]]:
    """Trains on a task over half of the symbols; returns the accuracy of answers over them and over the others."""
    fields = _system(shape.recipe, name)
    sized = {"vocab_size": _SYMBOLS + 1, "backbone": fields["backbone"], "embedding": fields["embedding"]}
    system = build(Lm, sized)
    score = jax.jit(system.score)
    halves = dict(zip(("seen", "unseen"), np.split(np.arange(_SYMBOLS), 2), strict=True))
    asked = _TASKS[task]

    def train(where: str, rate: float, seed: int, steps: int) -> Params:
        def batch(step: int) -> Any:
            generator = np.random.default_rng([seed, 0, step])
            return asked.batch(generator, shape.task_rows, halves["seen"], _SYMBOLS, _FEWEST)

        state = fit(
            system, batch, TrainSpec(steps=steps, checkpoint_every=steps, seed=seed),
            OptimizerSpec(learning_rate=rate, warmup_steps=max(1, steps // 20)), workdir=directory / where,
            config={"task": task, "model": name, "seed": seed, "steps": steps, "rate": rate}, progress=progress,
        )  # fmt: skip
        if state.stopped:
            raise Interrupted(directory / where)
        return state.params

    def answers(params: Params, symbols: np.ndarray, stream: int) -> tuple[float, float]:
        """The share of right answers and their mean cost in nats."""
        right = cost = total = 0.0
        for step in range(_BATCHES):
            batch = asked.batch(np.random.default_rng([stream, step]), shape.task_rows, symbols, _SYMBOLS)
            scores = score(params, batch)
            right, cost = right + float(scores.correct.sum()), cost + float(scores.nll.sum())
            total += float(batch.loss_mask.sum())
        return right / total, cost / total

    def attempt(rate: float) -> float:
        return answers(train(f"{rate:.2e}", rate, 0, round(SWEEP_FRACTION * shape.task_steps)), halves["seen"], 1)[1]

    rate = best_rate(sweep_rates(f"{name} at {task}", _TASK_RATE, attempt)) if shape.sweep else _TASK_RATE
    one = asked.batch(np.random.default_rng(0), shape.task_rows, halves["unseen"], _SYMBOLS)
    rows = []
    for seed in range(seeds):
        done = directory / f"{seed}.json"
        if not done.exists():
            params = train(str(seed), rate, seed, shape.task_steps)
            right = {symbols: answers(params, half, 2)[0] for symbols, half in halves.items()}
            write_text(done, json.dumps(right))
        for symbols, accuracy in read_json(done, needs=halves).items():
            rows.append({
                "part": "reasoning", "task": task, "model": name, "seed": seed, "symbols": symbols,
                "accuracy": accuracy, "guessing": 1 / asked.size, "learning_rate": rate,
                "answers": _BATCHES * int(one.loss_mask.sum()),
            })  # fmt: skip
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
    return (*found, _converges(rows), _deciphers(rows), *(_reasons(rows, task) for task in _TASKS))


def _converges(rows: Rows) -> Claim:
    """The gap that theory speaks of, between the mean over all keys and the key, in a language that is known."""
    gap: dict[int, list[float]] = {}
    for row in rows:
        if row["part"] == "trigrams" and row["text"] == _CIPHERS:
            gap.setdefault(row["first"], []).append(math.expm1(row["unknown"] - row["known"]))
    early, late = sorted(gap)[1], max(gap)
    closes = max(gap[late]) < 1 and all(b < a for a, b in zip(gap[early], gap[late], strict=True))
    return Claim(
        f"in theory, the gap closes to below 1x: all keys against the right one, by trigrams, on {_CIPHERS}",
        "9x to below 1x within 512, for the model",
        f"{shown(gap[early], '.2f')}x at symbol {early}, {shown(gap[late], '.2f')}x from symbol {late} on",
        if_held(closes),
    )


def _deciphers(rows: Rows) -> Claim:
    fields = ("key_accuracy", "key_by_frequency", "key_by_trigrams")
    keys, frequency, bayes = (values_by(rows, field, by="text", part="cipher")[_CIPHERS] for field in fields)
    ours = (
        f"{shown(keys, '.1%')} of the symbols; {shown(frequency, '.1%')} by frequency alone, {shown(bayes, '.1%')} by "
        "trigrams"
    )
    return Claim("a probe recovers the key of a cipher", f"{_KEYS:.1%}", ours, if_held(min(keys) >= _KEYS))


def _reasons(rows: Rows, task: str) -> Claim:
    right = values_by(rows, "accuracy", by="model", part="reasoning", task=task, symbols="unseen")
    ours, theirs, guessing = right["lexinvariant"], right["standard"], 1 / _TASKS[task].size
    answers = min(row["answers"] for row in rows if row["part"] == "reasoning" and row["task"] == task)
    luck = 3 * math.sqrt(guessing * (1 - guessing) / answers)  # of who guesses, in three standard errors
    return Claim(
        f"better at {task} over new symbols than the standard model, and than lucky guesses among the symbols shown",
        "about 4x as often right, trained on text",
        f"{shown(ours, '.1%')} against {shown(theirs, '.1%')} right; guessing {guessing:.0%}",
        if_held(min(ours) > max(*theirs, guessing + luck)),
    )


def _gaps(rows: Rows) -> Iterator[dict[str, Any]]:
    """Yields the models and the reference side by side, by position."""
    for seed in sorted({row["seed"] for row in rows}):
        for text in ("prose", "code"):
            reference, seen = (
                _values(rows, field, "reference", text, "lexinvariant", seed) for field in ("nats", "seen")
            )
            unknown, known = (
                _values(rows, field, "trigrams", text, "lexinvariant", seed) for field in ("unknown", "known")
            )
            for first, gap in gap_by_position(rows, text, seed).items():
                models = {
                    name: _values(rows, "nats", "position", text, name, seed)[first]
                    for name in ("standard", "lexinvariant")
                }
                yield {"part": "gap", "text": text, "seed": seed, "first": first, **models,
                       "reference": reference.get(first), "seen": seen.get(first), "gap": gap,
                       "unknown": unknown.get(first), "known": known.get(first)}  # fmt: skip


def gap_by_position(rows: Rows, text: str, seed: int) -> dict[int, float]:
    """Returns, for each range of positions, how far the lexinvariant perplexity is above the standard one, over it."""

    ours, theirs = (_values(rows, "nats", "position", text, model, seed) for model in ("lexinvariant", "standard"))
    return {first: math.expm1(ours[first] - theirs[first]) for first in sorted(ours.keys() & theirs.keys())}


def _values(rows: Rows, field: str, part: str, text: str, model: str, seed: int) -> dict[int, float]:
    wanted = {"part": part, "text": text, "model": model, "seed": seed}
    return {row["first"]: row[field] for row in rows if wanted.items() <= row.items()}
