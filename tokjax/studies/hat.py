"""The claims of hierarchical models over subwords: robust to noise, quick to adapt, and better on words than patches.

Neitemeier et al. 2025 train models of 1B to 7B parameters at equal compute with a 64k BPE baseline and report better
robustness to perturbed prompts; German continued pre-training that is about twice as fast, ends better and forgets
less; and, with patches of 8 bytes in place of words, 2.7 points less on HellaSwag and 8.4 less on LAMBADA. Small models
do no such benchmarks, so here the claims are put to bits per byte and next words.
"""

import dataclasses
import itertools
import json
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tokjax.core.files import read_json, write_text
from tokjax.core.registry import studies
from tokjax.core.types import Source
from tokjax.data import load_source
from tokjax.experiment import run
from tokjax.experiment.compare import CompareSpec, Interrupted, compare, run_directory
from tokjax.experiment.contenders import folder
from tokjax.measure.noise import KINDS
from tokjax.measure.robustness import Passage, passages, robustness
from tokjax.measure.statistics import interval
from tokjax.studies.result import (
    Claim,
    Result,
    Rows,
    Table,
    below,
    changes,
    choose_sources,
    judged,
    listed,
    values_by,
)
from tokjax.text.words import HAT_PAPER
from tokjax.train import read_evaluations

PATCHES = "hat/patches:cap=8:system.cap=8:system.symbols_per_word=8"
LANGUAGES = ("german", "other_script")  # roles that may be left out
_LABELS = {PATCHES: "patches"}
TABLES = (
    Table(
        "english",
        {"system": "system"},
        {"bits/byte": "bits_per_byte", "next words right": "next_word_accuracy", "steps": "steps"},
        _LABELS,
    ),
    Table(
        "noise",
        {"system": "system", "noise": "kind", "rate": "rate"},
        {
            "bits/byte of the noised text": "noisy_bits_per_byte",
            "of clean text after it": "clean_bits_per_byte",
            "next words right after it": "next_word_accuracy",
        },
        _LABELS,
    ),
    Table(
        "adaptation",
        {"language": "role", "system": "system"},
        {
            "bits/byte before": "bits_before",
            "after": "bits_per_byte",
            "English before": "english_before",
            "English after": "english_after",
        },
    ),
)
_PASSAGE_SHARE = 0.6  # of the context that a model reads, so that a noised passage and its marks fit one row


@dataclasses.dataclass(frozen=True)
class _Scale:
    """How much of everything.

    Attributes:
      budget: of each English model, and again of each adaptation.
      recipe: variant of the models' recipes; small models learn more from a small budget.
      bpe: the subword contender.
      rates: of noise, edits per character.
      noise_bytes: of test documents whose passages are noised.
      test_bytes: of test documents of each language.
      context_bytes: that a model reads.
      curve: evaluations while a model adapts.
    """

    budget: str
    recipe: str
    bpe: str
    rates: tuple[float, ...]
    noise_bytes: int
    test_bytes: int
    context_bytes: int
    curve: int


_SCALES = {
    "smoke": _Scale("2e10flops", "smoke", "bpe:512", (0.1,), 5_000, 10_000, 128, 3),
    "small": _Scale("1e12flops", "smoke", "bpe:2048", (0.05, 0.1, 0.2), 50_000, 100_000, 512, 8),
    "paper": _Scale("1e20flops", "paper", "bpe:65536", (0.05, 0.1, 0.15, 0.2), 1_000_000, 1_000_000, 4096, 20),
}


@dataclasses.dataclass(frozen=True)
class _Language:
    """A language to adapt to: its role in the study, its address, and the text there."""

    role: str
    address: str
    source: Source


@studies.register("hat", papers=(HAT_PAPER,))
def hat(
    *, scale: str, seeds: int, directory: Path, progress: bool = True, sources: Mapping[str, str] = MappingProxyType({})
) -> Result:
    """Words of bytes against subwords, bytes and patches at equal training FLOPs: noise, and another language.

    Roles of `sources`: `text` (English; `pydocs`), `german` and `other_script`; a language not given is left out.
    """
    addresses = choose_sources(sources, {"text": "pydocs", **dict.fromkeys(LANGUAGES, "")})
    shape, english = _SCALES[scale], load_source(addresses["text"])
    languages = [
        _Language(role, addresses[role], load_source(addresses[role])) for role in LANGUAGES if addresses[role]
    ]
    spec = CompareSpec(
        source=addresses["text"],
        systems=("bytes", shape.bpe, "hat", PATCHES),
        budget=shape.budget,
        scale=shape.recipe,
        seeds=seeds,
        context_bytes=shape.context_bytes,
        test_bytes=shape.test_bytes,
    )
    compared = compare(spec, directory / "english", progress=progress, say=print)
    rows = [{"part": "english", **row} for row in compared["rows"]]
    noised = run.sample_documents(english.split("test"), shape.noise_bytes)
    texts = passages(noised, round(_PASSAGE_SHARE * shape.context_bytes))
    for row in compared["rows"]:
        rows += _noised(row, texts, shape.rates, directory)
    documents = run.sample_documents(english.split("test"), shape.test_bytes)
    adapting = [row for row in compared["rows"] if row["system"] in (shape.bpe, "hat")]
    for language, row in itertools.product(languages, adapting):
        rows.append(_adapted(row, language, documents, shape, directory, progress))
    result = Result(rows=rows, claims=claims(rows), environment=compared["environment"])
    result.write(directory)
    return result


def _noised(
    row: Mapping[str, Any], texts: Sequence[Passage], rates: Sequence[float], directory: Path
) -> list[dict[str, Any]]:
    """Returns what noise of every kind and rate costs the English model of `row`, and what clean text does."""
    done = directory / "noise" / f"{folder(row['system'])}-{row['seed']}.json"
    if not done.exists():
        model = run.load_model(_english_run(row, directory))
        settings = [("none", 0.0), *itertools.product(KINDS, rates)]
        found = [
            {**_names(row, "noise"), "kind": kind, "rate": rate}
            | dataclasses.asdict(robustness(model.score, texts, rate, kind if rate else KINDS[0]))
            for kind, rate in settings
        ]
        write_text(done, json.dumps({"rows": found}))
    return read_json(done, needs=["rows"])["rows"]


def _adapted(
    row: Mapping[str, Any],
    language: _Language,
    english: Sequence[bytes],
    shape: _Scale,
    directory: Path,
    progress: bool,
) -> dict[str, Any]:
    """Goes on with the English model of `row` in another language, for as many steps again; a row of the result.

    Tokenizer, learning rate and its schedule are those of the English run; the optimizer starts anew.
    """
    before = _english_run(row, directory)
    where = directory / "adapted" / language.role / f"{folder(row['system'])}-{row['seed']}"
    done = where / "adapted.json"
    if done.exists():
        return read_json(done, needs=("bits_per_byte", "english_after", "curve"))
    config = read_json(before / "config.json", needs=("train", "data"))
    steps = config["train"]["steps"]
    config["source"], config["tokenizer"] = language.address, {"name": str(before / "tokenizer")}
    config["train"] |= {"init_from": str(before), "eval_every": math.ceil(steps / shape.curve)}
    model, interrupted = run.train_model(config, where, source=language.source, progress=progress)
    if interrupted:
        raise Interrupted(where)
    start = run.load_model(before)
    test = run.sample_documents(language.source.split("test"), shape.test_bytes)
    held_out = run.sample_documents(language.source.split("valid"), model.spec.data.eval_bytes)
    after = model.evaluate(test)
    curve = [[line["step"] / steps, line["bits_per_byte"]] for line in read_evaluations(where)]
    found = {
        **_names(row, "adaptation"),
        "role": language.role,
        "fingerprint": language.source.fingerprint,
        "steps": steps,
        "bytes_per_token": after.bytes_per_token,
        "bits_before": start.evaluate(test).bits_per_byte,
        "bits_per_byte": after.bits_per_byte,
        "english_before": row["bits_per_byte"],
        "english_after": model.evaluate(english).bits_per_byte,
        "curve": [[0.0, start.evaluate(held_out).bits_per_byte], *curve],
    }
    write_text(done, json.dumps(found))
    return found


def _english_run(row: Mapping[str, Any], directory: Path) -> Path:
    return run_directory(directory / "english", row["system"], row["learning_rate"], row["seed"])


def _names(row: Mapping[str, Any], part: str) -> dict[str, Any]:
    return {"part": part, "system": row["system"], "seed": row["seed"]}


def claims(rows: Rows) -> tuple[Claim, ...]:
    """Judges each of the paper's claims on `rows`, as firmly as the interval over seeds allows."""
    (bpe,) = {row["system"] for row in rows if row["system"].startswith("bpe:")}
    adapted = itertools.chain.from_iterable(_adapts(rows, role, bpe) for role in LANGUAGES)
    return (*_robust(rows, bpe), *adapted, *_words_over_patches(rows))


def _robust(rows: Rows, bpe: str) -> Iterator[Claim]:
    """Judges what noise takes and adds, averaged over kinds and rates."""
    kept = _over_noise(rows, "next_word_accuracy", _ratio)
    added = _over_noise(rows, "clean_bits_per_byte", _difference)
    typed = _over_noise(rows, "noisy_bits_per_byte", _difference)
    for claim, what, values, lower, higher in (
        ("after a noised context hat keeps more of its right next words", "share kept", kept, bpe, "hat"),
        ("after a noised context clean text costs hat fewer additional bits", "bits/byte added", added, "hat", bpe),
        ("the noised text itself costs hat fewer additional bits", "bits/byte added", typed, "hat", bpe),
    ):
        ours = f"{what}: {listed(values, labels=_LABELS)}"
        yield Claim(f"{claim} than {bpe}", "more robust to noised prompts", ours, below(values[lower], values[higher]))


def _adapts(rows: Rows, role: str, bpe: str) -> Iterator[Claim]:
    """Judges how fast and how well hat and BPE learn the language of `role`, and how much English they forget."""
    curves, final, before, after = (
        values_by(rows, field, part="adaptation", role=role)
        for field in ("curve", "bits_per_byte", "english_before", "english_after")
    )
    if not curves:
        paper = "faster, better and with less forgetting in German"
        yield Claim(f"hat adapts better to {role}", paper, f"give --source {role}=ADDRESS", "not measured")
        return
    doublings = [math.log2(speed(*pair)) for pair in zip(curves["hat"], curves[bpe], strict=True)]
    yield Claim(
        f"hat adapts to {role} faster than {bpe}",
        "about 2 times as fast in German",
        f"{2 ** statistics.fmean(doublings):.2f} times as fast",
        judged(interval(doublings)),
    )
    yield Claim(
        f"hat ends better in {role} than {bpe}",
        "better in German",
        f"bits/byte: {listed(final)}",
        below(final["hat"], final[bpe]),
    )
    forgotten = changes(before, after)
    yield Claim(
        f"hat forgets less English in {role} than {bpe}",
        "less in German",
        f"English bits/byte added: {listed(forgotten)}",
        below(forgotten["hat"], forgotten[bpe]),
    )


def _words_over_patches(rows: Rows) -> Iterator[Claim]:
    """Judges what words are worth over patches of 8 bytes on the same architecture."""
    bits, right = (values_by(rows, field, part="english") for field in ("bits_per_byte", "next_word_accuracy"))
    paper = "patches lose 2.7 points on HellaSwag and 8.4 on LAMBADA"
    for what, values, lower, higher in (
        ("bits/byte", bits, "hat", PATCHES),
        ("next words right", right, PATCHES, "hat"),
    ):
        outcome = below(values[lower], values[higher])
        yield Claim(f"words beat patches in {what}", paper, listed(values, labels=_LABELS), outcome)


def speed(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> float:
    """Returns how many times as fast `ours` comes down to where `theirs` ends; below 1, how `theirs` does.

    Args:
      ours, theirs: (share of the budget spent, bits per byte) of each evaluation, from (0, before any) to (1, at last).
        Between two evaluations a curve is taken as straight, and before the first one as flat.
    """
    reached = _share_to_reach(ours, theirs[-1][1])
    if reached is not None:
        return 1 / reached
    return _share_to_reach(theirs, ours[-1][1]) or 1.0


def _share_to_reach(curve: Sequence[Sequence[float]], bits: float) -> float | None:
    """Returns the share of the budget at which `curve` first is at `bits` or below; None if never."""
    if curve[0][1] <= bits:
        return curve[1][0]
    for (before, high), (after, low) in itertools.pairwise(curve):
        if low <= bits:
            return before + (after - before) * (high - bits) / (high - low)
    return None


def _ratio(clean: float, noised: float) -> float:
    return noised / clean if clean else math.nan


def _difference(clean: float, noised: float) -> float:
    return noised - clean


def _over_noise(rows: Rows, field: str, effect: Callable[[float, float], float]) -> dict[str, list[float]]:
    """Returns, for each system and seed, `effect` of (the value on clean text, its mean over all noise)."""
    runs: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["part"] == "noise":
            runs.setdefault((row["system"], row["seed"]), []).append(row)
    found: dict[str, list[float]] = {}
    for (system, _), own in runs.items():
        (clean,) = (row[field] for row in own if not row["rate"])
        noised = statistics.fmean(row[field] for row in own if row["rate"])
        found.setdefault(system, []).append(effect(clean, noised))
    return found
