"""Byte2Word's claim: on par with BERT at a tenth of its embedding parameters, robust to noise, and transferable.

Lee, Guo and Qiu 2022 claim it of GLUE after pre-training at the scale of BERT. At equal steps and equal backbone, three
encoders read the same rows: `byte2word`, `wordpiece` (BERT, whole words masked, one mask for each subword of a word)
and `wordpiece_one_mask`, which hides a word behind one mask as `byte2word` must. A masked word costs the bits of its
subwords and, with one mask, of how many there are; only the encoders with one mask are told equally little.

The probe is linear, on frozen mean states of documents: which package of the standard library a docstring is from.
Noise is of four kinds in turn (swap, drop, insert, case). For masked words it is in the words around them, each changed
on its own; for the probe it is in the whole text of a test document, before that is split into words.
"""

import collections
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from tokjax.core.files import read_json, write_text
from tokjax.core.registry import Paper, studies
from tokjax.core.types import Source
from tokjax.data import load_source
from tokjax.data.python_docs import docstring_packages
from tokjax.data.words import WordStream, change_words, word_stream
from tokjax.experiment.config import load_config
from tokjax.experiment.encoder import Encoder, train_encoder
from tokjax.experiment.environment import describe
from tokjax.experiment.rates import SWEEP_FRACTION, best_rate, sweep_rates
from tokjax.experiment.run import Interrupted, prepare_tokenizer, sample_documents
from tokjax.measure.cost import parameters, train_flops_per_step
from tokjax.measure.noise import KINDS, corrupt
from tokjax.measure.probe import fit_probe
from tokjax.measure.statistics import Estimate, welch
from tokjax.studies.result import (
    Claim,
    Result,
    Rows,
    Table,
    against,
    below,
    changes,
    choose_sources,
    judged,
    values_by,
)
from tokjax.text.fitted import Fitted
from tokjax.train import read_evaluations

BYTES, PIECES, ONE_MASK = "byte2word", "wordpiece", "wordpiece_one_mask"
_ENCODERS: dict[str, dict[str, Any]] = {
    BYTES: {"name": "byte2word"},
    PIECES: {"name": "wordpiece_encoder"},
    ONE_MASK: {"name": "wordpiece_encoder", "one_mask": True},
}
_WORDS = {"bits per masked word": "bits_per_word", "words right": "word_accuracy"}
TABLES = (
    Table(
        "cost",
        {"encoder": "system"},
        {"parameters": "params", "of these in the embedding": "embedding_params", "steps": "steps"},
    ),
    Table("masked", {"encoder": "system", "noise": "noise"}, _WORDS),
    Table("probe", {"encoder": "system", "noise": "noise"}, {"accuracy": "accuracy", "majority": "majority"}),
    Table("transfer", {"encoder": "system", "start": "start"}, _WORDS),
)
_RATES = (0.0, 0.1, 0.2, 0.3)
_PAR = 0.02  # of the baseline's bits: what may still be called on par
_FRACTION = 0.25  # of the steps: what training in another language takes


@dataclasses.dataclass(frozen=True)
class _Scale:
    """How much of everything.

    Attributes:
      steps: of training; None for those of the recipe.
      test_bytes: of documents whose words are predicted.
      probe_documents: that the probe is fitted to.
      packages: classes of the probe, those with most docstrings.
      sweep: whether the learning rate is chosen, or that of the recipe.
    """

    steps: int | None
    test_bytes: int
    probe_documents: int
    packages: int
    sweep: bool = True


_SCALES = {
    "smoke": _Scale(40, 4_000, 200, 4, sweep=False),
    "small": _Scale(None, 50_000, 3_000, 12),
    "paper": _Scale(None, 1_000_000, 3_000, 12),
}


@dataclasses.dataclass(frozen=True)
class _Study:
    """What every run of the study shares."""

    scale: str
    directory: Path
    progress: bool
    source: Source
    fitted: Fitted
    text: WordStream

    @property
    def amount(self) -> _Scale:
        return _SCALES[self.scale]

    def config(self, encoder: str) -> dict[str, Any]:
        """The recipe of an encoder, with as many steps as the study makes."""
        fields = _ENCODERS[encoder]
        config = json.loads(load_config(f"{fields['name']}:{self.scale}").to_json())
        config["system"] |= fields
        config["train"]["steps"] = self.amount.steps or config["train"]["steps"]
        return config

    def words(self, documents: Source | Sequence[bytes]) -> WordStream:
        """The words of `documents`, with the subwords of the study."""
        return word_stream(documents, self.fitted, cap=self.config(BYTES)["system"]["cap"])


@studies.register(
    "byte2word",
    papers=(
        Paper(
            title="Word-Level Representation From Bytes For Language Modeling",
            authors="Lee, Guo, Qiu",
            year=2022,
            url="https://arxiv.org/abs/2211.12677",
        ),
    ),
)
def byte2word(
    *, scale: str, seeds: int, directory: Path, progress: bool = True, sources: Mapping[str, str] = MappingProxyType({})
) -> Result:
    """Byte2Word against WordPiece encoders: masked words and a probe, clean and noisy, and transfer to a language."""
    addresses = choose_sources(sources, {"text": "pydocs", "language": ""})
    study = _prepare(scale, directory, progress, addresses["text"])
    language = load_source(addresses["language"]) if addresses["language"] else None
    test = study.words(sample_documents(study.source.split("test"), study.amount.test_bytes))
    noisy = {rate: change_words(test, _word_noise(rate), study.fitted) for rate in _RATES if rate}
    probe = _probe_task(study.amount)
    rows: list[dict[str, Any]] = []
    for encoder in _ENCODERS:
        learning_rate = _choose_rate(study, encoder)
        for seed in range(seeds):
            where = directory / "runs" / f"{encoder}-seed{seed}"
            done = where / "rows.json"
            if not done.exists():
                trained = _train(study, encoder, where, learning_rate=learning_rate, seed=seed)
                found = [_cost_row(trained, where), *_masked_rows(trained, test, noisy), *_probe_rows(trained, probe)]
                write_text(done, json.dumps({"rows": found}))
            found = read_json(done, needs=("rows",))["rows"]
            if language is not None:
                found = found + _transfer(study, encoder, learning_rate, seed, language, where)
            rows += [{"system": encoder, "seed": seed, "learning_rate": learning_rate, **row} for row in found]
    result = Result(rows=rows, claims=claims(rows), environment={**describe(), "sources": addresses})
    result.write(directory)
    return result


def _prepare(scale: str, directory: Path, progress: bool, address: str) -> _Study:
    recipe = load_config(f"byte2word:{scale}").to_dict()
    source = load_source(address)
    fitted = prepare_tokenizer(recipe["tokenizer"], source.split("train"), directory)
    text = word_stream(source.split("train"), fitted, cap=recipe["system"]["cap"])
    return _Study(scale, directory, progress, source, fitted, text)


def _train(
    study: _Study,
    encoder: str,
    where: Path,
    *,
    learning_rate: float,
    seed: int,
    fraction: float = 1.0,
    other: tuple[Source, WordStream] | None = None,
    init_from: Path | None = None,
) -> Encoder:
    """Trains for a fraction of the steps, on the study's text or another one."""
    config = study.config(encoder)
    steps = max(1, round(fraction * config["train"]["steps"]))
    config["train"] |= {"steps": steps, "seed": seed, "eval_every": steps}
    config["train"]["init_from"] = None if init_from is None else str(init_from)
    config["optimizer"] |= {"learning_rate": learning_rate, "warmup_steps": steps // 20}
    source, text = other or (study.source, study.text)
    config["source"] = source.name
    trained, interrupted = train_encoder(
        config, where, source=source, fitted=study.fitted, text=text, progress=study.progress
    )
    if interrupted:
        raise Interrupted(where)
    return trained


def _choose_rate(study: _Study, encoder: str) -> float:
    """Returns the learning rate with the fewest bits per word on the validation split."""
    base = study.config(encoder)["optimizer"]["learning_rate"]
    if not study.amount.sweep:
        return base

    def attempt(rate: float) -> float:
        where = study.directory / "sweep" / encoder / f"{rate:.2e}"
        _train(study, encoder, where, learning_rate=rate, seed=0, fraction=SWEEP_FRACTION)
        return read_evaluations(where)[-1]["bits_per_word"]

    return best_rate(sweep_rates(encoder, base, attempt))


def _cost_row(trained: Encoder, where: Path) -> dict[str, Any]:
    shape, system = trained.spec.data, trained.system
    return {
        "part": "cost",
        "params": parameters(system),
        "embedding_params": system.embedding_parameters(),
        "steps": trained.step,
        "train_flops": trained.step * train_flops_per_step(system, shape.batch_size, shape.length),
        "valid_bits_per_word": read_evaluations(where)[-1]["bits_per_word"],
    }


def _masked_rows(trained: Encoder, test: WordStream, noisy: Mapping[float, WordStream]) -> list[dict[str, Any]]:
    return [
        {"part": "masked", "noise": rate, **dataclasses.asdict(trained.evaluate(test, noisy.get(rate)))}
        for rate in _RATES
    ]


def _word_noise(rate: float) -> Callable[[bytes, int], bytes]:
    """Returns the noise of a word at its place; the space before it, and white space, stay."""

    def change(word: bytes, place: int) -> bytes:
        text = word.lstrip(b" ")
        if not text.strip():
            return word
        return word[: len(word) - len(text)] + corrupt(text, rate, KINDS[place % len(KINDS)], place)

    return change


@dataclasses.dataclass(frozen=True)
class _Probe:
    """Documents with labels, to fit to and to test on."""

    train: list[bytes]
    train_labels: np.ndarray
    test: list[bytes]
    test_labels: np.ndarray
    classes: int


def _probe_task(amount: _Scale) -> _Probe:
    """Labelled docstrings; those held out from pre-training, by the splits of `pydocs`, are the test."""
    source, packages = load_source("pydocs"), docstring_packages()
    common = [name for name, _ in collections.Counter(packages.values()).most_common(amount.packages)]

    def labelled(splits: Sequence[str]) -> tuple[list[bytes], np.ndarray]:
        texts = [raw for split in splits for raw in source.split(split) if packages.get(raw) in common]
        return texts, np.array([common.index(packages[raw]) for raw in texts], np.int64)

    train, train_labels = labelled(["train"])
    kept = np.argsort(np.random.Philox(key=0).random_raw(len(train)), kind="stable")[: amount.probe_documents]
    test, test_labels = labelled(["valid", "test"])
    return _Probe([train[i] for i in kept], train_labels[kept], test, test_labels, len(common))


def _probe_rows(trained: Encoder, probe: _Probe) -> list[dict[str, Any]]:
    fitted = fit_probe(trained.states(probe.train), probe.train_labels, probe.classes)
    majority = float(np.bincount(probe.test_labels).max() / len(probe.test_labels))
    rows = []
    for rate in _RATES:
        texts = [corrupt(raw, rate, KINDS[place % len(KINDS)], place) for place, raw in enumerate(probe.test)]
        accuracy = fitted.accuracy(trained.states(texts), probe.test_labels)
        rows.append({"part": "probe", "noise": rate, "accuracy": accuracy, "majority": majority})
    return rows


def _transfer(
    study: _Study, encoder: str, learning_rate: float, seed: int, language: Source, run: Path
) -> list[dict[str, Any]]:
    """Trains in another language from the weights in `run` and from none, with the subwords of the first language."""
    done = run / "transfer.json"
    if done.exists():
        return read_json(done, needs=("rows",))["rows"]
    text = study.words(language.split("train"))
    test = study.words(sample_documents(language.split("test"), study.amount.test_bytes))
    rows = []
    for start, weights in (("pretrained", run), ("scratch", None)):
        trained = _train(
            study, encoder, run.parent / f"{run.name}-{start}", learning_rate=learning_rate, seed=seed,
            fraction=_FRACTION, other=(language, text), init_from=weights,
        )  # fmt: skip
        found = dataclasses.asdict(trained.evaluate(test))
        rows.append({"part": "transfer", "language": language.name, "start": start, "steps": trained.step, **found})
    write_text(done, json.dumps({"rows": rows}))
    return rows


def claims(rows: Rows) -> tuple[Claim, ...]:
    """Judges each claim on `rows`, which hold only where the 95% interval over seeds leaves no doubt."""
    most = max(_RATES)
    bits, noisy = (values_by(rows, "bits_per_word", part="masked", noise=rate) for rate in (0.0, most))
    right, blurred = (values_by(rows, "accuracy", part="probe", noise=rate) for rate in (0.0, most))
    costlier, worse = changes(bits, noisy), changes(blurred, right)
    par, _ = welch(bits[BYTES], bits[ONE_MASK])
    room = _PAR * float(np.mean(bits[ONE_MASK]))
    return (
        Claim(
            f"a masked word costs {BYTES} as few bits as {ONE_MASK}, within {_PAR:.0%}",
            "on par with BERT at 10% of its embedding size",
            f"{against(bits[BYTES], bits[ONE_MASK])}, with {_share(rows, 'embedding_params')} of the embedding "
            f"parameters and {_share(rows, 'train_flops')} of the training FLOPs of {PIECES}",
            judged(Estimate((par.mean or 0.0) + room, par.half_width)),
        ),
        Claim(
            f"{most:.0%} noise around a masked word costs {BYTES} fewer bits than {ONE_MASK}",
            "robust to synthetic noise",
            f"bits added: {against(costlier[BYTES], costlier[ONE_MASK])}",
            below(costlier[BYTES], costlier[ONE_MASK]),
        ),
        Claim(
            f"the probe loses less to {most:.0%} noise with {BYTES} than with {PIECES}",
            "robust to synthetic noise",
            f"accuracy lost: {against(worse[BYTES], worse[PIECES])}, of {against(right[BYTES], right[PIECES])}",
            below(worse[BYTES], worse[PIECES]),
        ),
        _transfers(rows),
    )


def _transfers(rows: Rows) -> Claim:
    """Judges what a start from the first language's weights is worth in the other."""
    claim, paper = f"{BYTES} transfers to another language better than {ONE_MASK}", "transfers across languages"
    scratch, pretrained = (
        values_by(rows, "bits_per_word", part="transfer", start=start) for start in ("scratch", "pretrained")
    )
    if not scratch:
        return Claim(claim, paper, "give --source language=ADDRESS", "not measured")
    change = changes(scratch, pretrained)
    ours = f"bits per masked word added by the start: {against(change[BYTES], change[ONE_MASK])}"
    return Claim(claim, paper, ours, below(change[BYTES], change[ONE_MASK]))


def _share(rows: Rows, field: str) -> str:
    """What `byte2word` needs of a cost, as a share of what `wordpiece` needs."""
    cost = values_by(rows, field, part="cost")
    return f"{np.mean(cost[BYTES]) / np.mean(cost[PIECES]):.0%}"
