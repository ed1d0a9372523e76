"""Equal-info windows: tokens that each hold the same information, W bits of it under an entropy model.

Letters: `K` windows, `N` bits of an id, `T` tokens, `W` bits of a window.
"""

import dataclasses
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Literal

import jax
import numpy as np

from tokjax.coding import cdf, strings, windows
from tokjax.coding.entropy import Engine, fit_entropy, unpack
from tokjax.coding.ngram import sample_records
from tokjax.coding.papers import LESTER
from tokjax.coding.windows import Window
from tokjax.core.cached import cached_engine
from tokjax.core.errors import SpecError, TokenizerError
from tokjax.core.registry import tokenizers
from tokjax.core.spec import check
from tokjax.core.types import Source, Tables, Tokenizer
from tokjax.text.compressed import Coded, Compressed
from tokjax.text.string_table import StringTable

WIDTHS = (8, 16, 24, 32, 64, 128)
MOST_STRINGS = 1 << 17  # of mode `ids`
MOST_BYTES = 4096  # of a window
AUDITED = 50_000  # bytes of the source on which fitting measures how often the published rule mis-decodes

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Audit:
    """How windows decode.

    Attributes:
      windows: how many were coded.
      wrong: how many of them gave back other bytes than they were made of.
    """

    windows: int
    wrong: int

    @property
    def rate(self) -> float:
        """The share of windows that mis-decode."""
        return self.wrong / max(self.windows, 1)


@tokenizers.register("equal_info", papers=(LESTER,))
@dataclasses.dataclass(frozen=True, kw_only=True)
class EqualInfo(Tokenizer):
    """Arithmetic coding in windows of equal information: coder and model start anew at each.

    Three modes say where a window ends and what its id is:

    - `delay`, lossless: where no shorter start of the window has the same code. Ids are the bits of the codes.
    - `paper`, as published: as late as the code still fits; some windows do not decode, and fitting says how many.
    - `ids`, lossless: as late as `paper`, but every string that fits a window is an id of its own. No model runs.

    With `window_bits` equal to `token_bits`, or by `ids`, an id stands for the same bytes everywhere.

    Attributes:
      window_bits: W; at most 16 for `ids`.
      token_bits: N, 8 or 16; not used by `ids`.
      mode: as above.
      entropy: the model: `ngram`, `unigram`, either with fields as in `ngram:order=4`, or the directory of a trained
        one.
      precision: F; probabilities are multiples of 2**-F.
      longest: bytes that a window holds at most.
      resets: whether the model starts anew at each window; if not, which only `paper` allows, nothing can be learned
        from the ids (Lester et al. 2024, section 5.4).
      chunk_bytes: a window ends where such a stretch of a document ends; not so for `ids`.
    """

    window_bits: Literal[8, 16, 24, 32, 64, 128] = 16
    token_bits: Literal[8, 16] = 16
    mode: Literal["delay", "paper", "ids"] = "delay"
    entropy: str = "ngram"
    precision: int = cdf.PRECISION
    longest: int = 128
    resets: bool = True
    chunk_bytes: int = 10_240

    def __post_init__(self):
        low, high = cdf.FEWEST, cdf.MOST
        check(self.mode in ("delay", "paper", "ids"), "mode", self.mode, "use 'delay', 'paper' or 'ids'.")
        check(self.window_bits in WIDTHS, "window_bits", self.window_bits, f"use one of {WIDTHS}.")
        few = self.mode != "ids" or self.window_bits <= 16
        check(few, "window_bits", self.window_bits, "mode=ids has an id for every string; use 8 or 16.")
        check(low <= self.precision <= high, "precision", self.precision, f"use {low} to {high} bits.")
        check(self.resets or self.mode == "paper", "resets", self.resets, "only mode=paper can do without.")
        check(1 <= self.longest <= MOST_BYTES, "longest", self.longest, f"use 1 to {MOST_BYTES} bytes.")
        Compressed.__post_init__(self)  # type: ignore[arg-type]  # the fields of the same name

    @property
    def _coder(self) -> "_Strings | _Windows":
        if self.mode == "ids":
            window = Window(self.window_bits, self.precision, self.longest, "paper")
            return _Strings(window=window, entropy=self.entropy)
        window = Window(self.window_bits, self.precision, self.longest, self.mode, self.resets)
        return _Windows(window=window, entropy=self.entropy, token_bits=self.token_bits, chunk_bytes=self.chunk_bytes)

    @property
    def lossless(self) -> bool:  # type: ignore[override]
        """Whether every text comes back."""
        return self.mode != "paper"

    @property
    def context_free(self) -> bool:  # type: ignore[override]
        """Whether an id stands for the same bytes everywhere."""
        return self._coder.context_free

    def fit(self, source: Source, key: jax.Array | None = None) -> Tables:
        """Fits the entropy model to every record. `key` is not used.

        Raises:
          SourceError: the source holds no bytes.
          SpecError: more strings fit a window than `ids` may have.
        """
        return self._coder.fit(source, key)

    def audit(self, tables: Tables, documents: Iterable[bytes]) -> Audit:
        """Codes `documents`, decodes every window by itself and counts those that come back wrong.

        Raises:
          SpecError: mode is `ids`, which has no codes, or the model does not reset.
        """
        if isinstance(self._coder, _Strings):
            raise SpecError("mode: got 'ids'; its windows are strings of a table, and decode by look-up.")
        check(self.resets, "resets", self.resets, "no window decodes by itself then.")
        return self._coder.audit(tables, documents)

    def encode(self, tables: Tables, raw: bytes) -> np.ndarray:
        return self._coder.encode(tables, raw)

    def encode_many(self, tables: Tables, documents: Iterable[bytes]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return self._coder.encode_many(tables, documents)

    def decode(self, tables: Tables, ids: np.ndarray) -> bytes:
        return self._coder.decode(tables, ids)

    def units(self, tables: Tables, ids: np.ndarray) -> np.ndarray:
        return self._coder.units(tables, ids)

    def size(self, tables: Tables) -> int:
        return self._coder.size(tables)

    def safe_cut(self, tables: Tables, raw: bytes) -> int:
        return self._coder.safe_cut(tables, raw)

    def safe_ids(self, tables: Tables, ids: np.ndarray) -> int:
        return self._coder.safe_ids(tables, ids)

    def signature(self, tables: Tables) -> dict[str, Any]:
        return self._coder.signature(tables)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Strings(StringTable):
    """Mode `ids`: every string that fits a window."""

    window: Window
    entropy: str

    def fit(self, source: Source, key: jax.Array | None = None) -> Tables:
        del key
        model = fit_entropy(self.entropy, source)
        return strings.from_strings(strings.fitting_strings(model.next_probabilities, self.window, MOST_STRINGS))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Windows(Compressed):
    """Modes `delay` and `paper`: the codes of windows, end to end."""

    separated: ClassVar[bool] = False

    window: Window
    entropy: str

    @property
    def context_free(self) -> bool:  # type: ignore[override]
        """Whether an id is one window, decoded by itself."""
        return self.window.bits == self.token_bits and not self.window.escapes and self.window.resets

    def fit(self, source: Source, key: jax.Array | None = None) -> Tables:
        del key
        tables = fit_entropy(self.entropy, source).pack()
        if self.window.rule == "paper" and self.window.resets:
            found = self.audit(tables, sample_records(source, AUDITED))
            message = "with mode=paper %.1f%% of %d windows decode to other bytes; delay and ids are lossless"
            log.warning(message, 100 * found.rate, found.windows)
        return tables

    def audit(self, tables: Tables, documents: Iterable[bytes]) -> Audit:
        """Codes `documents`, decodes every window by itself and counts those that come back wrong."""
        step = self.chunk_bytes
        chunks = [raw[start : start + step] for raw in documents for start in range(0, len(raw), step)]
        coded = windows.encode(_engine(self, tables), self.window, chunks)
        written = np.concatenate([np.bincount(bits // self.window.bits, minlength=len(codes)) for codes, bits in coded])
        text, read, _ = self._decode_windows(tables, np.concatenate([codes for codes, _ in coded]))
        original, decoded = b"".join(chunks), text.tobytes()
        spans = zip(_spans(written), _spans(read), strict=True)
        return Audit(len(read), sum(original[ours] != decoded[theirs] for ours, theirs in spans))

    @property
    def _last_bytes(self) -> bool:
        return self.token_bits == 16 and self.window.bits % 16 != 0

    def _compress(self, tables: Tables, chunks: Sequence[bytes]) -> list[Coded]:
        coded = windows.encode(_engine(self, tables), self.window, chunks)
        return [(_to_bytes(codes, self.window.bits), bits) for codes, bits in coded]

    def _decompress(self, tables: Tables, codes: Sequence[bytes]) -> list[Coded]:
        return [self._decompress_one(tables, code) for code in codes]

    def _decompress_one(self, tables: Tables, code: bytes) -> Coded:
        if len(code) % (self.window.bits // 8):
            raise TokenizerError(f"The ids end inside a window of {self.window.bits} bits: they are cut short.")
        text, counts, bits = self._decode_windows(tables, _from_bytes(code, self.window.bits))
        return text.tobytes(), bits + np.repeat(np.arange(len(counts)) * self.window.bits, counts)

    def _decode_windows(self, tables: Tables, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As `windows.decode`, of codes with escapes: an escape gives no byte, the window after it gives its own."""
        literal, escape = _literals(codes, self.window)
        coded = ~literal & ~escape
        text, counts, bits = windows.decode(_engine(self, tables), self.window, codes[coded])
        all_counts = np.zeros(len(codes), np.int64)
        all_counts[coded], all_counts[literal] = counts, 1
        at_literal = np.repeat(literal, all_counts)
        all_text, all_bits = np.zeros(len(at_literal), np.uint8), np.zeros(len(at_literal), np.int64)
        all_text[~at_literal], all_bits[~at_literal] = text, bits
        all_text[at_literal] = codes[literal, 0] >> (32 - self.window.bits) if literal.any() else 0
        all_bits[at_literal] = self.window.bits - 1
        return all_text, all_counts, all_bits

    def safe_ids(self, tables: Tables, ids: np.ndarray) -> int:
        del tables
        if not self.window.resets:
            return 0
        safe = self._ends(ids) % self.window.bits == 0
        if self.window.escapes:  # not between an escape and its byte
            safe &= np.asarray(ids) & 0xFF != (1 << self.window.bits) - 1
        return int(np.flatnonzero(safe).max(initial=-1)) + 1

    def signature(self, tables: Tables) -> dict[str, Any]:
        return _engine(self, tables).signature


def _spans(counts: np.ndarray) -> Iterator[slice]:
    """The stretches of so many bytes each that lie end to end."""
    ends = np.cumsum(counts)
    return map(slice, (ends - counts).tolist(), ends.tolist())


def _to_bytes(codes: np.ndarray, window_bits: int) -> bytes:
    """Lays codes uint32 [K, U] end to end, the first `window_bits` bits of each."""
    return codes.astype(">u4").view(np.uint8).reshape(len(codes), -1)[:, : window_bits // 8].tobytes()


def _from_bytes(code: bytes, window_bits: int) -> np.ndarray:
    """The inverse of `_to_bytes`."""
    width = -(-window_bits // 32) * 4
    padded = np.zeros((len(code) * 8 // window_bits, width), np.uint8)
    padded[:, : window_bits // 8] = np.frombuffer(code, np.uint8).reshape(len(padded), -1)
    return padded.view(">u4").astype(np.uint32)


def _literals(codes: np.ndarray, window: Window) -> tuple[np.ndarray, np.ndarray]:
    """Returns which windows are plain bytes and which the escapes before them, bool [K] each."""
    literal, escape = np.zeros(len(codes), bool), np.zeros(len(codes), bool)
    if window.escapes:
        for index in np.flatnonzero(codes[:, 0] >> (32 - window.bits) == (1 << window.bits) - 1):
            if not literal[index]:
                escape[index] = True
                literal[index + 1 : index + 2] = True
    return literal, escape


@cached_engine
def _engine(spec: _Windows, tables: Tables) -> Engine:
    return unpack(tables).engine(precision=spec.window.precision)
