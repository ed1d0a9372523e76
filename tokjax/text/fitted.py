"""A tokenizer with its tables: what a run trains on, a checkpoint carries and a stream is encoded with."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from tokjax.core.errors import TokenizerError
from tokjax.core.registry import tokenizers
from tokjax.core.saved import Layout, content_hash
from tokjax.core.spec import build
from tokjax.core.types import Source, Tables, Tokenizer

if TYPE_CHECKING:
    from tokjax.text.imports import Pattern

DESCRIPTION = "tokenizer.json"
_LAYOUT = Layout(
    kind="tokenizer", description=DESCRIPTION, error=TokenizerError, remedy="Fit or copy the tokenizer again."
)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Fitted:
    """A tokenizer spec and the tables that fitting it gave. Two are the same when their `hash` is.

    Attributes:
      name: the registered name, or the kind of imported file.
      spec: the tokenizer.
      tables: its arrays; read-only.
    """

    name: str
    spec: Tokenizer
    tables: Tables

    def __post_init__(self):
        for array in self.tables.values():
            array.setflags(write=False)

    def encode(self, raw: bytes) -> np.ndarray:
        """Returns the int32 ids [T] of any bytes."""
        return self.spec.encode(self.tables, raw)

    def decode(self, ids: np.ndarray) -> bytes:
        """Returns the bytes that `ids` [T] stand for.

        Raises:
          TokenizerError: an id outside the vocabulary.
        """
        return self.spec.decode(self.tables, ids)

    def units(self, ids: np.ndarray) -> np.ndarray:
        """Returns how many bytes each of `ids` stands for, int32 [T]."""
        return self.spec.units(self.tables, ids)

    def safe_cut(self, raw: bytes) -> int:
        """Returns how much of `raw` can be encoded before what follows is known."""
        return self.spec.safe_cut(self.tables, raw)

    def safe_ids(self, ids: np.ndarray) -> int:
        """Returns how many of `ids` can be decoded before what follows is known."""
        return self.spec.safe_ids(self.tables, ids)

    def encode_many(self, documents: Iterable[bytes]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields (ids int32 [T], units int32 [T]) of each document, in order."""
        return self.spec.encode_many(self.tables, documents)

    @functools.cached_property
    def signature(self) -> dict[str, Any]:
        """What must be equal where its ids are decoded, beyond `hash`; empty if they decode anywhere."""
        return self.spec.signature(self.tables)

    @functools.cached_property
    def size(self) -> int:
        """The number of ids, end of document not included."""
        return self.spec.size(self.tables)

    @property
    def end_of_document(self) -> int:
        """The id after the last, which separates documents."""
        return self.size

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 over the name, the spec and the content of every table, 16 hex digits."""
        return content_hash(self.name, self.spec, self.tables)

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Writes `tables.npz`, then `tokenizer.json`, into `directory`, each under a temporary name first.

        The description carries the hash of the tables, so a directory that was left half-written does not load.

        Raises:
          OutputError: `directory` cannot be written.
        """
        _LAYOUT.save(pathlib.Path(directory), self.name, self.spec, self.tables)

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> "Fitted":
        """Reads what `save` wrote.

        Raises:
          TokenizerError: a file that is absent or damaged, or tables that are not those of the description.
        """
        directory = pathlib.Path(directory)
        name, spec, tables = _LAYOUT.load(directory, lambda name, fields: build(_spec_class(name), fields))
        return cls(name=name, spec=spec, tables=tables)


def fit_tokenizer(name: str, source: Source, *, key: jax.Array | None = None, **spec_fields: Any) -> Fitted:
    """Fits the registered tokenizer `name` to every record of `source`.

    Args:
      name: see `tokjax tokenizers`.
      source: the raw records.
      key: randomness, for the tokenizers that use it.
      **spec_fields: fields of the tokenizer's spec, such as `vocab_size=8192`.

    Raises:
      UnknownNameError: no such tokenizer.
      SpecError: an unknown field or an impossible value.
    """
    spec = build(tokenizers[name], spec_fields)
    return Fitted(name=name, spec=spec, tables=spec.fit(source, key))


def load_tokenizer(name_or_path: str | os.PathLike[str], *, pattern: "Pattern | None" = None) -> Fitted:
    """Returns a tokenizer that is ready to use.

    Args:
      name_or_path: a registered name that needs no fitting (`bytes`); a directory that `Fitted.save` wrote; or a
        file to import: a `tokenizer.json`, a `.tiktoken` rank file, a SentencePiece `.model`.
      pattern: for a `.tiktoken` file, how text is cut before its ranks apply; by default the one its name holds.

    Raises:
      TokenizerError: a name that must be fitted first, a path that does not exist, a damaged file.
    """
    name = os.fspath(name_or_path)
    path = pathlib.Path(name)
    if name in tokenizers:
        if tokenizers[name].needs_fit:
            sized = "vocab_size" in {field.name for field in dataclasses.fields(tokenizers[name])}
            raise TokenizerError(
                f"The tokenizer {name!r} must be fitted first: run `tokjax fit --tokenizer {name} --source pydocs "
                f"{'--vocab 8192 ' if sized else ''}--out DIR`, then give DIR in place of {name!r}."
                + (f" For the directory of that name, write ./{name}." if path.is_dir() else "")
            )
        spec = tokenizers[name]()
        return Fitted(name=name, spec=spec, tables=spec.fit(()))
    if path.is_dir():
        return Fitted.load(path)
    if path.is_file():
        from tokjax.text.imports import import_file

        kind, spec, tables = import_file(path, pattern=pattern)
        return Fitted(name=kind, spec=spec, tables=tables)
    known = ", ".join(tokenizers)
    raise TokenizerError(f"No tokenizer, directory or file is called {name!r}. Registered: {known}.")


def _spec_class(name: str) -> type[Tokenizer]:
    from tokjax.text.imports import IMPORTS

    return IMPORTS[name] if name in IMPORTS else tokenizers[name]
