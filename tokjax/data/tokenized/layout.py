"""What a tokenized corpus is on disk, and how each part of it is read and written.

    DIR/dataset.json                        what it was made from; its totals once every shard is there (`Dataset`)
    DIR/tokenizer/                          the fitted tokenizer
    DIR/documents.npy                       where each document is in the source; until the data set is finished
    DIR/shard-00000-of-00008.array_record   a record per document: its digest, ids, units, and text if ids lose some
    DIR/shard-00000-of-00008.npz            digest and sizes of each document of the shard (`Index`)

A shard holds consecutive documents of the source, so that their order is that of the shards, and archives are read
from front to back. Its index is written last: a shard without its index is unfinished.
"""

import dataclasses
import io
import json
import struct
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from tokjax.core.errors import SourceError, SpecError
from tokjax.core.files import write_bytes, write_text
from tokjax.core.spec import build, fingerprint, to_dict
from tokjax.data.documents import Documents, reopen_source
from tokjax.text.fitted import Fitted
from tokjax.text.stream import wire_dtype

FORMAT = 1
DATASET = "dataset.json"
DOCUMENTS = "documents.npy"
TOKENIZER = "tokenizer"

_DOCUMENT = np.dtype([("index", "<i8"), ("size", "<i8"), ("digest", "u1", 16)])
_HEADER = struct.Struct("<16sQB?")  # digest of the document, number of ids, bytes of each unit, whether text follows
_AGAIN = "Give the `tokjax tokenize` command of this directory again: it makes only what is missing."
_REMAKE = f"Delete it. {_AGAIN}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """What a directory was, or is being, made from.

    Attributes:
      source: address of the documents, as of `load_source`.
      split: the split of it that was taken, or 'all'.
      fingerprint: of those documents.
      duplicates: exact duplicates that were dropped when the source was opened.
      tokenizer: name of the tokenizer in the directory.
      tokenizer_hash: its hash.
      signature: what else must be equal for its ids to be the same: of a neural one, versions and kind of device.
      shards: number of shards.
      documents: number of documents.
      bytes: bytes of all documents.
      versions: of the packages that wrote it.
      ids: ids of all documents; None until every shard is finished.
      of_shards: file, documents, bytes and ids of each shard; empty until every shard is finished.
      format: version of the layout.
    """

    source: str
    split: str
    fingerprint: str
    duplicates: int
    tokenizer: str
    tokenizer_hash: str
    shards: int
    documents: int
    bytes: int
    versions: dict[str, str]
    signature: dict[str, Any] = dataclasses.field(default_factory=dict)
    ids: int | None = None
    of_shards: tuple[dict[str, Any], ...] = ()
    format: int = FORMAT

    @property
    def content(self) -> dict[str, Any]:
        """What two commands must agree on to write into one directory."""
        names = ("format", "split", "fingerprint", "tokenizer_hash", "signature", "shards")
        return {name: getattr(self, name) for name in names}

    @property
    def identity(self) -> str:
        """A hash of `content`, which every index carries."""
        return fingerprint(self.content)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Index:
    """The documents of one shard, or of several, in order.

    Attributes:
      digests: uint8 [N, 16], BLAKE2b of each document.
      sizes: int64 [N], bytes of each document.
      counts: int64 [N], ids of each document.
      unit_bytes: uint8 [N], bytes of the integers that its units are stored in.
    """

    digests: np.ndarray
    sizes: np.ndarray
    counts: np.ndarray
    unit_bytes: np.ndarray

    def __len__(self) -> int:
        return len(self.sizes)

    @classmethod
    def joined(cls, parts: list[Self]) -> Self:
        """Returns the documents of all `parts` as one."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


class Record(NamedTuple):
    """One document.

    Attributes:
      digest: BLAKE2b of its text, 16 bytes.
      ids: [T], of any integer type.
      units: unsigned [T], bytes that each id stands for.
      text: what it says, where the ids do not give it back.
    """

    digest: bytes
    ids: np.ndarray
    units: np.ndarray
    text: bytes | None


def pack(record: Record, size: int) -> bytes:
    """Returns the stored form of `record` for a vocabulary of `size` ids."""
    unit = record.units.dtype
    header = _HEADER.pack(record.digest, len(record.ids), unit.itemsize, record.text is not None)
    ids, units = record.ids.astype(wire_dtype(size)), record.units.astype(unit.newbyteorder("<"))
    return header + ids.tobytes() + units.tobytes() + (record.text or b"")


def unpack(stored: bytes, size: int) -> Record:
    """The inverse of `pack`.

    Raises:
      ValueError: `stored` is no such record.
    """
    try:
        digest, count, unit_bytes, has_text = _HEADER.unpack_from(stored)
        ids = np.frombuffer(stored, wire_dtype(size), count, _HEADER.size)
        units = np.frombuffer(stored, f"<u{unit_bytes}", count, _HEADER.size + ids.nbytes)
    except (struct.error, TypeError) as error:
        raise ValueError(str(error)) from error
    text = stored[_HEADER.size + ids.nbytes + units.nbytes :]
    return Record(digest, ids, units, text if has_text else None)


def shard_path(directory: Path, number: int, shards: int) -> Path:
    """Returns where the records of a shard are."""
    return directory / f"shard-{number:05}-of-{shards:05}.array_record"


def index_path(directory: Path, number: int, shards: int) -> Path:
    """Returns where the index of a shard is."""
    return shard_path(directory, number, shards).with_suffix(".npz")


def write_index(directory: Path, dataset: Dataset, number: int, index: Index) -> None:
    """Declares the shard `number`, which is in its place, finished.

    Raises:
      OutputError: the place is full or read-only.
    """
    buffer = io.BytesIO()
    file_bytes = shard_path(directory, number, dataset.shards).stat().st_size
    arrays = {field.name: getattr(index, field.name) for field in dataclasses.fields(index)}
    np.savez(buffer, identity=np.asarray(dataset.identity), file_bytes=np.asarray(file_bytes), **arrays)
    write_bytes(index_path(directory, number, dataset.shards), buffer.getvalue())


def read_index(directory: Path, dataset: Dataset, number: int) -> Index:
    """Returns the index of a finished shard, after checking that the shard is the file that it describes.

    Raises:
      SourceError: the shard or its index is missing, damaged, or belongs to another data set.
    """
    path, records = (place(directory, number, dataset.shards) for place in (index_path, shard_path))
    try:
        with np.load(path, allow_pickle=False) as arrays:
            index = Index(**{field.name: arrays[field.name] for field in dataclasses.fields(Index)})
            identity, file_bytes = str(arrays["identity"]), int(arrays["file_bytes"])
    except FileNotFoundError:
        raise SourceError(f"{path}: missing, so its shard is not finished. {_REMAKE}") from None
    except Exception as error:  # damage surfaces as any of a dozen types from zipfile, zlib and numpy
        raise SourceError(f"{path}: cannot be read ({error}). {_REMAKE}") from error
    if identity != dataset.identity:
        raise SourceError(f"{path}: is of another data set, with another text, tokenizer or split. {_REMAKE}")
    if not records.is_file():
        raise SourceError(f"{records}: missing. {_REMAKE}")
    if records.stat().st_size != file_bytes:
        raise SourceError(f"{records}: has {records.stat().st_size} bytes, {file_bytes} were written. {_REMAKE}")
    return index


def open_shard(directory: Path, dataset: Dataset, number: int, documents: int) -> Any:
    """Returns the ArrayRecord reader of a finished shard.

    Raises:
      SourceError: it cannot be opened, or holds another number of records than `documents`.
    """
    path = shard_path(directory, number, dataset.shards)
    try:
        reader = array_record_module().ArrayRecordReader(str(path), "readahead_buffer_size:0")
        found = reader.num_records() if reader.ok() else 0
    except RuntimeError as error:
        raise unreadable(path, error) from error
    if found != documents:
        raise unreadable(path, f"{found} records of {documents}")
    return reader


def unreadable(path: Path, problem: Any) -> SourceError:
    """Returns the error of a shard whose content is not what was written."""
    return SourceError(f"{path}: damaged ({problem}). {_REMAKE}")


def write_dataset(directory: Path, dataset: Dataset) -> None:
    """Writes the description of a data set.

    Raises:
      OutputError: the place is full or read-only.
    """
    write_text(directory / DATASET, json.dumps(to_dict(dataset), indent=2) + "\n")


def read_dataset(directory: Path) -> Dataset:
    """Returns the description of the data set in `directory`, finished or not.

    Raises:
      SourceError: there is none, or it is damaged or of another version.
    """
    path = directory / DATASET
    try:
        content = json.loads(path.read_bytes())
        if content["format"] != FORMAT:
            raise SourceError(f"{path}: has format {content['format']!r}; this version of tokjax reads {FORMAT}.")
        return build(Dataset, content)
    except FileNotFoundError:
        raise SourceError(
            f"{directory} holds no tokenized corpus: {DATASET} is absent. Make one with `tokjax tokenize --out DIR`."
        ) from None
    except (OSError, ValueError, TypeError, KeyError, SpecError) as error:
        raise SourceError(f"{path}: cannot be read ({error}). Write the corpus again, into an empty place.") from error


def write_documents(directory: Path, documents: Documents) -> None:
    """Writes what the processes that fill the shards need to know of the documents.

    Raises:
      OutputError: the place is full or read-only.
    """
    listed = np.empty(len(documents), _DOCUMENT)
    listed["index"], listed["size"], listed["digest"] = documents.indices, documents.sizes, documents.digests
    buffer = io.BytesIO()
    np.save(buffer, listed)
    write_bytes(directory / DOCUMENTS, buffer.getvalue())


def reopen_documents(directory: Path, dataset: Dataset) -> Documents:
    """Returns the documents of the data set that is being made, without reading them all again.

    Raises:
      SourceError: the source, or what `write_documents` wrote, is not there.
    """
    try:
        listed = np.load(directory / DOCUMENTS, mmap_mode="r", allow_pickle=False)
        columns = {"indices": listed["index"], "sizes": listed["size"], "digests": listed["digest"]}
    except (OSError, ValueError, IndexError) as error:
        raise SourceError(f"{directory / DOCUMENTS}: cannot be read ({error}). {_AGAIN}") from error
    return reopen_source(dataset.source, **columns)


def read_tokenizer(directory: Path, dataset: Dataset) -> Fitted:
    """Returns the tokenizer whose ids the shards hold.

    Raises:
      TokenizerError: it is missing or damaged.
      SourceError: it is another one.
    """
    fitted = Fitted.load(directory / TOKENIZER)
    if fitted.hash != dataset.tokenizer_hash:
        raise SourceError(
            f"{directory / TOKENIZER}: has hash {fitted.hash}, but the ids were written with {dataset.tokenizer} "
            f"{dataset.tokenizer_hash}. Put that tokenizer back."
        )
    return fitted


def array_record_module() -> Any:
    """Returns the module that reads and writes ArrayRecord.

    Raises:
      SourceError: it is not installed.
    """
    try:
        from array_record.python import array_record_module as module
    except ImportError as error:
        raise SourceError('ArrayRecord needs the package array-record. Run: pip install "tokjax[data]".') from error
    return module
