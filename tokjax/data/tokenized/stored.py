"""The records of a finished data set, read from its shards on access."""

import functools
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tokjax.core.errors import SourceError
from tokjax.data.tokenized import layout
from tokjax.data.tokenized.layout import Dataset, Index, Record
from tokjax.text.fitted import Fitted

_READ_AT_ONCE = 256  # records
_OPEN_FILES = 64


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
        self._lock = threading.Lock()  # batches and evaluations are made on different threads

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
            with self._lock:
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
