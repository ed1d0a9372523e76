"""TensorFlow Datasets as a source, through its random-access readers: TensorFlow itself is never imported."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokjax.core.errors import SourceError, nearest
from tokjax.core.registry import sources
from tokjax.data.address import split_options
from tokjax.data.documents import Documents, open_documents


@sources.register("tfds")
def tfds(rest: str) -> Documents:
    """A prepared TFDS data set with a text field: tfds:NAME_OR_FOLDER[?split=train&field=text&download=false].

    A folder is one that holds `dataset_info.json`, or has exactly one such folder below it. A name is looked up in
    TFDS's data folder, and fetched and prepared there only with 'download=true'. `split` is the data set's own;
    `Documents.split` divides what it holds.

    Raises:
      SourceError: the data set is not prepared, not in a random-access format, or lacks the split or field.
    """
    place, options = split_options("tfds", rest, split="train", field="text", download="false")
    builder = open_builder("tfds", place, download=options["download"])
    examples = open_examples(builder, options["split"], where=f"tfds:{rest}")
    return open_documents(f"tfds:{rest}", TextField(examples, options["field"], where=f"tfds:{rest}"))


class TextField:
    """One text field of every example of a TFDS data source, read on access."""

    def __init__(self, examples: Sequence[dict[str, Any]], field: str, *, where: str):
        self._examples, self._field, self._where = examples, field, where

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> bytes:
        example = read_example(self._examples, index, where=self._where)
        if self._field not in example:
            known = nearest(self._field, example)
            raise SourceError(f"{self._where}: no field {self._field!r}.{known} Choose one with '?field='.")
        value = example[self._field]
        if isinstance(value, str):
            return value.encode()
        if not isinstance(value, bytes):
            raise SourceError(f"{self._where}: field {self._field!r} holds {type(value).__name__}, expected text.")
        return value


def open_builder(scheme: str, place: str, *, download: str) -> Any:
    """Returns the TFDS builder of a prepared data set.

    Args:
      scheme: of the source, for messages.
      place: a folder that holds one, or a name in TFDS's data folder.
      download: 'true' to fetch and prepare a name that is not there, or 'false'.

    Raises:
      SourceError: there is none, or it cannot be opened.
    """
    if not place:
        raise SourceError(f"{scheme}: names no data set. Write '{scheme}:NAME' or '{scheme}:FOLDER'.")
    if download not in ("true", "false"):
        raise SourceError(f"{scheme}:{place}: download={download}; expected 'true' or 'false'.")
    folder, where = Path(place).expanduser(), f"{scheme}:{place}"
    return _builder_in(folder, where) if folder.is_dir() else _builder_named(place, where, download=download == "true")


def open_examples(
    builder: Any, split: str, *, where: str, decoders: dict[str, Any] | None = None
) -> Sequence[dict[str, Any]]:
    """Returns the data source of one split, after checking that it holds as many examples as were written.

    Args:
      builder: of the data set.
      split: one of its own.
      where: the address, for messages.
      decoders: how to decode some features, if not as TFDS would.

    Raises:
      SourceError: no such split, or it is not in a random-access format.
    """
    splits = builder.info.splits
    if split not in splits:
        raise SourceError(f"{where}: no split {split!r}.{nearest(split, splits)} Choose one with '?split='.")
    try:
        examples = builder.as_data_source(split=split, decoders=decoders)
        count = len(examples)
    except ImportError as error:
        raise SourceError(f'{where}: reading it needs array-record. Run: pip install "tokjax[data]".') from error
    except (NotImplementedError, ValueError, RuntimeError, OSError) as error:
        raise SourceError(
            f"{where}: cannot be read by position ({error}). Prepare it with file_format='array_record'."
        ) from error
    if count != splits[split].num_examples:
        raise SourceError(
            f"{where}: {count} examples can be read, but {splits[split].num_examples} were written. "
            "Prepare it again with file_format='array_record'."
        )
    return examples


def read_example(examples: Sequence[dict[str, Any]], index: int, *, where: str) -> dict[str, Any]:
    """Returns one example.

    Raises:
      SourceError: it is damaged.
    """
    try:
        return examples[index]
    except (RuntimeError, ValueError, OSError) as error:
        raise SourceError(f"{where}: example {index} cannot be read ({error}). Prepare it again.") from error


def _builder_in(folder: Path, where: str) -> Any:
    import tensorflow_datasets

    prepared = sorted(path.parent for path in folder.rglob("dataset_info.json"))
    if len(prepared) != 1:
        found = f"several data sets: {', '.join(map(str, prepared))}" if prepared else "no dataset_info.json"
        raise SourceError(f"{where} holds {found}. Name the folder of one prepared data set and version.")
    try:
        return tensorflow_datasets.builder_from_directory(prepared[0])
    except (ValueError, KeyError, OSError) as error:
        raise SourceError(f"{where}: {prepared[0]} cannot be opened ({error}). Prepare the data set again.") from error


def _builder_named(name: str, where: str, *, download: bool) -> Any:
    import tensorflow_datasets

    try:
        builder = tensorflow_datasets.builder(name, file_format="array_record")
    except (tensorflow_datasets.core.DatasetNotFoundError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise SourceError(f"{where}: neither a folder nor a data set that TFDS knows ({reason})") from error
    if download:
        try:
            builder.download_and_prepare()
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            raise SourceError(f"{where}: cannot be fetched and prepared here ({error}).") from error
    elif not builder.info.splits:
        raise SourceError(
            f"{where} is not prepared in {builder.data_dir}. Add '?download=true' to fetch it, or give the folder "
            "of a prepared copy."
        )
    return builder
