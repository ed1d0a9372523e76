"""Windows: documents -> token stream -> fixed-shape batches, for training (shuffled) and evaluation (each target once).

A stream `EOD d1.. EOD d2.. EOD` of N tokens holds N - 1 pairs (input, target), and pair j is tokens j and j + 1: every
token and every end of document (EOD) is the target of exactly one pair, in the same document as its input. Both kinds
of batch are rows of pairs, turned into arrays by the one function `_assemble`.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple, Protocol

import numpy as np

from tokjax.core.errors import SourceError, TokenizerError
from tokjax.core.spec import check
from tokjax.core.types import Batch, Source
from tokjax.data.order import epoch_order, random_bits, rows_of_host

_PADDING = -1


class Encoder(Protocol):
    """What a stream needs of a fitted tokenizer."""

    @property
    def size(self) -> int:
        """Number of ids; the id `size` is the end of a document."""
        ...

    def encode_many(self, documents: Iterable[bytes], /) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields the ids of each document and the bytes that each stands for."""
        ...


class Rows(NamedTuple):
    """Windows of text: pair j of a row is its tokens j and j + 1.

    Attributes:
      ids: unsigned [R, T + 1].
      units: unsigned [R, T + 1], bytes that each id stands for.
      pairs: int64 [R], how many of the T pairs count; the others repeat a text that is shorter than a row.
    """

    ids: np.ndarray
    units: np.ndarray
    pairs: np.ndarray


class Text(Protocol):
    """What batches to train on are made from."""

    @property
    def end_of_document(self) -> int:
        """The id that is not a token."""
        ...

    @property
    def bytes_per_pair(self) -> float:
        """Bytes of text that a target stands for, on average."""
        ...

    def rows(self, numbers: range, *, seed: int, length: int, per_batch: Fraction) -> Rows:
        """Returns rows by their numbers, which are counted from the first row of the first epoch.

        Args:
          numbers: which rows.
          seed: which order, from 0 to 2**64 - 1.
          length: pairs in a row, T.
          per_batch: rows that a batch takes from this text, on average where it is a part of a mixture.
        """
        ...


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TokenStream:
    """The tokens of whole documents, laid out as `EOD d1.. EOD d2.. EOD`.

    Attributes:
      ids: uint16 or uint32 [N], an end-of-document id before, between and after the documents.
      units: unsigned [N], bytes that each id stands for, 0 at the end of a document.
      end_of_document: the id that is not a token.
    """

    ids: np.ndarray
    units: np.ndarray
    end_of_document: int

    @property
    def pairs(self) -> int:
        """Number of (input, target) pairs: tokens plus documents."""
        return len(self.ids) - 1

    @property
    def bytes(self) -> int:
        """Bytes that all ids stand for."""
        return int(self.units.sum(dtype=np.int64))

    @property
    def bytes_per_pair(self) -> float:
        """Bytes of text that a target stands for, on average."""
        return self.bytes / self.pairs

    def rows(self, numbers: range, *, seed: int, length: int, per_batch: Fraction) -> Rows:
        """Returns rows by their numbers; see `Text`. Any row may read any window, whatever `per_batch`."""
        del per_batch
        windows = max(1, self.pairs // length)
        starts = np.empty(len(numbers), np.int64)
        for index, row in enumerate(numbers):
            epoch, place = divmod(row, windows)
            starts[index] = self._epoch_starts(seed, epoch, self.pairs, length)[place]
        places = (starts[:, None] + np.arange(length + 1)) % self.pairs  # the last id is the first: both are ends
        return Rows(self.ids[places], self.units[places], np.full(len(numbers), min(length, self.pairs)))

    @functools.cached_property
    def _epoch_starts(self) -> Callable[[int, int, int, int], np.ndarray]:
        return functools.lru_cache(maxsize=2)(_epoch_starts)  # of its own: a mixture reads many streams in turn

    @functools.cached_property
    def boundaries(self) -> np.ndarray:
        """int64 [D + 1], where the end-of-document ids are; document d holds the pairs from boundary d up to d + 1."""
        return np.flatnonzero(self.ids == self.end_of_document)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class EvalBatch:
    """A batch, and which target of which document each position scores.

    Attributes:
      batch: the arrays [B, T] that the model reads.
      document: int32 [B, T], index of the target's document; -1 where not scored.
      offset: int32 [B, T], place of the target in its document, from 0; the number of the document's tokens at its end;
        -1 where not scored.
    """

    batch: Batch
    document: np.ndarray
    offset: np.ndarray


def token_stream(source: Source | Sequence[bytes], encoder: Encoder) -> TokenStream:
    """Encodes the documents of `source` in order.

    Args:
      source: the documents.
      encoder: a fitted tokenizer.

    Raises:
      SourceError: the source or split is empty.
      TokenizerError: the tokenizer gave an id outside its vocabulary.
    """
    end = encoder.size
    dtype = np.uint16 if end < 2**16 else np.uint32
    boundary = np.asarray([end], dtype), np.zeros(1, np.uint8)
    pieces = [boundary]
    for ids, units in encoder.encode_many(source):  # an empty split raises here, saying what to do
        if ids.max(initial=0) >= end:
            raise TokenizerError(f"The tokenizer gave id {ids.max()} but says it has {end}. Fit or load it again.")
        pieces += [(ids.astype(dtype), units.astype(np.min_scalar_type(units.max(initial=0)))), boundary]
    if len(pieces) == 1:
        raise SourceError("Nothing to encode: no documents. Use a larger source.")
    return TokenStream(
        ids=np.concatenate([ids for ids, _ in pieces]),
        units=np.concatenate([units for _, units in pieces]),
        end_of_document=end,
    )


def train_batch(
    text: Text, step: int, *, seed: int, batch_size: int, length: int, host: int = 0, hosts: int = 1
) -> Batch:
    """Returns the rows of one host for one step: a pure function of the arguments.

    The pairs of a text form a circle. Each epoch cuts it at a new random place into windows of `length` pairs and
    visits each once in random order (`TokenStream`), or in one that reads from disk little by little (`BlockOrder`);
    batches run on from one epoch into the next. A text shorter than one window is that one window, padded.

    Args:
      text: the tokens.
      step: which batch, from 0.
      seed: which order, from 0 to 2**64 - 1.
      batch_size: rows of all hosts together, B.
      length: pairs in a row, T.
      host: which of the hosts asks; its rows are B / hosts consecutive rows of the batch.
      hosts: how many there are.

    Returns:
      A batch of NumPy arrays [B / hosts, T].

    Raises:
      SpecError: a size that is not positive, or hosts that do not divide the batch.
      SourceError: text that is read from disk is damaged.
    """
    check(length > 0, "length", length, "use a positive number of tokens")
    numbers = rows_of_host(step, seed=seed, batch_size=batch_size, host=host, hosts=hosts)
    rows = text.rows(numbers, seed=seed, length=length, per_batch=Fraction(batch_size))
    valid = np.arange(length) < rows.pairs[:, None]
    return _assemble(rows.ids[:, :-1], rows.ids[:, 1:], rows.units[:, 1:], valid, valid, text.end_of_document)


def eval_batches(
    stream: TokenStream, *, batch_size: int, length: int, stride: int | None = None, align: int = 1
) -> Iterator[EvalBatch]:
    """Yields batches that score every target of every document once, its end included.

    Documents of at most `length` pairs are packed whole, several per row, and never see each other's segment. Longer
    ones are cut into windows that move on by `stride`: each target after the first window has at least
    `length - stride` inputs of its document before its own.

    Args:
      stream: the tokens.
      batch_size: rows of each batch, B; the last batch is padded.
      length: pairs in a row, T.
      stride: 1 to `length`; half of `length` when None.
      align: documents start at columns that are multiples of this, for models that count patches along the row.

    Raises:
      SpecError: a size outside its range.
    """
    stride = max(1, length // 2) if stride is None else stride
    check(batch_size > 0, "batch_size", batch_size, "use a positive number of rows")
    check(length > 0, "length", length, "use a positive number of tokens")
    check(0 < stride <= length, "stride", stride, f"use 1 to length, {length}")
    check(align > 0, "align", align, "use a positive number of columns")
    rows = _eval_rows(stream.boundaries, length, stride, align)
    return _eval_batches(stream, rows, batch_size, length)


@dataclasses.dataclass(frozen=True, slots=True)
class _Piece:
    """Consecutive pairs of one document from `column` on; those before `scored_from` are context only."""

    start: int
    stop: int
    scored_from: int
    column: int = 0


def _eval_rows(boundaries: np.ndarray, length: int, stride: int, align: int) -> Iterator[list[_Piece]]:
    """Yields rows of pieces: each window of a long document alone, short documents packed in their order."""
    row: list[_Piece] = []
    used = 0
    for start, stop in zip(boundaries[:-1].tolist(), boundaries[1:].tolist(), strict=True):
        if stop - start > length:
            yield from ([window] for window in _document_windows(start, stop, length, stride))
            continue
        column = -(-used // align) * align
        if column + stop - start > length:
            yield row
            row, column = [], 0
        row.append(_Piece(start, stop, start, column))
        used = column + stop - start
    if row:
        yield row


def _document_windows(start: int, stop: int, length: int, stride: int) -> Iterator[_Piece]:
    """Cuts the pairs of one long document. The last window ends with the document, for as much context as fits."""
    yield _Piece(start, start + length, start)
    for scored_from in range(start + length, stop, stride):
        window_stop = min(scored_from + stride, stop)
        yield _Piece(window_stop - length, window_stop, scored_from)


def _eval_batches(
    stream: TokenStream, rows: Iterator[list[_Piece]], batch_size: int, length: int
) -> Iterator[EvalBatch]:
    while chunk := [row for _, row in zip(range(batch_size), rows, strict=False)]:
        pairs = np.full((batch_size, length), _PADDING, np.int64)
        scored = np.zeros((batch_size, length), bool)
        for number, row in enumerate(chunk):
            for piece in row:
                columns = slice(piece.column, piece.column + piece.stop - piece.start)
                pairs[number, columns] = np.arange(piece.start, piece.stop)
                scored[number, columns] = pairs[number, columns] >= piece.scored_from
        position = np.searchsorted(stream.boundaries, np.maximum(pairs, 0), side="right") - 1
        valid = pairs != _PADDING
        read = np.where(valid, pairs, 0)
        ids, targets, units = stream.ids[read], stream.ids[read + 1], stream.units[read + 1]
        yield EvalBatch(
            batch=_assemble(ids, targets, units, valid, scored, stream.end_of_document),
            document=np.where(scored, position, -1).astype(np.int32),
            offset=np.where(scored, pairs - stream.boundaries[position], -1).astype(np.int32),
        )


def _assemble(
    ids: np.ndarray, targets: np.ndarray, units: np.ndarray, valid: np.ndarray, scored: np.ndarray, end: int
) -> Batch:
    """Builds the batch of pairs [B, T]. A segment starts at each end-of-document input and at column 0."""
    starts = ids == end
    starts[:, 0] = True
    columns = np.arange(ids.shape[1])
    values: dict[str, Any] = {
        "ids": ids,
        "targets": targets,
        "segment_ids": np.cumsum(starts, axis=1),
        "positions": columns - np.maximum.accumulate(np.where(starts, columns, 0), axis=1),
        "units": units,
    }
    arrays = {name: np.where(valid, value, 0).astype(np.int32) for name, value in values.items()}
    return Batch(**arrays, loss_mask=scored.astype(np.float32))  # type: ignore[arg-type]  # host arrays


def _epoch_starts(seed: int, epoch: int, pairs: int, length: int) -> np.ndarray:
    """Returns the first pair of each window in the epoch's order: int64 [windows]. O(windows), once per epoch."""
    raw = random_bits(seed, epoch, max(1, pairs // length) + 1)
    starts = _cut(int(raw[0]), pairs, length) + np.argsort(raw[1:], kind="stable") * length
    starts.setflags(write=False)
    return starts


def epoch_cut(seed: int, epoch: int, pairs: int, length: int) -> int:
    """Returns where on the circle of a text's pairs the first window of an epoch begins."""
    return _cut(int(random_bits(seed, epoch, 1)[0]), pairs, length)


def _cut(raw: int, pairs: int, length: int) -> int:
    return raw % pairs if pairs >= length else 0


def sample(source: Source | Sequence[bytes], limit_bytes: int) -> list[int]:
    """Returns, in order, the indices of the documents that a fixed random order needs to reach `limit_bytes`."""
    order = epoch_order(0, 0, len(source))
    chosen, total = [], 0
    for index in order.tolist():
        if total >= limit_bytes:
            break
        chosen.append(index)
        total += len(source[index])
    return sorted(chosen)
