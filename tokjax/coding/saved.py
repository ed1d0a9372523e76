"""Entropy models on disk, and the check that codes are decoded by the program that wrote them."""

import hashlib
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tokjax.coding.entropy import FittedEntropy, entropy_models
from tokjax.core.errors import CheckpointError, SpecError, TokenizerError, UnknownNameError
from tokjax.core.files import read_json, write_bytes, write_text
from tokjax.core.spec import build, to_dict

DESCRIPTION = "model.json"
TABLES = "tables.npz"
FORMAT = 1


def save_entropy(fitted: FittedEntropy, directory: str | os.PathLike[str]) -> None:
    """Writes `tables.npz`, then `model.json` with their hash, into `directory`; half of it does not load.

    Raises:
      OutputError: `directory` cannot be written.
    """
    archive = io.BytesIO()
    np.savez(archive, **fitted.tables)  # type: ignore[arg-type]
    description = {"format": FORMAT, "name": fitted.name, "spec": to_dict(fitted.spec), "hash": _hash(fitted)}
    write_bytes(Path(directory) / TABLES, archive.getvalue())
    write_text(Path(directory) / DESCRIPTION, json.dumps(description, indent=2) + "\n")


def load_entropy(directory: str | os.PathLike[str]) -> FittedEntropy:
    """Returns what `save_entropy` wrote.

    Raises:
      TokenizerError: there is none, it is damaged, or of a version that this one does not read.
    """
    path = Path(directory) / DESCRIPTION
    if not path.is_file():
        raise TokenizerError(
            f"{directory} holds no entropy model: {DESCRIPTION} is absent. Give the directory of a training run of "
            "`lm` over bytes, or the name of a model, as in ngram:order=5."
        )
    try:
        description = read_json(path, needs=("format", "name", "spec", "hash"))
        if description["format"] != FORMAT:
            raise TokenizerError(f"{path} has format {description['format']!r}; this version reads format {FORMAT}.")
        spec = build(entropy_models[description["name"]], description["spec"])
    except (CheckpointError, SpecError, UnknownNameError) as error:
        raise TokenizerError(f"{path} describes no entropy model ({error}). Export or copy it again.") from error
    fitted = FittedEntropy(description["name"], spec, _read_tables(path.with_name(TABLES)))
    if _hash(fitted) != description["hash"]:
        raise TokenizerError(
            f"{path.with_name(TABLES)}: its content has hash {_hash(fitted)}, but {DESCRIPTION} says "
            f"{description['hash']}. Export or copy it again."
        )
    return fitted


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


def _hash(fitted: FittedEntropy) -> str:
    digest = hashlib.sha256(json.dumps([fitted.name, to_dict(fitted.spec)], sort_keys=True).encode())
    for name in sorted(fitted.tables):
        array = fitted.tables[name]
        digest.update(f"\0{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def _read_tables(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: np.asarray(archive[name]) for name in archive.files}
    except Exception as error:  # damage surfaces as any of a dozen types from zipfile, zlib and numpy
        raise TokenizerError(f"{path} cannot be read: {error}. Export or copy the model again.") from error
