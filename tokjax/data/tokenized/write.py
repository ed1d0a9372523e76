"""Writing a tokenized corpus: shard by shard, each whole or absent, in any number of processes or on a cluster."""

import contextlib
import dataclasses
import functools
import importlib.metadata
import itertools
import json
import os
import platform
import shutil
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

import tokjax
from tokjax.coding.saved import check_signature
from tokjax.core.errors import OutputError, SourceError, TokenizerError
from tokjax.core.files import only_user
from tokjax.core.spec import check
from tokjax.data.documents import Documents, load_source
from tokjax.data.mixture import unweighted
from tokjax.data.tokenized import layout
from tokjax.data.tokenized.beam import run_on_beam
from tokjax.data.tokenized.layout import DATASET, DOCUMENTS, TOKENIZER, Dataset, Index, Record
from tokjax.data.tokenized.workers import run_in_workers
from tokjax.text.fitted import Fitted

_SHARD_BYTES = 1 << 28  # of text, in a shard of a large corpus: what a killed process loses at most
_FEWEST_SHARDS = 16  # so that a small corpus occupies many processes too
_GROUP = 16  # documents that ArrayRecord compresses together: one is larger on disk, more are slower to read singly


def tokenize_source(
    address: str,
    fitted: Fitted,
    directory: str | os.PathLike[str],
    *,
    split: str = "all",
    shards: int | None = None,
    workers: int | None = None,
    runner: str | None = None,
    runner_options: Sequence[str] = (),
    say: Callable[[str], None] = lambda line: None,
) -> Dataset:
    """Writes the ids of every document of a source, or goes on where an earlier call stopped.

    The files depend on the documents, the tokenizer and the number of shards alone: not on how many processes wrote
    them, where, or how often they were stopped.

    Args:
      address: of the source, as of `load_source`.
      fitted: the tokenizer.
      directory: where to write; empty, or of an earlier call for the same documents, tokenizer and shards.
      split: 'train', 'valid', 'test' or 'all'.
      shards: how many files; by default as earlier, else one for 256 MiB of text, 16 at least.
      workers: processes on this machine; by default one for each processor.
      runner: an Apache Beam runner to use instead of them. Its machines must see `directory` and the source under the
        same paths, and have the same version of this package.
      runner_options: KEY=VALUE options of the Beam pipeline.
      say: receives a line after each shard.

    Returns:
      What is in the directory.

    Raises:
      SourceError: a source or split that is missing or empty, or changes meanwhile.
      TokenizerError: the tokenizer gives ids outside its vocabulary.
      OutputError: the directory cannot be written, is in use, or holds something else.
      SpecError: a number of shards or workers that is not possible.
      TokjaxError: a shard at which process after process ended.
    """
    directory = Path(directory)
    layout.array_record_module()  # raises before any work
    check(runner is None or workers is None, "--workers", workers, "give it without --runner, which has its own.")
    check(runner is not None or not runner_options, "--beam", list(runner_options), "give it with --runner.")
    workers = (os.cpu_count() or 1) if workers is None else workers
    check(workers >= 1, "--workers", workers, "use at least 1 process.")
    with only_user(directory):
        documents = _documents(address, split)
        dataset = _begin(directory, address, documents, fitted, split, shards)
        unfinished = [number for number in range(dataset.shards) if not _finished(directory, dataset, number)]
        if unfinished:
            layout.write_documents(directory, documents)
        finished = itertools.count(dataset.shards - len(unfinished) + 1)
        write = functools.partial(write_shard, directory.absolute(), dataset.identity)
        try:
            if runner is None:
                run_in_workers(
                    write, unfinished, workers=workers,
                    done=lambda number: say(f"shard {number:05}, {next(finished)} of {dataset.shards} finished"),
                )  # fmt: skip
            else:
                run_on_beam(write, unfinished, runner=runner, options=runner_options)
        finally:
            _remove_temporary(directory)
        return _complete(directory, dataset)


def write_shard(directory: Path, identity: str, number: int) -> None:
    """Writes one shard of the data set that is being made in `directory`, unless it is finished.

    Whoever calls it, and however often: the shard appears once, whole, under its name.

    Args:
      directory: where the data set has been begun.
      identity: which data set that is, `Dataset.identity`.
      number: which shard.

    Raises:
      SourceError: the source has changed since the data set was begun.
      TokenizerError: the tokenizer gave an id outside its vocabulary.
      OutputError: the directory cannot be written.
    """
    dataset, fitted, documents = _opened(directory, identity)
    if _finished(directory, dataset, number):
        return
    bounds = shard_bounds(documents.sizes, dataset.shards)
    chosen = range(bounds[number], bounds[number + 1])
    counts, unit_bytes = np.zeros(len(chosen), np.int64), np.zeros(len(chosen), np.uint8)
    with _record_writer(layout.shard_path(directory, number, dataset.shards)) as write:
        raws, encoded = itertools.tee(documents[document] for document in chosen)
        for place, (raw, (ids, units)) in enumerate(zip(raws, fitted.encode_many(encoded), strict=True)):
            record = make_record(fitted, raw, documents.digests[chosen[place]].tobytes(), ids, units)
            counts[place], unit_bytes[place] = len(record.ids), record.units.dtype.itemsize
            write(layout.pack(record, fitted.size))
    part = slice(chosen.start, chosen.stop)
    index = Index(digests=documents.digests[part], sizes=documents.sizes[part], counts=counts, unit_bytes=unit_bytes)
    layout.write_index(directory, dataset, number, index)


def make_record(fitted: Fitted, raw: bytes, digest: bytes, ids: np.ndarray, units: np.ndarray) -> Record:
    """Returns the record of one document and the ids that `fitted` gave it.

    Its text is kept where decoding may not return it: the tokenizer says so, or the units of the ids miss its length,
    or only the program that encoded it can.

    Raises:
      TokenizerError: the tokenizer gave an id outside its vocabulary.
    """
    if ids.max(initial=0) >= fitted.size or ids.min(initial=0) < 0:
        raise TokenizerError(f"The tokenizer gave id {ids.max()} but says it has {fitted.size}. Fit or load it again.")
    recovers = fitted.spec.lossless and units.sum(dtype=np.int64) == len(raw) and not fitted.signature
    smallest = np.min_scalar_type(units.max(initial=0))
    return Record(digest, ids, units.astype(smallest), None if recovers else raw)


def shard_bounds(sizes: np.ndarray, shards: int) -> list[int]:
    """Returns the `shards` + 1 cuts of documents of `sizes` bytes [N] into runs of about as many bytes."""
    starts = np.cumsum(sizes) - sizes
    wanted = [int(sizes.sum()) * number // shards for number in range(shards)]
    return [*np.searchsorted(starts, wanted).tolist(), len(sizes)]


def _documents(address: str, split: str) -> Documents:
    source = unweighted(load_source(address), by="tokjax tokenize")
    documents = source if split == "all" else source.split(split)
    iter(documents)  # an empty split raises here, saying what to do
    return documents


def _begin(
    directory: Path, address: str, documents: Documents, fitted: Fitted, split: str, shards: int | None
) -> Dataset:
    """Writes what the data set will be and its tokenizer, or checks that those in the directory are the same."""
    earlier = _earlier(directory)
    if shards is None:
        by_size = max(_FEWEST_SHARDS, -(-documents.size // _SHARD_BYTES))
        shards = earlier.shards if earlier else min(by_size, len(documents))
    check(1 <= shards <= len(documents), "--shards", shards, f"use 1 to {len(documents)}, the number of documents.")
    dataset = Dataset(
        source=address,
        split=split,
        fingerprint=documents.fingerprint,
        duplicates=documents.duplicates,
        tokenizer=fitted.name,
        tokenizer_hash=fitted.hash,
        signature=json.loads(json.dumps(fitted.signature)),
        shards=shards,
        documents=len(documents),
        bytes=documents.size,
        versions=_versions(),
    )
    if earlier is not None and earlier.content != dataset.content:
        held, asked = earlier.content, dataset.content
        differ = ", ".join(f"{name} {held[name]!r}, not {asked[name]!r}" for name in held if held[name] != asked[name])
        raise OutputError(
            f"{directory} holds the ids of {earlier.source} by {earlier.tokenizer}, with {differ}. "
            "Choose another --out, or give the command that it was begun with."
        )
    if earlier is not None:
        dataset = dataclasses.replace(earlier, source=address)
    _remove_temporary(directory)
    if dataset != earlier:
        layout.write_dataset(directory, dataset)
    try:
        layout.read_tokenizer(directory, dataset)
    except (TokenizerError, SourceError):  # absent or half-written, and this one is the one that belongs there
        shutil.rmtree(directory / TOKENIZER, ignore_errors=True)
        fitted.save(directory / TOKENIZER)
    return dataset


def _earlier(directory: Path) -> Dataset | None:
    if (directory / DATASET).exists():
        return layout.read_dataset(directory)
    ours = (".lock", f".{DATASET}.")  # the second: a description that was not whole when its process was killed
    if not all(path.name.startswith(ours) for path in directory.iterdir()):
        raise OutputError(f"--out {directory} exists and is not empty. Choose another place.")
    return None


def _complete(directory: Path, dataset: Dataset) -> Dataset:
    """Writes the totals, which declare the data set finished."""
    indexes = [layout.read_index(directory, dataset, number) for number in range(dataset.shards)]
    of_shards = [
        {
            "file": layout.shard_path(directory, number, dataset.shards).name,
            "documents": len(index),
            "bytes": int(index.sizes.sum()),
            "ids": int(index.counts.sum()),
        }
        for number, index in enumerate(indexes)
    ]
    ids = sum(int(index.counts.sum()) for index in indexes)
    dataset = dataclasses.replace(dataset, ids=ids, of_shards=tuple(of_shards))
    layout.write_dataset(directory, dataset)
    (directory / DOCUMENTS).unlink(missing_ok=True)
    return dataset


def _finished(directory: Path, dataset: Dataset, number: int) -> bool:
    try:
        index = layout.read_index(directory, dataset, number)
        layout.open_shard(directory, dataset, number, len(index))
    except SourceError:
        return False
    return True


@functools.lru_cache(maxsize=1)
def _opened(directory: Path, identity: str) -> tuple[Dataset, Fitted, Documents]:
    """Opens source and tokenizer once in each process."""
    dataset = layout.read_dataset(directory)
    if dataset.identity != identity:
        raise OutputError(f"{directory}: another command has begun to write there. Give each its own --out.")
    fitted = layout.read_tokenizer(directory, dataset)
    check_signature(dataset.signature, json.loads(json.dumps(fitted.signature)))  # of every machine that writes
    return dataset, fitted, layout.reopen_documents(directory, dataset)


@contextlib.contextmanager
def _record_writer(path: Path) -> Iterator[Callable[[bytes], None]]:
    """Yields a function that appends a record to a file, which appears as `path` when the block ends well."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        writer = layout.array_record_module().ArrayRecordWriter(str(temporary), f"group_size:{_GROUP}")

        def write(record: bytes) -> None:
            try:
                writer.write(record)
            except RuntimeError as error:
                raise _cannot_write(path, error) from error

        yield write
        try:
            writer.close()
            with temporary.open("r+b") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        except (RuntimeError, OSError) as error:
            raise _cannot_write(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def _cannot_write(path: Path, error: Exception) -> OutputError:
    return OutputError(f"Cannot write {path}: {error}. Free space or choose another place.")


def _remove_temporary(directory: Path) -> None:
    """Removes what killed processes left."""
    for pattern in (".shard-*", f".{DATASET}.*", f".{DOCUMENTS}.*"):
        for path in directory.glob(pattern):
            path.unlink(missing_ok=True)


def _versions() -> dict[str, str]:
    packages = ("numpy", "jax", "jaxlib", "array-record", "tokenizers", "tiktoken")
    versions = {name: importlib.metadata.version(name) for name in packages}
    versions["zlib"] = zlib.ZLIB_RUNTIME_VERSION
    return {"tokjax": tokjax.__version__, "python": platform.python_version(), **versions}
