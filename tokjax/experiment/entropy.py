"""Training runs as entropy models: what `tokjax train` made of bytes, `tokjax fit` codes with."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tokjax.coding.entropy import FittedEntropy
from tokjax.coding.neural import Transformer, to_tables
from tokjax.coding.saved import DESCRIPTION, save_entropy
from tokjax.core.errors import SpecError
from tokjax.data import load_source
from tokjax.experiment.run import load_model
from tokjax.systems.language.lm import Lm
from tokjax.text.bytes import Bytes
from tokjax.train.checkpoint import FOLDER, latest

EXPORTS = "entropy"


def export_entropy(run_directory: str | os.PathLike[str]) -> FittedEntropy:
    """Returns the model of the newest good checkpoint as an entropy model, whose context is the run's row.

    Raises:
      SpecError: the run trained something else than `lm` over bytes.
      SourceError: the text that it was trained on is not there.
      CheckpointError, TokenizerError: it has no checkpoint, or a damaged one.
    """
    model = load_model(run_directory)
    if not isinstance(model.system, Lm) or not isinstance(model.fitted.spec, Bytes):
        raise SpecError(
            f"entropy: {run_directory} trained {model.spec.system['name']!r} over {model.fitted.name!r}; an entropy "
            "model is `lm` over bytes, as of `tokjax train --config m1:small --workdir DIR`."
        )
    if model.system.embedding != "table":
        raise SpecError(f"entropy: {run_directory} trained embedding {model.system.embedding!r}; use 'table'.")
    spec = Transformer(
        backbone=model.system.backbone,
        context=model.spec.data.length,
        tied=model.system.tied,
    )
    first_bytes = np.zeros(256, np.int64)
    for record in load_source(model.spec.source).split("train"):
        first_bytes += np.bincount(np.frombuffer(record, np.uint8), minlength=256)
    return FittedEntropy("transformer", spec, to_tables(model.params, first_bytes))


def resolve(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a tokenizer, where `entropy` may name a training run, for `fit_tokenizer`.

    The run is exported to its `entropy/STEP`, once for each step that it was trained to, and the field names that.

    Raises:
      SpecError, CheckpointError, TokenizerError: as `export_entropy`.
      OutputError: the run's directory cannot be written.
    """
    fields = dict(fields)
    run_directory = Path(str(fields.get("entropy", "")))
    if "entropy" not in fields or not (run_directory / FOLDER).is_dir():
        return fields
    exported = run_directory / EXPORTS / f"{latest(run_directory):08d}"
    if not (exported / DESCRIPTION).exists():  # written last
        save_entropy(export_entropy(run_directory), exported)
    return {**fields, "entropy": str(exported)}
