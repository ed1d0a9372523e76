"""The types on the arrows of the data flow: Source -> Tokenizer -> Batch -> System -> Scores.

Letters: `B` batch, `T` tokens, `V` vocabulary, `D` width, `S` codes of a vector.
"""

import abc
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import flax.struct
import jax
import numpy as np

Params = Any  # a nested dict of arrays
Tables = dict[str, np.ndarray]  # what fitting a tokenizer produces


@runtime_checkable
class Source(Protocol):
    """A finite random-access sequence of distinct raw records. Same name and version, same records."""

    name: str
    duplicates: int  # exact duplicates removed when the source was opened

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> bytes: ...

    def __iter__(self) -> Iterator[bytes]: ...

    def split(self, name: str) -> Self:
        """The records whose content hash falls in 'train', 'valid' or 'test'."""
        ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all records in order, 16 hex digits."""
        ...


class Tokenizer(abc.ABC):
    """Base of tokenizer specs: a frozen dataclass whose methods are pure functions of `tables`.

    Ids run from 0 to `size(tables) - 1`. The id `size(tables)` is the end of a document; windows add it,
    tokenizers never emit it.
    """

    lossless: ClassVar[bool] = True
    needs_fit: ClassVar[bool] = True
    context_free: ClassVar[bool] = True  # an id is the same bytes everywhere; if not, decode whole documents

    @abc.abstractmethod
    def fit(self, source: Source, key: jax.Array | None = None) -> Tables:
        """Learns the tables from every record of `source`. Deterministic in (self, records, key)."""

    @abc.abstractmethod
    def encode(self, tables: Tables, raw: bytes) -> np.ndarray:
        """Returns the int32 ids [T] of `raw`, any byte string."""

    @abc.abstractmethod
    def decode(self, tables: Tables, ids: np.ndarray) -> bytes:
        """Returns the bytes that `ids` [T] stand for; a concatenation over ids where they are context free.

        Raises:
          TokenizerError: an id outside the vocabulary, or ids that no text has.
        """

    @abc.abstractmethod
    def units(self, tables: Tables, ids: np.ndarray) -> np.ndarray:
        """Returns how many bytes each id stands for, int32 [T]; sums to `len(decode(tables, ids))`."""

    @abc.abstractmethod
    def size(self, tables: Tables) -> int:
        """Returns the number of ids, end of document not included."""

    @property
    def word_cap(self) -> int | None:
        """Bytes of the longest word, if ids are the bytes of the splitter's words, each closed by id 256; else None.

        Text over such ids can be generated character by character, as `generate.bytewise` does.
        """
        return None

    def safe_cut(self, tables: Tables, raw: bytes) -> int:
        """Returns a length n such that encode(raw[:n]) + encode(raw[n:] + more) == encode(raw + more) for every `more`.

        0 when no such place is known yet. Streams encode up to here and carry the rest.
        """
        del tables
        return len(raw)

    def safe_ids(self, tables: Tables, ids: np.ndarray) -> int:
        """Returns a count n such that decode(ids[:n]) + decode(ids[n:] + more) == decode(ids + more) for all `more`.

        0 when no such place is known yet.
        """
        del tables
        return len(ids)

    def encode_many(self, tables: Tables, documents: Iterable[bytes]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields (ids, units) of each document, in order; faster than one by one where documents share a program."""
        for raw in documents:
            ids = self.encode(tables, raw)
            yield ids, self.units(tables, ids)

    def signature(self, tables: Tables) -> dict[str, Any]:
        """Returns what must be equal where ids are decoded, beyond the tables; empty if they decode anywhere."""
        del tables
        return {}


@flax.struct.dataclass
class Batch:
    """Packed rows of a token stream. All arrays are [B, T].

    Attributes:
      ids: int32, what the model reads. A document starts with the end-of-document id.
      targets: int32, what it must predict at each position.
      loss_mask: float32, 1 where the target counts.
      segment_ids: int32, which document of the row a position belongs to; 0 is padding.
      positions: int32, distance from the start of the segment.
      units: int32, bytes that each target stands for; 0 at the end of a document.
    """

    ids: jax.Array
    targets: jax.Array
    loss_mask: jax.Array
    segment_ids: jax.Array
    positions: jax.Array
    units: jax.Array


@flax.struct.dataclass
class Scores:
    """What a language system says of each target.

    Attributes:
      nll: float32 [B, T], negative log likelihood in nats; 0 where the batch's mask is 0.
      correct: float32 [B, T], 1 where the most likely id is the target.
      overflow: float32 scalar, targets past a cap; they are predicted all the same, from what the cap let through.
    """

    nll: jax.Array
    correct: jax.Array
    overflow: jax.Array


Aux = dict[str, tuple[jax.Array, jax.Array]]  # metric name -> (sum, count), merged outside jit


@flax.struct.dataclass
class Quantized:
    """What a quantizer makes of vectors [..., D].

    Attributes:
      codes: int32 [...], or [..., S] where a vector has S codes; -1 where there is none.
      vectors: [..., D], what the codes stand for, with a gradient to what was quantized.
      loss: float32 scalar, to be added to what is trained; its terms are means over vectors and channels.
      state: what the next step starts from; unchanged outside training.
      stats: metrics of this batch of codes.
    """

    codes: jax.Array
    vectors: jax.Array
    loss: jax.Array
    state: Params
    stats: Aux


class System(abc.ABC):
    """What one paper adds: a frozen spec with pure functions over parameter pytrees."""

    @abc.abstractmethod
    def declare(self) -> Any:
        """Returns the tree of `nn.param.Param` declarations: shape, logical axes and initialiser of every array."""

    @abc.abstractmethod
    def loss(self, params: Params, state: Params, batch: Any, key: jax.Array) -> tuple[jax.Array, tuple[Params, Aux]]:
        """Returns (scalar loss, (new state, metrics)). `state` is what gradients do not train."""

    @abc.abstractmethod
    def flops(self, batch_size: int, length: int) -> float:
        """Returns the forward FLOPs (multiply and add are two) of one batch of this static shape."""

    def init_state(self, key: jax.Array) -> Params:
        """Returns the initial non-trained state; most systems have none."""
        del key
        return {}
