"""ArrayRecord files as a source: each record's raw bytes."""

import bisect
import itertools
from pathlib import Path
from typing import Any

from tokjax.core.errors import SourceError
from tokjax.core.registry import sources
from tokjax.data.address import matching_files
from tokjax.data.documents import Documents, open_documents


@sources.register("array_record")
def array_record(rest: str) -> Documents:
    """Local ArrayRecord files, one document per raw record: array_record:GLOB.

    Raises:
      SourceError: a file that is missing or no ArrayRecord, or the package is not installed.
    """
    records = ArrayRecords(matching_files("array_record", rest))
    return open_documents(f"array_record:{rest}", records, advice="Add files")


class ArrayRecords:
    """The records of several ArrayRecord files, in order, read on access."""

    def __init__(self, paths: list[Path]):
        self._paths = paths
        self._readers = [_open_reader(path) for path in paths]
        self._ends = list(itertools.accumulate(reader.num_records() for reader in self._readers))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> bytes:
        number = bisect.bisect_right(self._ends, index)
        reader, first = self._readers[number], self._ends[number - 1] if number else 0
        try:
            return reader.read([index - first])[0]
        except (RuntimeError, ValueError, IndexError) as error:
            raise SourceError(
                f"{self._paths[number]}: record {index - first} cannot be read ({error}). Fetch the file again."
            ) from error


def _open_reader(path: Path) -> Any:
    try:
        from array_record.python import array_record_module
    except ImportError as error:
        raise SourceError(
            f'{path}: reading ArrayRecord needs array-record. Run: pip install "tokjax[data]".'
        ) from error
    try:
        reader = array_record_module.ArrayRecordReader(str(path))
        valid = reader.ok()
    except RuntimeError as error:
        raise SourceError(f"{path}: cannot be opened as ArrayRecord ({error}).") from error
    if not valid:
        raise SourceError(f"{path}: not an ArrayRecord file, or damaged. Fetch it again.")
    return reader
