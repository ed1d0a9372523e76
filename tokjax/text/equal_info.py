"""Equal-info windows: tokens that each hold the same information, W bits of it under an entropy model.

Letters: `K` windows, `N` bits of an id, `T` tokens, `W` bits of a window.
"""

import dataclasses
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Literal

import jax
import numpy as np

from tokjax.coding import cdf, windows
from tokjax.coding.entropy import Engine, fit_entropy, unpack
from tokjax.coding.ngram import sample_records
from tokjax.coding.windows import Window
from tokjax.core.cached import cached_engine
from tokjax.core.errors import TokenizerError
from tokjax.core.registry import tokenizers
from tokjax.core.spec import check
from tokjax.core.types import Source, Tables
from tokjax.text.compressed import LESTER, Coded, Compressed

WIDTHS = (8, 16, 24, 32, 64, 128)
AUDITED = 200_000  # bytes of the source on which fitting measures how often the published rule mis-decodes

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
class EqualInfo(Compressed):
    """Arithmetic coding in windows of equal information: coder and model start anew at each.

    With `window_bits` equal to `token_bits`, an id stands for the same bytes everywhere.

    Attributes:
      window_bits: W.
      mode: `delay` is lossless; `paper` ends windows as published, where some do not decode (`audit` counts them).
      entropy: the model: `ngram`, `unigram`, either with fields as in `ngram:order=4`, or the directory of a trained
        one.
      precision: F; probabilities are multiples of 2**-F.
      longest: bytes that a window holds at most.
      chunk_bytes: a window ends with its chunk.
    """

    separated: ClassVar[bool] = False

    window_bits: Literal[8, 16, 24, 32, 64, 128] = 16
    mode: Literal["paper", "delay"] = "delay"
    entropy: str = "ngram"
    precision: int = cdf.PRECISION
    longest: int = 128
    chunk_bytes: int = 10_240

    def __post_init__(self):
        super().__post_init__()
        low, high = cdf.FEWEST, cdf.MOST
        check(self.window_bits in WIDTHS, "window_bits", self.window_bits, f"use one of {WIDTHS}.")
        check(self.mode in ("paper", "delay"), "mode", self.mode, "use 'paper' or 'delay'.")
        check(low <= self.precision <= high, "precision", self.precision, f"use {low} to {high} bits.")
        check(self.longest >= 1, "longest", self.longest, "use a positive number of bytes.")

    @property
    def lossless(self) -> bool:  # type: ignore[override]
        """Whether every text comes back."""
        return self.mode != "paper"

    @property
    def context_free(self) -> bool:  # type: ignore[override]
        """Whether an id is one window."""
        return self.window_bits == self.token_bits and not self._window.escapes

    @property
    def _window(self) -> Window:
        return Window(self.window_bits, self.precision, self.longest, self.mode)

    def fit(self, source: Source, key: jax.Array | None = None) -> Tables:
        """Fits the entropy model to every record. `key` is not used."""
        del key
        tables = fit_entropy(self.entropy, source).pack()
        if not self.lossless:
            found = self.audit(tables, sample_records(source, AUDITED))
            message = "with mode=paper %.1f%% of %d windows decode to other bytes; mode=delay is lossless"
            log.warning(message, 100 * found.rate, found.windows)
        return tables

    def audit(self, tables: Tables, documents: Iterable[bytes]) -> Audit:
        """Codes `documents`, decodes every window by itself and counts those that come back wrong."""
        step = self.chunk_bytes
        chunks = [raw[start : start + step] for raw in documents for start in range(0, len(raw), step)]
        coded = windows.encode(_engine(self, tables), self._window, chunks)
        written = np.concatenate([np.bincount(bits // self.window_bits, minlength=len(codes)) for codes, bits in coded])
        text, read, _ = self._decode_windows(tables, np.concatenate([codes for codes, _ in coded]))
        original, decoded = b"".join(chunks), text.tobytes()
        spans = zip(_spans(written), _spans(read), strict=True)
        return Audit(len(read), sum(original[ours] != decoded[theirs] for ours, theirs in spans))

    @property
    def _last_bytes(self) -> bool:
        return self.token_bits == 16 and self.window_bits % 16 != 0

    def _compress(self, tables: Tables, chunks: Sequence[bytes]) -> list[Coded]:
        coded = windows.encode(_engine(self, tables), self._window, chunks)
        return [(_to_bytes(codes, self.window_bits), bits) for codes, bits in coded]

    def _decompress(self, tables: Tables, codes: Sequence[bytes]) -> list[Coded]:
        return [self._decompress_one(tables, code) for code in codes]

    def _decompress_one(self, tables: Tables, code: bytes) -> Coded:
        if len(code) % (self.window_bits // 8):
            raise TokenizerError(f"The ids end inside a window of {self.window_bits} bits: they are cut short.")
        text, counts, bits = self._decode_windows(tables, _from_bytes(code, self.window_bits))
        return text.tobytes(), bits + np.repeat(np.arange(len(counts)) * self.window_bits, counts)

    def _decode_windows(self, tables: Tables, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As `windows.decode`, of codes with escapes: an escape gives no byte, the window after it gives its own."""
        literal, escape = _literals(codes, self._window)
        coded = ~literal & ~escape
        text, counts, bits = windows.decode(_engine(self, tables), self._window, codes[coded])
        all_counts = np.zeros(len(codes), np.int64)
        all_counts[coded], all_counts[literal] = counts, 1
        at_literal = np.repeat(literal, all_counts)
        all_text, all_bits = np.zeros(len(at_literal), np.uint8), np.zeros(len(at_literal), np.int64)
        all_text[~at_literal], all_bits[~at_literal] = text, bits
        all_text[at_literal] = codes[literal, 0] >> (32 - self.window_bits) if literal.any() else 0
        all_bits[at_literal] = self.window_bits - 1
        return all_text, all_counts, all_bits

    def safe_ids(self, tables: Tables, ids: np.ndarray) -> int:
        del tables
        safe = self._ends(ids) % self.window_bits == 0
        if self._window.escapes:  # not between an escape and its byte
            safe &= np.asarray(ids) & 0xFF != (1 << self.window_bits) - 1
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
def _engine(spec: EqualInfo, tables: Tables) -> Engine:
    return unpack(tables).engine(precision=spec.precision)
