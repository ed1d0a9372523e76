"""Learn Your Tokens at equal compute: what pooling words is worth for the next word, for rare ones and for numbers.

Thawani et al. 2023 say that word-pooled models predict the next word over 300% better than subword, character and byte
models, and rare words 30 times better. Their released evaluation draws validation spans at random from the whole corpus
and samples the baselines while it decodes its own model greedily. Here the documents are held out, every system is
decoded greedily from the true text before each word, and all had the same training FLOPs.
"""

import collections
import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from tokjax.core.files import read_json, write_text
from tokjax.core.registry import studies
from tokjax.core.types import Source
from tokjax.data import load_source
from tokjax.data.documents import open_documents
from tokjax.experiment import run
from tokjax.experiment.compare import CompareSpec, compare, run_directory
from tokjax.experiment.contenders import contender
from tokjax.measure.language import WORD_CAP, words_right
from tokjax.studies.result import Claim, Result, Rows, Table, below, choose_sources, if_held, shown, values_by
from tokjax.text import fit_tokenizer
from tokjax.text.splitter import split
from tokjax.text.unicode_tables import unicode_tables
from tokjax.text.word_units import LEARN_YOUR_TOKENS

_SOURCES = {"english": "pydocs", "russian": "", "chinese": ""}  # a role without an address is left out
_CLAIMED = "pooled characters"  # the paper's main setting
_BASELINES = ("bytes", "characters", "subwords")
_SMOKE = ("bytes", "subwords", _CLAIMED)
_CORE = (*_BASELINES, "whole words", _CLAIMED)
_SYSTEMS = {
    "bytes": "bytes",
    "characters": "characters:{ids}",
    "subwords": "bpe:{ids}",
    "whole words": "whole_words:{ids}",
    "hat": "hat",
    "pooled bytes": "word_pooled:base=bytes",
    _CLAIMED: "word_pooled:vocab_size={ids}",
    "pooled subwords": "word_pooled:base=bpe:vocab_size={ids}",
    "pooled characters, one prefix token": "word_pooled:vocab_size={ids}:system.prefixes=1",
}
TABLES = (
    Table(
        "model",
        {"language": "language", "model over": "system"},
        {
            "bits/byte": "bits_per_byte",
            "words right": "word_accuracy",
            "rare words right": "rare_accuracy",
            "numbers right": "number_accuracy",
            "steps": "steps",
            "parameters": "params",
        },
    ),
)
GROUPS = ("unseen", "1-9", "10-99", "100 or more", "numbers")  # of words by their count in the training text
_EDGES = (1, 10, 100)
_NUMBERS, _NEITHER = 4, -1
_RARE = 2  # the first groups
_BETTER, _RARE_BETTER = 3.0, 30.0  # "over 300%" in its weaker reading, and "a factor of 30"
_ROOM = 0.85  # rows have slots for the words of a text whose words are this much shorter than the sample's
_SAMPLE = 300_000  # bytes that the length of words is measured on


@dataclasses.dataclass(frozen=True)
class _Scale:
    """How much of everything.

    Attributes:
      budget: of each model.
      recipe: variant of the models' recipes; small models learn more from a small budget.
      systems: that are trained on the first language.
      elsewhere: those that are trained on the others too.
      ids: vocabulary of characters, subwords and whole words.
      context_bytes: that a model reads.
    """

    budget: str
    recipe: str
    systems: tuple[str, ...]
    elsewhere: tuple[str, ...]
    ids: int
    context_bytes: int


_SCALES = {
    "smoke": _Scale("3e10flops", "smoke", _SMOKE, _SMOKE, 512, 128),
    "small": _Scale("1e12flops", "smoke", tuple(_SYSTEMS), _CORE, 2048, 512),
    "paper": _Scale("1e19flops", "paper", tuple(_SYSTEMS), _CORE, 32_768, 4096),
}


@studies.register("word_pooled", papers=(LEARN_YOUR_TOKENS,))
def word_pooled(
    *, scale: str, seeds: int, directory: Path, progress: bool = True, sources: Mapping[str, str] = MappingProxyType({})
) -> Result:
    """Word-pooled models against bytes, characters, subwords, whole words and HAT at equal training FLOPs."""
    chosen = {role: address for role, address in choose_sources(sources, _SOURCES).items() if address}
    rows: list[dict[str, Any]] = []
    environment: dict[str, Any] = {}
    shape = _SCALES[scale]
    for language, address in chosen.items():
        systems = shape.elsewhere if rows else shape.systems
        found, environment = _language(shape, systems, address, seeds, directory / language, progress)
        rows += [{"part": "model", "language": language, **row} for row in found]
    result = Result(rows=rows, claims=claims(rows), environment=environment)
    result.write(directory)
    return result


def _language(
    shape: _Scale, systems: Sequence[str], address: str, seeds: int, directory: Path, progress: bool
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Returns the rows of one text, with accuracies by group of words, and the environment."""
    source = load_source(address)
    names = dict(_contenders(shape, systems, source, address))
    spec = CompareSpec(
        source=address,
        systems=tuple(names),
        budget=shape.budget,
        scale=shape.recipe,
        seeds=seeds,
        context_bytes=shape.context_bytes,
    )
    results = compare(spec, directory, progress=progress, say=print)
    documents = run.sample_documents(source.split("test"), spec.test_bytes)
    groups = word_groups(documents, source.split("train"))
    rows = []
    for row in results["rows"]:
        where = run_directory(directory, row["system"], row["learning_rate"], row["seed"])
        accuracies = _accuracies(where, documents, groups)
        rows.append({**row, "contender": row["system"], "system": names[row["system"]], **accuracies})
    return rows, results["environment"]


def _contenders(shape: _Scale, systems: Sequence[str], source: Source, address: str) -> Iterator[tuple[str, str]]:
    """Yields the name of each contender for `compare`, and what the study calls it.

    How many words a row has slots for follows from the text, by one rule for every system that has such a cap.
    """
    sample = run.sample_documents(source.split("train"), _SAMPLE)
    for system in systems:
        name = _SYSTEMS[system].format(ids=shape.ids)
        config = contender(name, source=address, scale=shape.recipe).config.to_dict()
        if "symbols_per_word" in config["system"]:
            name += f":system.symbols_per_word={max(1.0, _ROOM * symbols_per_word(config['tokenizer'], sample)):.2f}"
        yield name, system


def symbols_per_word(tokenizer: Mapping[str, Any], documents: Sequence[bytes]) -> float:
    """Returns the mean number of symbols up to a mark, marks included, if `documents` are tokenized as configured.

    Args:
      tokenizer: the registered `name` and the fields of a spec whose ids of no bytes are marks.
      documents: what it is fitted to and measured on; the end of each is one more mark.
    """
    fields = dict(tokenizer)
    fitted = fit_tokenizer(fields.pop("name"), open_documents("documents", documents), **fields)
    symbols = marks = len(documents)
    for ids, units in fitted.encode_many(documents):
        symbols += len(ids)
        marks += int((units == 0).sum())
    return symbols / marks


def word_groups(documents: Iterable[bytes], training: Iterable[bytes]) -> np.ndarray:
    """Returns int [W], the index in `GROUPS` of each of the splitter's words of `documents`; -1 for punctuation.

    Words are counted without white space and punctuation, so that a comma does not make a word rare.
    """
    counts = collections.Counter(core for raw in training for core in _cores(raw))

    def group(core: str) -> int:
        if not core:
            return _NEITHER
        if not any(map(str.isalpha, core)):
            return _NUMBERS
        return sum(counts[core] >= edge for edge in _EDGES)

    return np.array([group(core) for raw in documents for core in _cores(raw)], int)


def _cores(raw: bytes) -> Iterator[str]:
    """Yields the letters, marks and digits of each of the splitter's words."""
    import regex

    rest = regex.compile(r"[^\p{L}\p{M}\p{N}]+")
    for word in split(raw, WORD_CAP, unicode_tables()):
        yield rest.sub("", word.decode("utf-8", "ignore"))


def _accuracies(where: Path, documents: Sequence[bytes], groups: np.ndarray) -> dict[str, Any]:
    """Returns the share of words that the model in `where` gets right, of all and by group, and how many they are."""
    done = where / "words.json"
    if done.exists():
        return read_json(
            done, needs=("word_accuracy", "rare_accuracy", "number_accuracy", "group_accuracy", "group_words")
        )
    right = words_right(run.load_model(where).score(documents), documents)

    def share(of: np.ndarray) -> float | None:
        return float(right[of].mean()) if of.any() else None

    found = {
        "word_accuracy": share(groups != _NEITHER),
        "rare_accuracy": share((groups >= 0) & (groups < _RARE)),
        "number_accuracy": share(groups == _NUMBERS),
        "group_accuracy": {name: share(groups == index) for index, name in enumerate(GROUPS)},
        "group_words": {name: int((groups == index).sum()) for index, name in enumerate(GROUPS)},
    }
    write_text(done, json.dumps(found))
    return found


def claims(rows: Rows) -> tuple[Claim, ...]:
    """Judges both claims on every language.

    A claim holds where the 95% interval of the difference (Welch) leaves no doubt for any baseline, so never with a
    single seed. Rare words were seen fewer than ten times in training.
    """
    languages = list(dict.fromkeys(row["language"] for row in rows))
    found = [claim for language in languages for claim in _judged(rows, language)]
    for role in _SOURCES:
        if role not in languages:
            paper = "over 300% more next words, 30x the rare ones"
            found.append(Claim(f"{role}: both claims", paper, f"give --source {role}=ADDRESS", "not measured"))
    return tuple(found)


def _judged(rows: Rows, language: str) -> Iterator[Claim]:
    """Judges the claims on one language, and says where their direction holds, and who is best."""
    words, rare, bits = (
        _values(rows, language, field) for field in ("word_accuracy", "rare_accuracy", "bits_per_byte")
    )
    for values, what, factor, paper in (
        (words, "next words", _BETTER, "over 300% more"),
        (rare, "rare words", _RARE_BETTER, "30x"),
    ):
        ours, theirs = values[_CLAIMED], {name: values[name] for name in _BASELINES if name in values}
        against = ", ".join(f"{name} {_compared(seeds, ours)}" for name, seeds in theirs.items())
        yield Claim(
            f"{language}: over {factor:g}x as many {what} right with {_CLAIMED} as with {', '.join(theirs)}",
            paper,
            f"{shown(ours, '.1%')} against {against}",
            if_held(all(_exceeds(ours, seeds, factor) for seeds in theirs.values())),
        )
    beaten = [name for name in words if name != _CLAIMED and _exceeds(words[_CLAIMED], words[name], 1.0)]
    best, fewest = max(words, key=lambda name: np.mean(words[name])), min(bits, key=lambda name: np.mean(bits[name]))
    yield Claim(
        f"{language}: who gets most next words right, and who has the fewest bits per byte",
        "not given",
        f"{_CLAIMED} are ahead of {' and '.join(beaten) or 'none'} beyond the noise of seeds; most next words: {best} "
        f"{shown(words[best], '.1%')}; fewest bits per byte: {fewest} {shown(bits[fewest])}, {_CLAIMED} "
        f"{shown(bits[_CLAIMED])}",
        "measured",
    )


def _values(rows: Rows, language: str, field: str) -> dict[str, list[float]]:
    """The values of each system's seeds; a group without words in the test documents counts as 0."""
    found = values_by(rows, field, language=language)
    return {system: [value or 0.0 for value in seeds] for system, seeds in found.items()}


def _exceeds(ours: Sequence[float], theirs: Sequence[float], factor: float) -> bool:
    """Whether `ours` is above `factor` times `theirs` without doubt."""
    return below([factor * value for value in theirs], ours) == "reproduced"


def _compared(theirs: Sequence[float], ours: Sequence[float]) -> str:
    """Their share, and how many times that is ours."""
    ratio = f"{np.mean(ours) / np.mean(theirs):.2f}x" if np.mean(theirs) > 0 else "no ratio"
    return f"{shown(theirs, '.1%')} ({ratio})"
