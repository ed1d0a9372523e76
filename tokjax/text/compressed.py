"""Compressed text as tokens: the bits of a lossless code, cut into ids of 8 or 16 bits.

A document is coded in chunks, so that long ones stream and code side by side. Ids from 0 are the bits themselves.
Above them come 256 ids for a last byte that does not fill 16 bits and, where codes do not show their own end, one id
that closes a full chunk.

Letters: `N` bits of an id, `T` tokens.
"""

import abc
import dataclasses
import itertools
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Literal

import jax
import numpy as np

from tokjax.coding import cdf, streams
from tokjax.coding.entropy import BYTES, Engine, fit_entropy, unpack
from tokjax.coding.papers import LESTER
from tokjax.core.cached import cached_engine
from tokjax.core.errors import TokenizerError
from tokjax.core.registry import tokenizers
from tokjax.core.spec import check
from tokjax.core.types import Source, Tables, Tokenizer
from tokjax.core.vocabulary import check_ids

Coded = tuple[bytes, np.ndarray]  # a code, and the bit of it at which each byte of the text is known; or its inverse
TOGETHER = 4 << 20  # bytes coded at once, about
LONGEST_CHUNK = 1 << 24  # bytes; the coder counts their bits in 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compressed(Tokenizer):
    """Base of the tokenizers whose ids are the bits of a code.

    Attributes:
      token_bits: N, 8 or 16.
      chunk_bytes: bytes that are coded as one text; a longer document is cut.
    """

    context_free: ClassVar[bool] = False
    separated: ClassVar[bool] = True  # chunks need an id between them

    token_bits: Literal[8, 16] = 16
    chunk_bytes: int = 1 << 16

    def __post_init__(self):
        check(self.token_bits in (8, 16), "token_bits", self.token_bits, "use 8 or 16.")
        check(1 <= self.chunk_bytes <= LONGEST_CHUNK, "chunk_bytes", self.chunk_bytes, f"use 1 to {LONGEST_CHUNK}.")

    @abc.abstractmethod
    def _compress(self, tables: Tables, chunks: Sequence[bytes]) -> list[Coded]:
        """Returns the code of each chunk in whole bytes, and the bit of it at which each byte is known."""

    @abc.abstractmethod
    def _decompress(self, tables: Tables, codes: Sequence[bytes]) -> list[Coded]:
        """The inverse: (chunk, the bit of its code at which each byte is known)."""

    @property
    def _last_bytes(self) -> bool:
        """Whether a code may end with a byte that does not fill an id."""
        return self.token_bits == 16

    @property
    def _separator(self) -> int:
        return (1 << self.token_bits) + BYTES * self._last_bytes

    def size(self, tables: Tables) -> int:
        """2**N, the ids of last bytes if there can be any, and the separator if there is one."""
        del tables
        return self._separator + self.separated

    def encode(self, tables: Tables, raw: bytes) -> np.ndarray:
        return next(self.encode_many(tables, [raw]))[0]

    def encode_many(self, tables: Tables, documents: Iterable[bytes]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for group in _groups(documents):
            chunks = [[raw[i : i + self.chunk_bytes] for i in range(0, len(raw), self.chunk_bytes)] for raw in group]
            coded = self._compress_some(tables, itertools.chain.from_iterable(chunks))
            for parts in chunks:
                yield self._tokens(parts, list(itertools.islice(coded, len(parts))))

    def _compress_some(self, tables: Tables, chunks: Iterable[bytes]) -> Iterator[Coded]:
        """As `_compress`, about `TOGETHER` bytes at a time."""
        remaining = iter(chunks)
        while some := list(itertools.islice(remaining, max(1, TOGETHER // self.chunk_bytes))):
            yield from self._compress(tables, some)

    def _tokens(self, texts: Sequence[bytes], coded: Sequence[Coded]) -> tuple[np.ndarray, np.ndarray]:
        """Joins the ids and units of a document's chunks; a separator follows every full chunk."""
        parts = [np.zeros(0, np.int32)]
        for text, (code, _) in zip(texts, coded, strict=True):
            parts.append(to_ids(code, self.token_bits))
            if self.separated and len(text) == self.chunk_bytes:
                parts.append(np.array([self._separator], np.int32))
        ids = np.concatenate(parts)
        return ids, self._units(ids, coded)

    def _units(self, ids: np.ndarray, coded: Sequence[Coded]) -> np.ndarray:
        """Gives each byte to the id that holds the bit at which it is known."""
        firsts = np.cumsum([0, *(8 * len(code) for code, _ in coded)])
        bits = [bits + first for (_, bits), first in zip(coded, firsts, strict=False)]
        owner = np.searchsorted(self._ends(ids), np.concatenate([np.zeros(0, np.int64), *bits]), side="right")
        return np.bincount(owner, minlength=len(ids)).astype(np.int32)

    def _ends(self, ids: np.ndarray) -> np.ndarray:
        """The bit of the codes, laid end to end, at which each id ends."""
        separator = (ids == self._separator) & self.separated
        return np.cumsum(np.where(separator, 0, np.where(ids < 1 << self.token_bits, self.token_bits, 8)))

    def decode(self, tables: Tables, ids: np.ndarray) -> bytes:
        return b"".join(text for text, _ in self._decompress(tables, self._codes(tables, ids)))

    def units(self, tables: Tables, ids: np.ndarray) -> np.ndarray:
        codes = self._codes(tables, ids)
        texts = self._decompress(tables, codes)
        return self._units(np.asarray(ids), [(code, bits) for code, (_, bits) in zip(codes, texts, strict=True)])

    def _codes(self, tables: Tables, ids: np.ndarray) -> list[bytes]:
        """Returns the codes between separators."""
        ids = check_ids(ids, self.size(tables))
        separator = (ids == self._separator) & self.separated
        parts = np.split(ids[~separator], np.flatnonzero(separator) - np.arange(np.count_nonzero(separator)))
        return [from_ids(part, self.token_bits) for part in parts if len(part)]

    def safe_cut(self, tables: Tables, raw: bytes) -> int:
        del tables
        return len(raw) // self.chunk_bytes * self.chunk_bytes

    def safe_ids(self, tables: Tables, ids: np.ndarray) -> int:
        del tables
        return int(np.flatnonzero(ids == self._separator).max(initial=-1)) + 1


def _groups(documents: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Collects documents until there is enough text to code side by side."""
    group, size = [], 0
    for raw in documents:
        group.append(raw)
        size += len(raw)
        if size >= TOGETHER:
            yield group
            group, size = [], 0
    if group:
        yield group


def to_ids(code: bytes, token_bits: int) -> np.ndarray:
    """Returns the big-endian ids int32 of a code; a last byte alone, of 16-bit ids, is 65,536 more than its value."""
    if token_bits == 8:
        return np.frombuffer(code, np.uint8).astype(np.int32)
    whole = len(code) // 2 * 2
    ids = np.frombuffer(code[:whole], ">u2").astype(np.int32)
    return np.append(ids, np.int32((1 << 16) + code[-1])) if whole < len(code) else ids


def from_ids(ids: np.ndarray, token_bits: int) -> bytes:
    """The inverse of `to_ids`; an id that only ends a code may also stand inside."""
    if token_bits == 8:
        return ids.astype(np.uint8).tobytes()
    pairs = np.stack([ids >> 8, ids & 255], axis=1).astype(np.uint8)
    keep = np.stack([ids < 1 << 16, np.ones(len(ids), bool)], axis=1)
    return pairs[keep].tobytes()


@tokenizers.register("gzip", papers=(LESTER,))
@dataclasses.dataclass(frozen=True, kw_only=True)
class Gzip(Compressed):
    """The bits of zlib at its default level, headers kept: compression that no model can be expected to undo.

    A byte is counted where its share of the code is, evenly: zlib does not say.
    """

    needs_fit: ClassVar[bool] = False

    def fit(self, source: Source, key: jax.Array | None = None) -> Tables:
        """There is nothing to learn."""
        del source, key
        return {}

    def _compress(self, tables: Tables, chunks: Sequence[bytes]) -> list[Coded]:
        del tables
        codes = [zlib.compress(chunk) for chunk in chunks]
        return [(code, _even(len(chunk), code)) for chunk, code in zip(chunks, codes, strict=True)]

    def _decompress(self, tables: Tables, codes: Sequence[bytes]) -> list[Coded]:
        del tables
        texts = [_inflate(code) for code in codes]
        return [(text, _even(len(text), code)) for text, code in zip(texts, codes, strict=True)]


def _inflate(code: bytes) -> bytes:
    stream = zlib.decompressobj()
    try:
        text = stream.decompress(code)
        problem = "it goes on behind its end" if stream.unused_data else None if stream.eof else "it has no end"
    except zlib.error as error:
        problem = str(error)
    if problem:
        raise TokenizerError(f"The ids are not a zlib stream ({problem}): they are cut short or damaged.")
    return text


def _even(count: int, code: bytes) -> np.ndarray:
    return np.arange(count, dtype=np.int64) * 8 * len(code) // max(count, 1)


@tokenizers.register("ac", papers=(LESTER,))
@dataclasses.dataclass(frozen=True, kw_only=True)
class ArithmeticCoded(Compressed):
    """Arithmetic coding under an entropy model: as many bits as the model is surprised by, and hard to learn from.

    A symbol of the smallest probability ends every chunk; the published coder leaves the end of a text open.

    Attributes:
      entropy: the model: `ngram`, `unigram`, either with fields as in `ngram:order=4`, or the directory of a trained
        one.
      precision: F; probabilities are multiples of 2**-F.
    """

    entropy: str = "ngram"
    precision: int = cdf.PRECISION

    def __post_init__(self):
        super().__post_init__()
        low, high = cdf.FEWEST, cdf.MOST
        check(low <= self.precision <= high, "precision", self.precision, f"use {low} to {high} bits.")

    def fit(self, source: Source, key: jax.Array | None = None) -> Tables:
        """Fits the entropy model to every record. `key` is not used."""
        del key
        return fit_entropy(self.entropy, source).pack()

    def _compress(self, tables: Tables, chunks: Sequence[bytes]) -> list[Coded]:
        return streams.encode(_engine(self, tables), chunks)

    def _decompress(self, tables: Tables, codes: Sequence[bytes]) -> list[Coded]:
        return streams.decode(_engine(self, tables), codes)

    def signature(self, tables: Tables) -> dict[str, Any]:
        return _engine(self, tables).signature


@tokenizers.register("static_ac", papers=(LESTER,))
@dataclasses.dataclass(frozen=True, kw_only=True)
class StaticArithmeticCoded(ArithmeticCoded):
    """Arithmetic coding under byte frequencies alone."""

    entropy: str = "unigram"


@cached_engine
def _engine(spec: ArithmeticCoded, tables: Tables) -> Engine:
    return unpack(tables).engine(symbols=BYTES + 1, precision=spec.precision)
