"""Images as codes: what generators learn from, as rows of a language model or as codes beside their class.

In rows of a language model, ids are the codes, then the classes, then one more in place of a class that is not known,
or not told.

Letters: `B` batch, `N` images, `T` codes of an image, `K` codes there are.
"""

import dataclasses
from collections.abc import Iterator

import flax.struct
import jax
import numpy as np

from tokjax.core.errors import SourceError
from tokjax.core.spec import check
from tokjax.core.types import Batch
from tokjax.data.order import epoch_order, random_fractions, rows_of_host

_CLASS_STREAM = 1 << 63  # keeps the random bits of dropped classes apart from those of the order of rows


@flax.struct.dataclass
class CodeBatch:
    """Codes of images, and what they show.

    Attributes:
      codes: int32 [B, T].
      labels: int32 [B], index of the class; -1 where there is none.
      mask: float32 [B], 1 where the row is an image, 0 where it pads a batch.
    """

    codes: jax.Array
    labels: jax.Array
    mask: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodeVocabulary:
    """Which id stands for what.

    Attributes:
      codes: K.
      classes: names of labels there are; 0 where images have none.
    """

    codes: int
    classes: int

    def __post_init__(self):
        check(self.codes >= 1, "codes", self.codes, "must be at least 1.")
        check(self.classes >= 0, "classes", self.classes, "must not be negative.")

    @property
    def size(self) -> int:
        """V of a model that reads and predicts these ids."""
        return self.codes + self.classes + 1

    @property
    def no_class(self) -> int:
        """The id of any class; the last, which starts a document of text."""
        return self.size - 1

    def prompt(self, labels: np.ndarray) -> np.ndarray:
        """Returns the rows int32 [N, 1] that images of `labels` int [N] start with; -1 is no class.

        Raises:
          SourceError: a label that is no class.
        """
        labels = np.asarray(labels)
        if labels.size and not (labels.min() >= -1 and labels.max() < self.classes):
            raise SourceError(f"labels: {labels.min()} to {labels.max()}; use -1 to {self.classes - 1}.")
        return np.where(labels < 0, self.no_class, self.codes + labels).astype(np.int32)[:, None]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class CodeRows:
    """Images as codes.

    Attributes:
      vocabulary: what ids stand for.
      codes: int [N, T], all of which exist; for a generator of the first codes, only these.
      labels: int [N], -1 where there is none.
    """

    vocabulary: CodeVocabulary
    codes: np.ndarray
    labels: np.ndarray

    def __post_init__(self):
        shape, K = np.shape(self.codes), self.vocabulary.codes
        if len(shape) != 2 or 0 in shape or np.shape(self.labels) != shape[:1]:
            raise SourceError(f"codes {shape}, labels {np.shape(self.labels)}: expected [N, T] and [N], not empty.")
        if not (self.codes.min() >= 0 and self.codes.max() < K):
            raise SourceError(f"codes: {self.codes.min()} to {self.codes.max()}; this vocabulary has 0 to {K - 1}.")
        self.vocabulary.prompt(self.labels)


def train_code_rows(
    rows: CodeRows, step: int, *, seed: int, batch_size: int, class_drop: float = 0.1, host: int = 0, hosts: int = 1
) -> Batch:
    """Returns the rows of one host for one step: a pure function of the arguments.

    Every epoch visits each image once in random order; batches run on from one epoch into the next.

    Args:
      rows: the images.
      step: which batch, from 0.
      seed: which order and classes, from 0 to 2**63 - 1.
      batch_size: rows of all hosts together, B.
      class_drop: share of rows that do not tell their class, which classifier-free guidance needs.
      host: which of the hosts asks; its rows are B / hosts consecutive rows of the batch.
      hosts: how many there are.

    Returns:
      A batch of NumPy arrays [B / hosts, T]: the class and all codes but the last are read, all codes are predicted.
      Codes stand for no bytes: `units` is 0.

    Raises:
      SpecError: a number outside its range, or hosts that do not divide the batch.
    """
    check(0 <= class_drop <= 1, "class_drop", class_drop, "a share is from 0 to 1.")
    numbers = rows_of_host(step, seed=seed, batch_size=batch_size, host=host, hosts=hosts)
    chosen = _in_order(rows, numbers, seed)
    told = np.array([random_fractions(seed, _CLASS_STREAM + n, 1)[0] >= class_drop for n in numbers])
    return _batch(rows, chosen, np.where(told, rows.labels[chosen], -1), batch_size // hosts)


def eval_code_rows(rows: CodeRows, *, batch_size: int) -> Iterator[Batch]:
    """Yields batches that hold every image once, in order, with its class; the last is padded with rows that count not.

    Raises:
      SpecError: `batch_size` is below 1.
    """
    return (_batch(rows, part, rows.labels[part], batch_size) for part in _parts(rows, batch_size))


def train_codes(rows: CodeRows, step: int, *, seed: int, batch_size: int, host: int = 0, hosts: int = 1) -> CodeBatch:
    """Returns the same images as `train_code_rows`, their codes beside their class; it is the model that drops classes.

    Raises:
      SpecError: a number outside its range, or hosts that do not divide the batch.
    """
    numbers = rows_of_host(step, seed=seed, batch_size=batch_size, host=host, hosts=hosts)
    return _codes(rows, _in_order(rows, numbers, seed), batch_size // hosts)


def eval_codes(rows: CodeRows, *, batch_size: int) -> Iterator[CodeBatch]:
    """Yields the same images as `eval_code_rows`, their codes beside their class.

    Raises:
      SpecError: `batch_size` is below 1.
    """
    return (_codes(rows, part, batch_size) for part in _parts(rows, batch_size))


def _in_order(rows: CodeRows, numbers: range, seed: int) -> np.ndarray:
    count = len(rows.codes)
    return np.array([epoch_order(seed, n // count, count)[n % count] for n in numbers])


def _parts(rows: CodeRows, batch_size: int) -> Iterator[np.ndarray]:
    check(batch_size >= 1, "batch_size", batch_size, "must be at least 1.")
    return (np.arange(s, min(s + batch_size, len(rows.codes))) for s in range(0, len(rows.codes), batch_size))


def _codes(rows: CodeRows, chosen: np.ndarray, size: int) -> CodeBatch:
    missing = size - len(chosen)
    values = {
        "codes": np.pad(rows.codes[chosen].astype(np.int32), ((0, missing), (0, 0))),
        "labels": np.pad(rows.labels[chosen].astype(np.int32), (0, missing), constant_values=-1),
        "mask": np.pad(np.ones(len(chosen), np.float32), (0, missing)),
    }
    return CodeBatch(**values)  # type: ignore[arg-type]  # host arrays


def _batch(rows: CodeRows, chosen: np.ndarray, labels: np.ndarray, size: int) -> Batch:
    codes = rows.codes[chosen].astype(np.int32)
    exists = np.pad(np.ones_like(codes), ((0, size - len(codes)), (0, 0)))
    codes = np.pad(codes, ((0, size - len(codes)), (0, 0)))
    prompt = rows.vocabulary.prompt(np.pad(labels, (0, size - len(labels)), constant_values=-1))
    values = {
        "ids": np.concatenate([prompt, codes[:, :-1]], axis=1),
        "targets": codes,
        "loss_mask": exists.astype(np.float32),
        "segment_ids": exists,
        "positions": np.broadcast_to(np.arange(codes.shape[1], dtype=np.int32), codes.shape),
        "units": np.zeros_like(codes),
    }
    return Batch(**values)  # type: ignore[arg-type]  # host arrays
