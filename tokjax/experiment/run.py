"""One run: source + tokenizer + system + optimizer, from a configuration to a trained, measurable model."""

import collections
import dataclasses
import functools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tokjax.core.errors import CheckpointError, OutputError, SourceError, SpecError
from tokjax.core.registry import systems, tokenizers
from tokjax.core.spec import build, check, to_dict
from tokjax.core.types import Batch, Params, Source
from tokjax.data import load_source
from tokjax.data.mixture import MixedText, Mixture
from tokjax.data.tokenized import TokenizedDocuments
from tokjax.data.windows import Text, sample, token_stream, train_batch
from tokjax.generate.bytewise import write
from tokjax.generate.decoding import stream
from tokjax.generate.sampling import SamplingSpec
from tokjax.measure.cost import train_flops_per_step
from tokjax.measure.language import Evaluation, ScoredText, evaluate, score_documents
from tokjax.objectives.language import LanguageSystem
from tokjax.sharding import MeshSpec, make_mesh, on_first, share_of_process
from tokjax.text.fitted import DESCRIPTION, Fitted, fit_tokenizer, load_tokenizer
from tokjax.train import OptimizerSpec, TrainSpec, fit, load_for_inference
from tokjax.train.checkpoint import read_metadata
from tokjax.train.host import only_run
from tokjax.train.state import TrainState


class Interrupted(Exception):
    """A run was stopped by a signal and has saved its state."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSpec:
    """Shape of batches and how much text.

    Attributes:
      length: T, positions of a row.
      batch_size: B, rows of a batch over all devices and hosts.
      eval_bytes: a fixed sample of validation documents of about so many bytes is scored during training.
    """

    length: int
    batch_size: int
    eval_bytes: int = 100_000

    def __post_init__(self):
        check(self.length >= 2, "data.length", self.length, "must be at least 2.")
        check(self.batch_size >= 1, "data.batch_size", self.batch_size, "must be at least 1.")
        check(self.eval_bytes >= 1, "data.eval_bytes", self.eval_bytes, "must be at least 1.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSpec:
    """Everything that determines a run.

    Attributes:
      source: address of the text, as of `load_source`.
      tokenizer: registered `name`, and the fields of its spec; or a path as the `name` of one that is ready; or
        nothing, for the tokenizer of a source whose ids are stored.
      system: registered `name`, and the fields of its spec but `vocab_size`, which the tokenizer determines.
    """

    source: str
    system: dict[str, Any]
    data: DataSpec
    optimizer: OptimizerSpec
    train: TrainSpec
    tokenizer: dict[str, Any] = dataclasses.field(default_factory=dict)
    mesh: MeshSpec = dataclasses.field(default_factory=MeshSpec)


@dataclasses.dataclass(frozen=True)
class Model:
    """A trained language model and what is needed to use it."""

    spec: RunSpec
    fitted: Fitted
    system: LanguageSystem
    params: Params
    step: int

    def evaluate(self, documents: Sequence[bytes]) -> Evaluation:
        """Bits per byte and company on whole documents."""
        shape = self.spec.data
        return evaluate(
            self.system, self.params, self.fitted, documents, length=shape.length, batch_size=shape.batch_size
        )

    def score(self, documents: Sequence[bytes]) -> ScoredText:
        """The cost of every target of `documents`."""
        shape = self.spec.data
        return score_documents(
            self.system, self.params, self.fitted, documents, length=shape.length, batch_size=shape.batch_size
        )

    def stream(
        self, prompt: str | bytes, *, steps: int = 200, seed: int = 0, sampling: SamplingSpec | None = None
    ) -> Iterator[bytes]:
        """Yields the bytes that follow `prompt` as they are drawn, until the document ends.

        Over words of bytes, as of `words`, they come in whole characters, in words that are the splitter's, as
        `generate.bytewise.write` draws them; from all other tokenizers symbol by symbol.

        Args:
          prompt: any text or bytes.
          steps: symbols to draw at most, marks such as ends of words included; what they cut short gives no bytes.
          seed: same seed, same text.
          sampling: temperature, top-k and top-p; among the possible symbols where the splitter leaves only some.

        Raises:
          SpecError: steps below 1.
        """
        check(steps >= 1, "steps", steps, "draw at least one symbol.")
        raw = prompt.encode() if isinstance(prompt, str) else prompt
        draw = self._stream_symbols if self.fitted.spec.word_cap is None else self._stream_characters
        return draw(raw, steps, jax.random.key(seed), sampling)

    def _stream_characters(
        self, prompt: bytes, steps: int, key: jax.Array, sampling: SamplingSpec | None
    ) -> Iterator[bytes]:
        characters = write(self.system, self.params, self.fitted, prompt, key, steps=steps, sampling=sampling)
        return (character.raw[character.given :] for character in characters if character.raw)

    def _stream_symbols(
        self, prompt: bytes, steps: int, key: jax.Array, sampling: SamplingSpec | None
    ) -> Iterator[bytes]:
        ids = self.fitted.encode(prompt)
        if self.fitted.spec.context_free and len(ids) and self.fitted.units(ids[-1:])[0] == 0:
            ids = ids[:-1]  # a closing mark: whether the last word goes on is for the model to say
        prompt_ids = [self.fitted.end_of_document, *ids.tolist()]
        pending = np.zeros(0, np.int64)
        for symbol in stream(self.system, self.params, prompt_ids, key, steps=steps, sampling=sampling):
            if symbol == self.fitted.end_of_document:
                break
            pending = np.append(pending, symbol)
            if ready := self.fitted.safe_ids(pending):
                yield self.fitted.decode(pending[:ready])
                pending = pending[ready:]
        # What is left of a code that was cut short, or that no text has, gives no bytes.

    def sample(self, prompt: str, **options: Any) -> str:
        """Returns `prompt` and what follows it, as text; arguments as of `stream`."""
        return (prompt.encode() + b"".join(self.stream(prompt, **options))).decode("utf-8", "replace")


def build_system(config: Mapping[str, Any], fitted: Fitted) -> LanguageSystem:
    """Returns the system that `config` describes, over the symbols of `fitted`.

    Raises:
      UnknownNameError, SpecError: no such system, no language model, or fields that do not fit it or the tokenizer.
    """
    fields = dict(config)
    if "name" not in fields:
        raise SpecError("system.name: missing; `tokjax systems` lists the names.")
    name = fields.pop("name")
    if not issubclass(systems[name], LanguageSystem):
        raise SpecError(f"system.name: {name!r} predicts no next symbol; use a language model, such as lm.")
    system = build(systems[name], {**fields, "vocab_size": fitted.size + 1}, where="system")
    system.accept(fitted.name, fitted.spec)
    return system


def prepare_tokenizer(config: Mapping[str, Any], source: Source, workdir: Path) -> Fitted:
    """Returns the tokenizer saved in `workdir`, or fits it on `source` and saves it there.

    Of several processes the first one does, and the others read what it saved. Where `name` is not registered but a
    path, the tokenizer saved or to be imported there is taken as it is; where nothing is configured, the one whose ids
    `source` stores.

    Raises:
      SpecError: no `name`, and a source of text alone.
      CheckpointError: the saved one has another name or other fields.
    """
    if jax.process_count() > 1:
        on_first(lambda: _prepare_tokenizer(config, source, workdir).hash)
        if not (workdir / "tokenizer" / DESCRIPTION).exists():
            raise OutputError(
                f"{workdir}: process {jax.process_index()} does not see the tokenizer that process 0 saved there. "
                "Choose a --workdir on a disk that all processes share."
            )
    return _prepare_tokenizer(config, source, workdir)


def _prepare_tokenizer(config: Mapping[str, Any], source: Source, workdir: Path) -> Fitted:
    fields, directory = dict(config), workdir / "tokenizer"
    if "entropy" in fields:
        from tokjax.experiment.entropy import resolve  # which loads runs itself

        fields = resolve(fields)
    stored = None if fields else _stored_tokenizer(source)
    if stored is None and "name" not in fields:
        raise SpecError("tokenizer.name: missing; `tokjax tokenizers` lists the names.")
    name = fields.pop("name", None)
    ready = stored or (load_tokenizer(name) if name not in tokenizers and Path(name).exists() else None)
    if not (directory / DESCRIPTION).exists():  # written last: without it, an earlier fit was cut short
        fitted = ready or fit_tokenizer(name, source, **fields)
        fitted.save(directory)
        return fitted
    fitted = Fitted.load(directory)
    saved = to_dict(fitted.spec)
    if ready is not None:
        if ready.hash != fitted.hash:
            raise CheckpointError(
                f"{directory} holds another tokenizer than {name or 'the source'}. Choose another --workdir."
            )
        return fitted
    if fitted.name != name or any(saved.get(field) != value for field, value in fields.items()):
        raise CheckpointError(
            f"{directory} holds {fitted.name} {saved}, not {name} {fields}. Choose another --workdir."
        )
    return fitted


def _stored_tokenizer(source: Source) -> Fitted | None:
    """Returns the tokenizer whose ids `source` stores, or all sources of a mixture store; None where there are none.

    Raises:
      SourceError: sources of a mixture store ids of different tokenizers.
    """
    if isinstance(source, TokenizedDocuments):
        return source.fitted
    if not isinstance(source, Mixture) or not all(isinstance(part, TokenizedDocuments) for part in source.parts):
        return None
    stored = {part.name: part.fitted for part in source.parts if isinstance(part, TokenizedDocuments)}
    if len({fitted.hash for fitted in stored.values()}) > 1:
        listed = ", ".join(f"{name} of {fitted.name} {fitted.hash}" for name, fitted in stored.items())
        raise SourceError(
            f"{source.name}: holds ids of different tokenizers: {listed}. Tokenize all with the same one."
        )
    return next(iter(stored.values()))


def training_stream(documents: Source, fitted: Fitted) -> Text:
    """Returns the ids of `documents`: as they are stored, where they are those of this tokenizer, else encoded now.

    Raises:
      SourceError: there are no documents, or their ids are streamed and of another tokenizer.
    """
    if isinstance(documents, Mixture):
        parts = tuple(training_stream(part, fitted) for part in documents.parts)
        return MixedText(parts=parts, weights=documents.weights)
    stored = documents.token_stream(fitted) if isinstance(documents, TokenizedDocuments) else None
    return token_stream(documents, fitted) if stored is None else stored


def sample_documents(source: Source, limit_bytes: int) -> list[bytes]:
    """Returns a fixed random sample of whole documents that hold about `limit_bytes`, or all of them.

    Of a mixture, each source gives its weight of the bytes.
    """
    return [raw for _, _, documents in sample_parts(source, limit_bytes) for raw in documents]


def sample_parts(source: Source, limit_bytes: int) -> list[tuple[str, float, list[bytes]]]:
    """Returns name, weight and sample of each source of a mixture, or of the only source; as `sample_documents`."""
    if isinstance(source, Mixture):
        return [
            (part.name, float(weight), documents)
            for part, weight in zip(source.parts, source.weights, strict=True)
            for _, _, documents in sample_parts(part, max(1, int(limit_bytes * weight)))
        ]
    iter(source)  # an empty split raises here, saying what to do
    return [(source.name, 1.0, [source[index] for index in sample(source, limit_bytes)])]


def train_model(
    config: Mapping[str, Any],
    workdir: str | os.PathLike,
    *,
    source: Source | None = None,
    text: Text | None = None,
    progress: bool = True,
) -> tuple[Model, str | None]:
    """Trains what `config` describes, or goes on where `workdir` stopped.

    Args:
      config: fields of a `RunSpec`.
      workdir: directory of the run.
      source: `config.source`, already opened.
      text: its training split, already encoded by the tokenizer in `workdir`.
      progress: show a progress bar.

    Returns:
      The model, and the signal that stopped training before its last step (after saving), or None.

    Raises:
      SpecError, UnknownNameError, SourceError: a configuration or text that cannot be trained on.
      CheckpointError: `workdir` holds another run, or only damaged checkpoints.
      OutputError: `workdir` cannot be written, or another process trains in it.
    """
    workdir = Path(workdir)
    config = json.loads(json.dumps(dict(config)))
    spec = build(RunSpec, config)
    with only_run(workdir):
        return _train(spec, config, workdir, source, text, progress)


def _train(
    spec: RunSpec,
    config: Mapping[str, Any],
    workdir: Path,
    source: Source | None,
    text: Text | None,
    progress: bool,
) -> tuple[Model, str | None]:
    source = load_source(spec.source) if source is None else source
    validation = source.split("valid")
    iter(validation)  # an empty split raises here, not after the first steps
    fitted = prepare_tokenizer(spec.tokenizer, source.split("train"), workdir)
    system = build_system(spec.system, fitted)
    text = training_stream(source.split("train"), fitted) if text is None else text

    mesh = make_mesh(spec.mesh)
    part, parts = share_of_process(mesh)

    def batch(step: int) -> Batch:
        shape = spec.data
        return train_batch(
            text, step, seed=spec.train.seed, batch_size=shape.batch_size, length=shape.length,
            host=part, hosts=parts,
        )  # fmt: skip

    held_out = functools.cache(lambda: sample_parts(validation, spec.data.eval_bytes))

    def validate(state: TrainState) -> dict[str, float]:
        shape, params, values = spec.data, state.inference_params, collections.defaultdict[str, float](float)
        for name, weight, documents in held_out():
            found = evaluate(system, params, fitted, documents, length=shape.length, batch_size=shape.batch_size)
            for metric in ("bits_per_byte", "next_word_accuracy"):
                values[metric] += weight * getattr(found, metric)
                if isinstance(validation, Mixture):
                    values[f"{metric}/{name.removesuffix('/valid')}"] = getattr(found, metric)
        return values

    state = fit(
        system, batch, spec.train, spec.optimizer,
        workdir=workdir, mesh=mesh, config=config, tables_hash=fitted.hash,
        evaluate=validate, flops=train_flops_per_step(system, spec.data.batch_size, spec.data.length),
        progress=progress,
    )  # fmt: skip
    interrupted_by = state.stopped if state.stopped != "time_limit" else None
    return Model(spec, fitted, system, state.inference_params, int(state.step)), interrupted_by


def load_model(workdir: str | os.PathLike) -> Model:
    """Returns the model of the newest good checkpoint in `workdir`.

    Raises:
      CheckpointError: none is there, or it was trained with another tokenizer.
      SpecError: the run is of no model of text.
      TokenizerError: its tokenizer is missing or damaged.
    """
    workdir = Path(workdir)
    params, config, step = load_for_inference(workdir)
    if "codes_of" in config or not issubclass(systems[config["system"]["name"]], LanguageSystem):
        raise SpecError(f"{workdir}: holds a run of {config['system']['name']!r} that is no model of text.")
    trained_with = read_metadata(workdir, step)["tables_hash"]
    spec = build(RunSpec, config)
    fitted = Fitted.load(workdir / "tokenizer")
    if fitted.hash != trained_with:
        raise CheckpointError(
            f"{workdir}: was trained with another tokenizer (tables {trained_with}) than the one there now "
            f"({fitted.hash}). Put the tokenizer of the run back."
        )
    return Model(spec, fitted, build_system(spec.system, fitted), params, step)
