"""One run of an encoder of words: from a configuration to a trained model that can be measured."""

import dataclasses
import functools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tokjax.core.errors import CheckpointError, SourceError, SpecError
from tokjax.core.registry import systems
from tokjax.core.spec import build
from tokjax.core.types import Params, Source
from tokjax.data import load_source
from tokjax.data.mixture import unweighted
from tokjax.data.tokenized import TokenizedDocuments
from tokjax.data.word_rows import WordBatch, cut_rows, train_rows
from tokjax.data.words import WordStream, word_stream
from tokjax.experiment.run import RunSpec, prepare_tokenizer, sample_documents
from tokjax.measure.cost import train_flops_per_step
from tokjax.measure.masked import WordEvaluation, document_states, evaluate_words
from tokjax.objectives.masked import MaskedWordSystem
from tokjax.sharding import make_mesh, on_first, share_of_process
from tokjax.text.fitted import Fitted
from tokjax.train import fit, load_for_inference
from tokjax.train.checkpoint import read_metadata
from tokjax.train.host import only_run
from tokjax.train.state import TrainState


@dataclasses.dataclass(frozen=True)
class Encoder:
    """A trained encoder and what is needed to use it; rows have `spec.data.length` words."""

    spec: RunSpec
    fitted: Fitted
    system: MaskedWordSystem
    params: Params
    step: int

    def words(self, documents: Source | Sequence[bytes]) -> WordStream:
        """The words of `documents`, as `evaluate` takes them."""
        return word_stream(documents, self.fitted, cap=self.system.cap)

    def evaluate(self, stream: WordStream, inputs: WordStream | None = None) -> WordEvaluation:
        """Predicts every word of `stream` once; see `evaluate_words`."""
        shape = self.spec.data
        return evaluate_words(
            self.system, self.params, stream, length=shape.length, batch_size=shape.batch_size, inputs=inputs
        )

    def states(self, documents: Sequence[bytes]) -> np.ndarray:
        """The mean state of each document, float32 [documents, D]; see `document_states`."""
        shape = self.spec.data
        return document_states(
            self.system, self.params, self.words(documents), length=shape.length, batch_size=shape.batch_size
        )


def build_encoder(config: Mapping[str, Any], fitted: Fitted) -> MaskedWordSystem:
    """Returns the encoder that `config` describes, over the pieces of `fitted`.

    Raises:
      UnknownNameError, SpecError: no such system, no encoder, or fields that do not fit it.
    """
    fields = dict(config)
    if not is_encoder(fields):
        raise SpecError(f"system.name: {fields.get('name')!r} is no encoder of words; use byte2word.")
    return build(systems[fields.pop("name")], {**fields, "vocab_size": fitted.size}, where="system")


def is_encoder(config: Mapping[str, Any]) -> bool:
    """Whether the system that `config` names is an encoder of words.

    Raises:
      UnknownNameError, SpecError: no such system, or no name.
    """
    if "name" not in config:
        raise SpecError("system.name: missing; `tokjax systems` lists the names.")
    return issubclass(systems[config["name"]], MaskedWordSystem)


def train_encoder(
    config: Mapping[str, Any],
    workdir: str | os.PathLike[str],
    *,
    source: Source | None = None,
    fitted: Fitted | None = None,
    text: WordStream | None = None,
    progress: bool = True,
) -> tuple[Encoder, str | None]:
    """Trains what `config` describes, or goes on where `workdir` stopped.

    Args:
      config: fields of a `RunSpec`; `data.length` counts words.
      workdir: directory of the run.
      source: `config.source`, already opened.
      fitted: a tokenizer to use in place of `config.tokenizer`.
      text: the training split, already split into words and encoded.
      progress: show a progress bar.

    Returns:
      The encoder, and the signal that stopped training before its last step (after saving), or None.

    Raises:
      SpecError, UnknownNameError, SourceError: a configuration or text that cannot be trained on.
      CheckpointError: `workdir` holds another run, or only damaged checkpoints.
      OutputError: `workdir` cannot be written, or another process trains in it.
    """
    workdir = Path(workdir)
    config = json.loads(json.dumps(dict(config)))
    spec = build(RunSpec, config)
    with only_run(workdir):
        source = _in_memory(load_source(spec.source) if source is None else source, spec.system["name"])
        if fitted is None:
            fitted = prepare_tokenizer(spec.tokenizer, source.split("train"), workdir)
        else:
            on_first(functools.partial(fitted.save, workdir / "tokenizer"))
        return _train(spec, config, workdir, source, fitted, text, progress)


def _in_memory(source: Source, system: str) -> Source:
    """Returns `source`, unless it asks for what rows of words cannot do."""
    if isinstance(source, TokenizedDocuments) and source.streamed:
        raise SourceError(f"{source.name}: {system} holds all words in memory. Leave '?stream=true' out.")
    return unweighted(source, by=system)


def _train(
    spec: RunSpec,
    config: Mapping[str, Any],
    workdir: Path,
    source: Source,
    fitted: Fitted,
    text: WordStream | None,
    progress: bool,
) -> tuple[Encoder, str | None]:
    system, shape = build_encoder(spec.system, fitted), spec.data
    validation = source.split("valid")
    iter(validation)  # an empty split raises here, not after the first steps
    text = word_stream(source.split("train"), fitted, cap=system.cap) if text is None else text
    rows = cut_rows(text, system.row_shape(shape.length))

    mesh = make_mesh(spec.mesh)
    part, parts = share_of_process(mesh)

    def batch(step: int) -> WordBatch:
        return train_rows(
            rows, step, seed=spec.train.seed, batch_size=shape.batch_size, rate=system.mask_rate,
            host=part, hosts=parts,
        )  # fmt: skip

    held_out = functools.cache(
        lambda: word_stream(sample_documents(validation, shape.eval_bytes), fitted, cap=system.cap)
    )

    def validate(state: TrainState) -> dict[str, float]:
        params = state.inference_params
        found = evaluate_words(system, params, held_out(), length=shape.length, batch_size=shape.batch_size)
        return {"bits_per_word": found.bits_per_word, "word_accuracy": found.word_accuracy}

    state = fit(
        system, batch, spec.train, spec.optimizer,
        workdir=workdir, mesh=mesh, config=config, tables_hash=fitted.hash,
        evaluate=validate, flops=train_flops_per_step(system, shape.batch_size, shape.length), progress=progress,
    )  # fmt: skip
    interrupted_by = state.stopped if state.stopped != "time_limit" else None
    return Encoder(spec, fitted, system, state.inference_params, int(state.step)), interrupted_by


def load_encoder(workdir: str | os.PathLike[str]) -> Encoder:
    """Returns the encoder of the newest good checkpoint in `workdir`.

    Raises:
      CheckpointError: none is there, or it was trained with another tokenizer.
      TokenizerError: its tokenizer is missing or damaged.
    """
    workdir = Path(workdir)
    params, config, step = load_for_inference(workdir)
    spec, fitted = build(RunSpec, config), Fitted.load(workdir / "tokenizer")
    trained_with = read_metadata(workdir, step)["tables_hash"]
    if fitted.hash != trained_with:
        raise CheckpointError(
            f"{workdir}: was trained with another tokenizer (tables {trained_with}) than the one there now "
            f"({fitted.hash}). Put the tokenizer of the run back."
        )
    return Encoder(spec, fitted, build_encoder(spec.system, fitted), params, step)
