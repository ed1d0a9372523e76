"""Masked rows of words for encoders: the same words for models that read bytes and for models of subwords.

A row holds up to W consecutive words whose subwords ("pieces") fit T places, so that both kinds of model see the same
text. Some words of a row are to be predicted: what a model reads in their place is decided here, on the host and as a
pure function of seed and row, for both kinds at once.

Letters: `B` batch, `W` words, `L` bytes in a word, `T` pieces of a row, `M` predicted words, `P` predicted pieces of a
word.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import flax.struct
import jax
import numpy as np

from tokjax.core.spec import check
from tokjax.data.order import epoch_order, random_fractions, rows_of_host
from tokjax.data.words import WordStream, WordTable

MASK_BYTE = 256  # the one symbol of a masked word
SYMBOLS = MASK_BYTE + 1
MASKED, RANDOM = 0.8, 0.1  # of the predicted words; the rest stay as they are (Devlin et al. 2019, section 3.1)
_KEEP, _MASK, _RANDOM = range(3)
_MASK_STREAM = 1 << 63  # keeps the random bits of masks apart from those of the order of rows


@flax.struct.dataclass
class WordBatch:
    """Rows of words, as bytes and as pieces. All arrays are int32.

    Attributes:
      word_bytes: [B, W, L], bytes of each word; a masked word is `MASK_BYTE` alone.
      lengths: [B, W], bytes of each word; 0 is padding.
      segment_ids: [B, W], which document of the row a word belongs to; 0 is padding.
      pieces: [B, T], the same words as subwords; those of a masked word are the id after the last.
      piece_segment_ids: [B, T], as `segment_ids`.
      first_piece: [B, W], where in T a word begins.
      at: [B, M], words to predict.
      targets: [B, M, P], ids of their first pieces; 0 where there are fewer.
      target_counts: [B, M], how many pieces they have; 0 where nothing is to be predicted.
    """

    word_bytes: jax.Array
    lengths: jax.Array
    segment_ids: jax.Array
    pieces: jax.Array
    piece_segment_ids: jax.Array
    first_piece: jax.Array
    at: jax.Array
    targets: jax.Array
    target_counts: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowShape:
    """Static sizes of a batch, and how masks are laid out.

    Attributes:
      words: W.
      pieces: T.
      predicted: M.
      targets: P.
      one_mask: a masked word has one place among the pieces, rather than as many as it has pieces.
    """

    words: int
    pieces: int
    predicted: int
    targets: int
    one_mask: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class WordRows:
    """A stream cut into rows: row r holds the words from `starts[r]` up to `starts[r + 1]`."""

    stream: WordStream
    shape: RowShape
    starts: np.ndarray

    @property
    def count(self) -> int:
        """How many rows there are."""
        return len(self.starts) - 1


def cut_rows(stream: WordStream, shape: RowShape) -> WordRows:
    """Cuts a stream into rows that hold as many words as fit both W words and T pieces.

    Raises:
      SpecError: a word has more pieces than a row has room for.
    """
    counts = stream.table.counts[stream.words]
    most = int(counts.max(initial=0))
    check(most <= shape.pieces, "pieces", shape.pieces, f"a word has {most}; make rows longer.")
    ends = np.concatenate([[0], np.cumsum(counts)])
    starts = [0]
    while starts[-1] < len(counts):
        start = starts[-1]
        fit = int(np.searchsorted(ends, ends[start] + shape.pieces, side="right")) - 1
        starts.append(min(start + shape.words, fit))
    return WordRows(stream=stream, shape=shape, starts=np.array(starts, np.int64))


def train_rows(
    rows: WordRows, step: int, *, seed: int, batch_size: int, rate: float, host: int = 0, hosts: int = 1
) -> WordBatch:
    """Returns the rows of one host for one step, freshly masked: a pure function of the arguments.

    Every epoch visits each row once in random order; batches run on from one epoch into the next. In each row the
    share `rate` of its words that are not white space is predicted, at least one and at most M; `MASKED` of them are
    read as the mask, `RANDOM` as something random (for bytes another word of the row, for pieces random ids, as
    many), and the others as they are.

    Args:
      rows: the stream, cut.
      step: which batch, from 0.
      seed: which order and masks, from 0 to 2**63 - 1.
      batch_size: rows of all hosts together, B.
      rate: share of words to predict.
      host: which of the hosts asks; its rows are B / hosts consecutive rows of the batch.
      hosts: how many there are.

    Returns:
      A batch of NumPy arrays [B / hosts, ...].

    Raises:
      SpecError: a size outside its range, or hosts that do not divide the batch.
    """
    check(0 < rate < 1, "rate", rate, "use a share between 0 and 1")
    numbers, shape = rows_of_host(step, seed=seed, batch_size=batch_size, host=host, hosts=hosts), rows.shape
    spans, masking = [], _Masking.empty(len(numbers), shape)
    for index, number in enumerate(numbers):
        epoch, place = divmod(number, rows.count)
        row = epoch_order(seed, epoch, rows.count)[place]
        spans.append((int(rows.starts[row]), int(rows.starts[row + 1])))
        is_text = rows.stream.table.is_text[rows.stream.words[slice(*spans[-1])]]
        masking.draw(index, is_text, rate, seed, number)
    return _assemble(rows.stream, spans, shape, masking)


def eval_rows(
    stream: WordStream, shape: RowShape, *, batch_size: int, rate: float, inputs: WordStream | None = None
) -> Iterator[WordBatch]:
    """Yields batches in which every word that is not white space is predicted once, always behind the mask.

    The stream is read F = 1 / rate times, each time with one of every F consecutive words masked, in a fixed random
    order.

    Args:
      stream: the words to predict.
      shape: of the rows; its M does not matter.
      batch_size: rows of each batch, B; the last ones are padded.
      rate: share of words to mask at a time.
      inputs: the words to read around the masked ones, from `change_words`; those of `stream` by default.
    """
    folds = max(1, round(1 / rate))
    shape = dataclasses.replace(shape, predicted=shape.words // folds + 2)  # a row meets so many blocks of F words
    inputs = stream if inputs is None else inputs
    is_text = stream.table.is_text[stream.words]
    number = np.cumsum(is_text) - 1
    raw = np.random.Philox(key=0).random_raw(-(-(int(number[-1]) + 1) // folds) * folds).reshape(-1, folds)
    order = np.argsort(raw, axis=1, kind="stable").reshape(-1)
    fold = np.where(is_text, order[np.maximum(number, 0)] if len(order) else 0, -1)
    for index in range(folds):
        words = np.where(fold == index, stream.words, inputs.words)
        rows = cut_rows(dataclasses.replace(inputs, words=words), shape)
        yield from _masked_rows(rows, fold == index, batch_size)


def document_rows(stream: WordStream, shape: RowShape, *, batch_size: int) -> Iterator[WordBatch]:
    """Yields batches of one document per row, from its start and as much as fits; nothing is masked.

    Args:
      stream: the documents.
      shape: of the rows; documents that have no words are rows of padding.
      batch_size: rows of each batch, B; the last one is padded.
    """
    ends = np.concatenate([[0], np.cumsum(stream.table.counts[stream.words])])
    starts, stops = stream.boundaries[:-1], stream.boundaries[1:]
    fit = np.searchsorted(ends, ends[starts] + shape.pieces, side="right") - 1
    spans = list(zip(starts.tolist(), np.minimum(np.minimum(stops, fit), starts + shape.words).tolist(), strict=True))
    for first in range(0, len(spans), batch_size):
        chunk = spans[first : first + batch_size]
        chunk += [(0, 0)] * (batch_size - len(chunk))
        yield _assemble(stream, chunk, shape, _Masking.empty(batch_size, shape))


def _masked_rows(rows: WordRows, masked: np.ndarray, batch_size: int) -> Iterator[WordBatch]:
    for first in range(0, rows.count, batch_size):
        spans = [(0, 0)] * batch_size
        masking = _Masking.empty(batch_size, rows.shape)
        for index, row in enumerate(range(first, min(first + batch_size, rows.count))):
            spans[index] = (int(rows.starts[row]), int(rows.starts[row + 1]))
            slots = np.flatnonzero(masked[slice(*spans[index])])
            masking.slots[index, : len(slots)] = slots
            masking.action[index, : len(slots)] = _MASK
        yield _assemble(rows.stream, spans, rows.shape, masking)


@dataclasses.dataclass(frozen=True, slots=True)
class _Masking:
    """Which words of each row are predicted and what is read in their place.

    Attributes:
      slots: int32 [B, M], -1 where there is none.
      action: int8 [B, M].
      word: float64 [B, W] in [0, 1), picks a word of the row.
      piece: float64 [B, T] in [0, 1), picks any piece.
    """

    slots: np.ndarray
    action: np.ndarray
    word: np.ndarray
    piece: np.ndarray

    @classmethod
    def empty(cls, batch_size: int, shape: RowShape) -> "_Masking":
        return cls(
            np.full((batch_size, shape.predicted), -1, np.int32),
            np.full((batch_size, shape.predicted), _KEEP, np.int8),
            np.zeros((batch_size, shape.words)),
            np.zeros((batch_size, shape.pieces)),
        )

    def draw(self, index: int, is_text: np.ndarray, rate: float, seed: int, row: int) -> None:
        """Fills row `index` from the random bits of (seed, row)."""
        M, W, T = self.slots.shape[1], self.word.shape[1], self.piece.shape[1]
        uniform = random_fractions(seed, _MASK_STREAM + row, M + 2 * W + T)
        action, order, self.word[index], self.piece[index] = np.split(uniform, np.cumsum([M, W, W]))
        words = int(is_text.sum())
        count = min(M, words, max(1, round(rate * words)))
        chosen = np.argsort(order[: len(is_text)] + ~is_text, kind="stable")[:count]
        self.slots[index, :count] = np.sort(chosen)
        self.action[index] = np.where(action < MASKED, _MASK, np.where(action < MASKED + RANDOM, _RANDOM, _KEEP))

    def of_words(self, shape: tuple[int, ...]) -> np.ndarray:
        """Returns the action on every word, int8 [B, W]."""
        action = np.full(shape, _KEEP, np.int8)
        row, column = np.nonzero(self.slots >= 0)
        action[row, self.slots[row, column]] = self.action[row, column]
        return action


def _assemble(stream: WordStream, spans: Sequence[tuple[int, int]], shape: RowShape, masking: _Masking) -> WordBatch:
    """Builds the batch of the words of each span, masked."""
    table = stream.table
    words, segments = np.zeros((2, len(spans), shape.words), np.int32)
    for row, (start, stop) in enumerate(spans):
        words[row, : stop - start] = stream.words[start:stop]
        document = np.searchsorted(stream.boundaries, np.arange(start, stop), side="right")
        segments[row, : stop - start] = document - (document[0] - 1 if stop > start else 0)
    action = masking.of_words(words.shape)
    counts = table.counts[words] * (segments > 0)
    if shape.one_mask:
        counts = np.where(action == _MASK, 1, counts)
    first = np.cumsum(counts, axis=1) - counts
    pieces, owner, is_piece = _lay_out(table, words, counts, first, shape.pieces)
    word_bytes, lengths = _read_bytes(table, words, segments, action, masking)
    at = np.maximum(masking.slots, 0)
    predicted = np.take_along_axis(words, at, axis=1)
    target_counts = np.where(masking.slots >= 0, table.counts[predicted], 0)
    place = table.offsets[predicted][..., None] + np.arange(shape.targets)
    is_target = np.arange(shape.targets) < target_counts[..., None]
    values = {
        "word_bytes": word_bytes,
        "lengths": lengths,
        "segment_ids": segments,
        "pieces": _read_pieces(table, pieces, np.take_along_axis(action, owner, axis=1) * is_piece, masking),
        "piece_segment_ids": np.take_along_axis(segments, owner, axis=1) * is_piece,
        "first_piece": first,
        "at": at,
        "targets": np.where(is_target, table.pieces[np.minimum(place, len(table.pieces) - 1)], 0),
        "target_counts": target_counts,
    }
    arrays = {name: value.astype(np.int32) for name, value in values.items()}
    return WordBatch(**arrays)  # type: ignore[arg-type]  # host arrays


def _lay_out(
    table: WordTable, words: np.ndarray, counts: np.ndarray, first: np.ndarray, length: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns [B, T]: the pieces of each row's words end to end, which word each is of, and whether it is one."""
    pieces, owner = np.zeros((2, len(words), length), np.int32)
    totals = counts.sum(axis=1)
    for row, total in enumerate(totals.tolist()):
        start = np.repeat(table.offsets[words[row]] - first[row], counts[row])
        pieces[row, :total] = table.pieces[start + np.arange(total)]
        owner[row, :total] = np.repeat(np.arange(words.shape[1]), counts[row])
    return pieces, owner, np.arange(length) < totals[:, None]


def _read_bytes(
    table: WordTable, words: np.ndarray, segments: np.ndarray, action: np.ndarray, masking: _Masking
) -> tuple[np.ndarray, np.ndarray]:
    """Returns what is read of each word, [B, W, L], and its length [B, W]; a random word is another of its row."""
    filled = (segments > 0).sum(axis=1, keepdims=True)
    other = np.take_along_axis(words, (masking.word * filled).astype(np.int64), axis=1)
    read = np.where(action == _RANDOM, other, words)
    word_bytes, lengths = table.word_bytes[read].astype(np.int32), table.lengths[read] * (segments > 0)
    word_bytes[action == _MASK] = 0
    word_bytes[action == _MASK, 0] = MASK_BYTE
    return word_bytes, np.where(action == _MASK, 1, lengths)


def _read_pieces(table: WordTable, pieces: np.ndarray, action: np.ndarray, masking: _Masking) -> np.ndarray:
    """Returns what is read of each piece, [B, T]; a random piece is any of the vocabulary."""
    drawn = (masking.piece * table.mask_piece).astype(np.int64)
    return np.where(action == _MASK, table.mask_piece, np.where(action == _RANDOM, drawn, pieces))
