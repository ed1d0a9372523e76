"""A fitted object on disk: a spec as JSON and its arrays beside it, tied together by a hash.

The arrays are written first and the description, which carries their hash, last: a directory that was left
half-written does not load.
"""

import dataclasses
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tokjax.core.errors import TokjaxError
from tokjax.core.files import write_bytes, write_text
from tokjax.core.spec import to_dict
from tokjax.core.types import Tables

TABLES = "tables.npz"
FORMAT = 1


def content_hash(name: str, spec: Any, tables: Tables) -> str:
    """Returns SHA-256 over the name, the spec and the content of every table, 16 hex digits."""
    digest = hashlib.sha256(json.dumps([name, to_dict(spec)], sort_keys=True).encode())
    for key in sorted(tables):
        array = tables[key]
        digest.update(f"\0{key}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one kind of object is saved.

    Attributes:
      kind: what it is, for messages.
      description: name of the JSON file.
      error: the type raised where it cannot be read.
      remedy: what a user does about a damaged one, as in "Fit or copy it again."
      absent: what a user does where there is none.
    """

    kind: str
    description: str
    error: type[TokjaxError]
    remedy: str
    absent: str = ""

    def save(self, directory: Path, name: str, spec: Any, tables: Tables) -> None:
        """Writes the object into `directory`, which is made.

        Raises:
          OutputError: `directory` cannot be written.
        """
        archive = io.BytesIO()
        np.savez_compressed(archive, **tables)  # type: ignore[arg-type]
        described = {"format": FORMAT, "name": name, "spec": to_dict(spec), "hash": content_hash(name, spec, tables)}
        write_bytes(directory / TABLES, archive.getvalue())
        write_text(directory / self.description, json.dumps(described, indent=2) + "\n")

    def load(self, directory: Path, build: Callable[[str, dict[str, Any]], Any]) -> tuple[str, Any, Tables]:
        """Returns (name, spec, tables) of what `save` wrote.

        Args:
          directory: where it is.
          build: (name, fields of the spec) -> the spec.

        Raises:
          `self.error`: it is absent or damaged, of another format, or its tables are not those of the description.
        """
        path = directory / self.description
        described = self._describe(path)
        try:
            spec = build(described["name"], described["spec"])
        except TokjaxError as error:
            raise self.error(f"{path} describes no {self.kind} of this version ({error}). {self.remedy}") from error
        tables = self._read_tables(directory / TABLES)
        actual = content_hash(described["name"], spec, tables)
        if actual != described["hash"]:
            raise self.error(
                f"{directory / TABLES}: its content has hash {actual}, but {self.description} says "
                f"{described['hash']}. It was changed or only half written. {self.remedy}"
            )
        return described["name"], spec, tables

    def _describe(self, path: Path) -> dict[str, Any]:
        try:
            described = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError) as error:
            absent = f"{path.parent} holds no {self.kind}: {path.name} is absent. {self.absent}"
            raise self.error(absent.rstrip()) from error
        except (OSError, ValueError) as error:
            raise self.error(f"{path} cannot be read: {error}. {self.remedy}") from error
        if not isinstance(described, dict) or not {"format", "name", "spec", "hash"} <= described.keys():
            raise self.error(f"{path} describes no {self.kind}: it lacks format, name, spec or hash. {self.remedy}")
        if described["format"] != FORMAT:
            raise self.error(f"{path} has format {described['format']!r}; this version reads format {FORMAT}.")
        if not isinstance(described["name"], str):
            raise self.error(f"{path}: name is {described['name']!r}, not a string. {self.remedy}")
        return described

    def _read_tables(self, path: Path) -> Tables:
        try:
            with np.load(path, allow_pickle=False) as archive:
                return {name: np.asarray(archive[name]) for name in archive.files}
        except Exception as error:  # damage surfaces as any of a dozen types from zipfile, zlib and numpy
            raise self.error(f"{path} cannot be read: {error}. {self.remedy}") from error
