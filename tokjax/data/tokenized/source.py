"""A tokenized corpus as a source: its documents as text, its ids as they were stored."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tokjax.core.errors import SourceError
from tokjax.core.registry import sources
from tokjax.data.documents import Documents
from tokjax.data.splits import SPLITS
from tokjax.data.tokenized import layout
from tokjax.data.tokenized.layout import Dataset, Index, Record
from tokjax.data.windows import TokenStream
from tokjax.text.fitted import Fitted

_READ_AT_ONCE = 256  # records
_OPEN_FILES = 64


@sources.register("tokenized")
def tokenized(rest: str) -> "TokenizedDocuments":
    """A corpus that `tokjax tokenize` wrote: tokenized:DIR.

    Raises:
      SourceError: there is none in the folder, it is not finished, or a part of it is missing or damaged.
      TokenizerError: its tokenizer is missing or damaged.
    """
    if not rest:
        raise SourceError("tokenized: names no folder. Write 'tokenized:DIR', as in `tokjax tokenize --out DIR`.")
    directory = Path(rest).expanduser()
    dataset = layout.read_dataset(directory)
    if len(dataset.of_shards) != dataset.shards:
        raise SourceError(f"{directory}: not finished. Give its `tokjax tokenize` command again: it goes on.")
    fitted = layout.read_tokenizer(directory, dataset)
    records = StoredDocuments(directory, dataset, fitted)
    return TokenizedDocuments(
        name=f"tokenized:{rest}",
        records=records,
        indices=np.arange(len(records)),
        digests=records.index.digests,
        sizes=records.index.sizes,
        duplicates=dataset.duplicates,
        opened=len(records),
        advice="Tokenize a larger source",
    )


class StoredDocuments:
    """The documents of a finished data set in order, read on access.

    Attributes:
      dataset: what is in the directory.
      fitted: the tokenizer of the ids.
      index: of all documents.
    """

    def __init__(self, directory: Path, dataset: Dataset, fitted: Fitted):
        self.dataset, self.fitted, self._directory = dataset, fitted, directory
        parts = [layout.read_index(directory, dataset, number) for number in range(dataset.shards)]
        self.index = Index.joined(parts)
        self._starts = np.asarray([0, *itertools.accumulate(map(len, parts))])
        if len(self.index) != dataset.documents:
            raise SourceError(f"{directory}: its shards hold {len(self.index)} documents of {dataset.documents}.")
        self._reader = functools.lru_cache(maxsize=_OPEN_FILES)(self._open)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> bytes:
        """Returns the text of a document."""
        record = next(self.read(np.asarray([index])))
        return self.fitted.decode(record.ids.astype(np.int32)) if record.text is None else record.text

    def read(self, indices: np.ndarray) -> Iterator[Record]:
        """Yields the records at increasing `indices`.

        Raises:
          SourceError: a shard that is damaged, or is not the one that its index describes.
        """
        shards = np.searchsorted(self._starts, indices, side="right") - 1
        for number in np.unique(shards).tolist():
            places = (indices[shards == number] - self._starts[number]).tolist()
            for first in range(0, len(places), _READ_AT_ONCE):
                yield from self._read(number, places[first : first + _READ_AT_ONCE])

    def _read(self, number: int, places: list[int]) -> Iterator[Record]:
        path = layout.shard_path(self._directory, number, self.dataset.shards)
        try:
            stored = self._reader(number).read(places)
        except (RuntimeError, ValueError, IndexError) as error:
            raise layout.unreadable(path, error) from error
        for place, content in zip(places, stored, strict=True):
            document = self._starts[number] + place
            try:
                record = layout.unpack(content, self.fitted.size)
            except ValueError as error:
                raise layout.unreadable(path, f"record {place}: {error}") from error
            expected = self.index.digests[document].tobytes(), self.index.counts[document]
            if (record.digest, len(record.ids)) != expected or record.ids.max(initial=0) >= self.fitted.size:
                raise layout.unreadable(path, f"record {place} is not the document that the index names")
            yield record

    def _open(self, number: int) -> Any:
        documents = int(self._starts[number + 1] - self._starts[number])
        return layout.open_shard(self._directory, self.dataset, number, documents)


@dataclasses.dataclass(kw_only=True, eq=False)
class TokenizedDocuments(Documents):
    """Documents whose ids are stored. They are those of the source that was tokenized, in its order."""

    records: StoredDocuments

    @property
    def fitted(self) -> Fitted:
        """The tokenizer of the stored ids."""
        return self.records.fitted

    def split(self, name: str) -> "TokenizedDocuments":
        """Returns the documents in split `name`, which are the same as in the source that was tokenized.

        Raises:
          SourceError: no split has that name, or another one was tokenized.
        """
        held = self.records.dataset.split
        if name in SPLITS and held not in (name, "all"):
            raise SourceError(
                f"{self.name} holds only the {held} split of {self.records.dataset.source}, not {name}. "
                "Tokenize it with --split all, into another place."
            )
        split = super().split(name)
        assert isinstance(split, TokenizedDocuments)
        return split

    def token_stream(self, fitted: Fitted) -> TokenStream | None:
        """Returns what `windows.token_stream` gives for these documents, from the stored ids.

        Args:
          fitted: the tokenizer that is asked for.

        Returns:
          The stream, or None when the ids are of another tokenizer.

        Raises:
          SourceError: there are no documents, or a shard is damaged.
        """
        if fitted.hash != self.fitted.hash:
            return None
        self._require_documents()
        counts, widths = self.records.index.counts[self.indices], self.records.index.unit_bytes[self.indices]
        end = fitted.end_of_document
        length = int(counts.sum()) + len(counts) + 1
        ids = np.full(length, end, np.uint16 if end < 2**16 else np.uint32)
        units = np.zeros(length, f"u{widths.max(initial=1)}")
        position = 1
        for record in self.records.read(self.indices):
            ids[position : position + len(record.ids)] = record.ids
            units[position : position + len(record.ids)] = record.units
            position += len(record.ids) + 1
        return TokenStream(ids=ids, units=units, end_of_document=end)
