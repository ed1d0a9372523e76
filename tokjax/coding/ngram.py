"""Byte n-grams with back-off as an automaton: a state is the longest kept context that ends the text.

The probabilities become integers when the engine is built, by elementwise arithmetic on counts alone, so every machine
codes alike and encoder and decoder need not be the same program.

Letters: `B` rows, `C` contexts, `M` distinct (context, byte) pairs, `N` bytes of text.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from tokjax.coding import cdf
from tokjax.coding.entropy import BYTES, Engine, EntropyModel, entropy_models
from tokjax.core.cached import cached_engine
from tokjax.core.errors import SourceError
from tokjax.core.registry import Paper
from tokjax.core.spec import check
from tokjax.core.types import Source, Tables

_LONGEST_ORDER = 8  # a context and the byte after it are one uint64


@entropy_models.register(
    "ngram",
    papers=(
        Paper(
            title="The Zero-Frequency Problem: Estimating the Probabilities of Novel Events in Adaptive Text "
            "Compression",
            authors="Witten, Bell",
            year=1991,
            url="https://doi.org/10.1109/18.87000",
        ),
    ),
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class Ngram(EntropyModel):
    """Byte n-gram with Witten-Bell interpolation over the most frequent contexts.

    p(b | c) = (n(c b) + t(c) p(b | c without its first byte)) / (n(c) + t(c)), with n how often and t how many distinct
    bytes followed the context c, down to the empty context and then the uniform distribution.

    Tables, contexts in order of (length, bytes) with the empty one first: `length` uint8 [C]; `context` uint64 [C], its
    bytes as a big-endian number; `byte` uint8 [M] and `count` int64 [M], what followed and how often; `offset` int64
    [C + 1], where each context's followers start.

    Attributes:
      order: bytes that the longest context and the byte after it make.
      contexts: C at most; the most frequent are kept.
      sample_bytes: text that is counted at most; of a larger source, every k-th record.
    """

    order: int = 5
    contexts: int = 32_768
    sample_bytes: int = 8 << 20

    def __post_init__(self):
        check(1 <= self.order <= _LONGEST_ORDER, "order", self.order, f"use 1 to {_LONGEST_ORDER}.")
        check(1 <= self.contexts <= 1 << 16, "contexts", self.contexts, "use 1 to 65536: states are uint16.")
        check(self.sample_bytes >= 1, "sample_bytes", self.sample_bytes, "use a positive number of bytes.")

    def fit(self, source: Source) -> Tables:
        """Counts the contexts of every record; none spans two.

        Raises:
          SourceError: the source holds no bytes.
        """
        return count_contexts(sample_records(source, self.sample_bytes), self.order, self.contexts)

    def table_names(self) -> frozenset[str]:
        """As `EntropyModel.table_names`."""
        return frozenset({"length", "context", "byte", "count", "offset"})

    def engine(self, tables: Tables, *, symbols: int = BYTES, precision: int = cdf.PRECISION) -> Engine:
        """As `EntropyModel.engine`. Memory: 2 C (V + 256) bytes."""
        check(cdf.FEWEST <= precision <= cdf.MOST, "precision", precision, f"use {cdf.FEWEST} to {cdf.MOST} bits.")
        probabilities, following = _automaton(None, tables)
        lower = cdf.cumulate(cdf.quantise(np.pad(probabilities, ((0, 0), (0, symbols - BYTES))), precision))[:, :-1]
        return Engine(
            params={"lower": jnp.asarray(lower.astype(np.uint16)), "following": jnp.asarray(following)},
            precision=precision,
            start=lambda rows: jnp.zeros(rows, jnp.int32),
            bounds=functools.partial(_bounds, 1 << precision),
            cdf=functools.partial(_cdf, 1 << precision),
            step=_step,
        )

    def next_probabilities(self, tables: Tables, prefixes: Sequence[bytes]) -> np.ndarray:
        """As `EntropyModel.next_probabilities`."""
        probabilities, following = _automaton(None, tables)
        lengths = np.array([len(prefix) for prefix in prefixes], np.int64)
        padded = np.zeros((len(prefixes), int(lengths.max(initial=0))), np.uint8)
        padded[np.arange(padded.shape[1]) < lengths[:, None]] = np.frombuffer(b"".join(prefixes), np.uint8)
        states = np.zeros(len(prefixes), np.int64)
        for column in range(padded.shape[1]):
            states = np.where(column < lengths, following[states, padded[:, column]], states)
        return probabilities[states]


@entropy_models.register("unigram")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Unigram(Ngram):
    """Byte frequencies, whatever came before."""

    order: int = 1
    contexts: int = 1


def sample_records(source: Source, limit: int) -> list[bytes]:
    """Returns all records, or of more than `limit` bytes every k-th, the last one cut, to hold that many at most."""
    total = sum(map(len, source))
    if total == 0:
        raise SourceError("The source holds no bytes to learn probabilities from; give one with at least one record.")
    kept, left = [], limit
    for index, record in enumerate(source):
        if index % -(-total // limit) == 0 and left:
            kept.append(record[:left])
            left -= len(kept[-1])
    return kept


def count_contexts(records: Sequence[bytes], order: int, contexts: int) -> Tables:
    """Returns the tables of `Ngram` for the most frequent `contexts` contexts of up to `order` - 1 bytes.

    Those kept include every suffix and every prefix of each: neither is ever rarer.
    """
    text = np.frombuffer(b"".join(records), np.uint8)
    place = np.arange(len(text)) - np.repeat(np.cumsum([0, *map(len, records)])[:-1], [len(r) for r in records])
    orders = list(_followers(text, place, order))
    sizes = np.concatenate([size for _, size, _, _, _ in orders])
    lengths = np.repeat(np.arange(order), [len(size) for _, size, _, _, _ in orders])
    kept = np.sort(np.lexsort((lengths, -sizes))[:contexts])
    first = np.searchsorted(kept, np.cumsum([0, *(len(size) for _, size, _, _, _ in orders)]))
    context, byte, count, followers = [], [], [], []
    offset = 0
    for number, (keys, size, starts, bytes_, counts) in enumerate(orders):
        chosen = kept[first[number] : first[number + 1]] - offset
        offset += len(size)
        ends = np.append(starts[1:], len(bytes_))
        picked = np.zeros(len(bytes_), bool)
        for_each = ends[chosen] - starts[chosen]
        picked[np.repeat(starts[chosen], for_each) + _within(for_each)] = True
        context.append(keys[chosen])
        byte.append(bytes_[picked])
        count.append(counts[picked])
        followers.append(for_each)
    return {
        "length": lengths[kept].astype(np.uint8),
        "context": np.concatenate(context),
        "byte": np.concatenate(byte),
        "count": np.concatenate(count),
        "offset": np.cumsum([0, *np.concatenate(followers)]).astype(np.int64),
    }


def _within(sizes: np.ndarray) -> np.ndarray:
    """Returns 0 .. size - 1 for each size, joined."""
    return np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)


def _followers(text: np.ndarray, place: np.ndarray, order: int) -> Iterator[tuple[np.ndarray, ...]]:
    """Yields, for contexts of 0, 1, ... bytes: their keys, how often each, where its followers start, those, counts."""
    key = np.zeros(len(text), np.uint64)  # of the context before each byte
    for length in range(order):
        valid = place >= length
        pairs, counts = np.unique((key[valid] << np.uint64(8)) | text[valid], return_counts=True)
        keys, starts = np.unique(pairs >> np.uint64(8), return_index=True)
        yield keys, np.add.reduceat(counts, starts), starts, (pairs & np.uint64(255)).astype(np.uint8), counts
        before = np.zeros(len(text), np.uint64)
        before[length + 1 :] = text[: len(text) - length - 1]
        key |= before << np.uint64(8 * length)


@cached_engine
def _automaton(spec: None, tables: Tables) -> tuple[np.ndarray, np.ndarray]:
    """Returns the probabilities float64 [C, 256] and the next state uint16 [C, 256] of every context."""
    del spec
    length, context, offset = tables["length"].astype(np.int64), tables["context"], tables["offset"]
    state_of = {key: state for state, key in enumerate(zip(length.tolist(), context.tolist(), strict=True))}
    shorter = (1 << 8 * np.maximum(length - 1, 0)) - 1  # mask that drops the first byte
    suffix = np.array([state_of[max(n - 1, 0), key & mask] for n, key, mask in zip(
        length.tolist(), context.tolist(), shorter.tolist(), strict=True)])  # fmt: skip
    probabilities = np.full((len(length), BYTES), 1.0 / BYTES)
    following = np.zeros((len(length), BYTES), np.uint16)
    counts = np.zeros((len(length), BYTES), np.int64)
    counts[np.repeat(np.arange(len(length)), np.diff(offset)), tables["byte"]] = tables["count"]
    for n in range(int(length.max()) + 1):
        states = np.flatnonzero(length == n)
        often = counts[states].sum(axis=1, keepdims=True)
        distinct = np.count_nonzero(counts[states], axis=1, keepdims=True)
        shared = probabilities[suffix[states]]
        probabilities[states] = (counts[states] + distinct * shared) / (often + distinct)
        if n:
            parent = [state_of[n - 1, key >> 8] for key in context[states].tolist()]
            following[parent, (context[states] & np.uint64(255)).astype(np.int64)] = states
    for n in range(1, int(length.max()) + 1):
        states = np.flatnonzero(length == n)
        own = following[states]
        following[states] = np.where(own > 0, own, following[suffix[states]])
    return probabilities, following


def _bounds(total: int, params: dict, state: jax.Array, symbols: jax.Array) -> tuple[jax.Array, jax.Array]:
    lower = params["lower"]
    last = lower.shape[1] - 1
    upper = jnp.where(symbols == last, total, lower[state, jnp.minimum(symbols + 1, last)].astype(jnp.uint32))
    return lower[state, symbols].astype(jnp.uint32), upper.astype(jnp.uint32)


def _cdf(total: int, params: dict, state: jax.Array) -> jax.Array:
    lower = params["lower"][state].astype(jnp.uint32)
    return jnp.concatenate([lower, jnp.full((*lower.shape[:-1], 1), total, jnp.uint32)], axis=-1)


def _step(params: dict, state: jax.Array, symbols: jax.Array, restart: jax.Array) -> jax.Array:
    return params["following"][jnp.where(restart, 0, state), symbols].astype(jnp.int32)
