"""Documents: a source of distinct raw records, split by content, whatever it reads from."""

import contextvars
import dataclasses
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from tokjax.core import registry
from tokjax.core.errors import SourceError, nearest
from tokjax.data.address import open_address
from tokjax.data.splits import DIGEST_BYTES, SPLITS, digest, empty_split, fingerprint, first_of_each, split_numbers

# What `reopen_source` knows of the documents of the source that is being opened.
_found_earlier: contextvars.ContextVar[dict[str, np.ndarray] | None] = contextvars.ContextVar("found", default=None)


class Records(Protocol):
    """Raw records in their stored order, read on access."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> bytes: ...


@dataclasses.dataclass(kw_only=True, eq=False)
class Documents:
    """A `Source` over stored records. Only a digest and a size per document are kept in memory.

    Attributes:
      name: the address it was opened by; a split adds '/train', '/valid' or '/test'.
      records: where the bytes are read from.
      indices: int64 [N], the place of each document in `records`.
      digests: uint8 [N, 16], BLAKE2b of each document.
      sizes: int64 [N], bytes of each document.
      duplicates: how many exact duplicates were dropped when the source was opened.
      opened: documents in the whole source, of which a split holds some.
      advice: what to do when there are too few documents to split.
    """

    name: str
    records: Records
    indices: np.ndarray
    digests: np.ndarray
    sizes: np.ndarray
    duplicates: int
    opened: int
    advice: str = "Add documents"

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> bytes:
        self._require_documents()
        record = self.records[int(self.indices[index])]
        if digest(record) != self.digests[index].tobytes():
            raise SourceError(f"{self.name}: document {index} changed since the source was opened. Open it again.")
        return record

    def __iter__(self) -> Iterator[bytes]:
        self._require_documents()
        return (self[index] for index in range(len(self)))

    def split(self, name: str) -> "Documents":
        """Returns the documents whose digest falls in split `name`: 90 % train, 5 % valid, 5 % test.

        A split depends on the content of a document alone, so the same text is in the same split of every source.

        Raises:
          SourceError: no split has that name. An empty split raises when it is read.
        """
        if name not in SPLITS:
            raise SourceError(f"{self.name}: no split {name!r}.{nearest(name, SPLITS)}")
        chosen = np.flatnonzero(split_numbers(self.digests) == list(SPLITS).index(name))
        return dataclasses.replace(
            self,
            name=f"{self.name}/{name}",
            indices=self.indices[chosen],
            digests=self.digests[chosen],
            sizes=self.sizes[chosen],
        )

    @property
    def size(self) -> int:
        """Bytes of all documents."""
        return int(self.sizes.sum())

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the digests of all documents in order, 16 hex digits."""
        return fingerprint(self.digests)

    def _require_documents(self) -> None:
        if not len(self):
            raise empty_split(self.name, self.opened, "document", self.advice)


def open_documents(name: str, records: Records, *, advice: str = "Add documents") -> Documents:
    """Reads every record once, drops exact duplicates (the first is kept) and returns the `Documents`.

    Args:
      name: the address of the source, for messages.
      records: the raw records.
      advice: imperative clause without full stop: how a user of this source gets more documents.

    Raises:
      SourceError: there is no record, or all are empty.
    """
    if earlier := _found_earlier.get():
        count = len(earlier["indices"])
        return Documents(name=name, records=records, duplicates=0, opened=count, advice=advice, **earlier)
    digests, sizes = bytearray(), []
    for index in range(len(records)):
        record = records[index]
        digests += digest(record)
        sizes.append(len(record))
    if not any(sizes):
        found = f"{len(sizes)} records of 0 bytes" if sizes else "no records"
        raise SourceError(f"{name}: nothing to read, found {found}. {advice}.")
    found_digests = np.frombuffer(bytes(digests), np.uint8).reshape(-1, DIGEST_BYTES)
    kept = first_of_each(found_digests)
    return Documents(
        name=name,
        records=records,
        indices=kept,
        digests=found_digests[kept],
        sizes=np.asarray(sizes, np.int64)[kept],
        duplicates=len(sizes) - len(kept),
        opened=len(kept),
        advice=advice,
    )


def load_source(uri: str) -> Documents:
    """Opens the source at `uri`, which is NAME or SCHEME:REST, such as 'pydocs' or 'file:books/**/*.txt'.

    Raises:
      UnknownNameError: no source has that name or scheme.
      SourceError: the data is missing, empty or cannot be decoded.
    """
    return open_address(registry.sources, uri, files="file")


def open_inner(uri: str) -> Documents:
    """Opens the source that another one is made of, as `load_source` does."""
    token = _found_earlier.set(None)  # that is of the outer one
    try:
        return load_source(uri)
    finally:
        _found_earlier.reset(token)


def reopen_source(uri: str, *, indices: np.ndarray, digests: np.ndarray, sizes: np.ndarray) -> Documents:
    """Opens the source at `uri` again without reading every document, for processes that need few of them.

    Args:
      uri: as of `load_source`.
      indices: int64 [N], of some of the documents that opening it found, as the next two.
      digests: uint8 [N, 16].
      sizes: int64 [N].

    Returns:
      Those documents. Each is checked against its digest when it is read.

    Raises:
      UnknownNameError, SourceError: as of `load_source`, or there are fewer records than before.
    """
    found = {"indices": indices, "digests": digests, "sizes": sizes}
    token = _found_earlier.set(found)
    try:
        source = dataclasses.replace(load_source(uri), **found)  # type: ignore[arg-type]
    finally:
        _found_earlier.reset(token)
    if len(source.records) <= indices.max(initial=-1):
        raise SourceError(f"{uri}: has fewer records than when it was opened before. Open it again.")
    return source


def describe(source: Documents) -> dict[str, Any]:
    """Returns what a list of sources shows: name, documents, bytes, duplicates, fingerprint and size of each split."""
    splits = {name: source.split(name) for name in SPLITS}
    return {
        "name": source.name,
        "documents": len(source),
        "bytes": source.size,
        "duplicates": source.duplicates,
        "fingerprint": source.fingerprint,
        "splits": {name: {"documents": len(split), "bytes": split.size} for name, split in splits.items()},
    }
