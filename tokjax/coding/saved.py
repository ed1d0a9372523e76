"""Entropy models on disk, and the check that codes are decoded by the program that wrote them."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokjax.coding.entropy import FittedEntropy, entropy_models
from tokjax.core.errors import TokenizerError
from tokjax.core.saved import Layout
from tokjax.core.spec import build

DESCRIPTION = "model.json"
_LAYOUT = Layout(
    kind="entropy model",
    description=DESCRIPTION,
    error=TokenizerError,
    remedy="Export or copy it again.",
    absent="Give the directory of a training run of `lm` over bytes, or the name of a model, as in ngram:order=5.",
)


def save_entropy(fitted: FittedEntropy, directory: str | os.PathLike[str]) -> None:
    """Writes `tables.npz`, then `model.json` with their hash, into `directory`; half of it does not load.

    Raises:
      OutputError: `directory` cannot be written.
    """
    _LAYOUT.save(Path(directory), fitted.name, fitted.spec, fitted.tables)


def load_entropy(directory: str | os.PathLike[str]) -> FittedEntropy:
    """Returns what `save_entropy` wrote.

    Raises:
      TokenizerError: there is none, it is damaged, or of a version that this one does not read.
    """
    return FittedEntropy(*_LAYOUT.load(Path(directory), lambda name, fields: build(entropy_models[name], fields)))


def check_signature(expected: Mapping[str, Any], actual: Mapping[str, Any]) -> None:
    """Raises unless the engine at hand computes what the one that encoded did; compares `Engine.signature`.

    Args:
      expected: as stored with the codes.
      actual: of the engine that is to decode them.

    Raises:
      TokenizerError: names every key that differs, and what to do.
    """
    differing = [
        f"{key}: {expected.get(key, 'nothing')!r} there, {actual.get(key, 'nothing')!r} here"
        for key in sorted(expected.keys() | actual.keys())
        if key not in expected or key not in actual or expected[key] != actual[key]
    ]
    if differing:
        raise TokenizerError(
            f"Encoded by another program than this one ({'; '.join(differing)}). Its counts would differ here, and the "
            "text with them. Decode with the same model, versions and kind of device, or encode the text again here."
        )
