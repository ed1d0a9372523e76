"""Prefix-closed sets of byte strings: the table of a tokenizer that always takes the longest match.

A set holds the 256 single bytes and, with every longer string, that string less its last byte. It is a forest: each
string is its parent and one more byte, so the tables take 5 bytes per string however long the strings are.
Letters: `T` tokens, `V` strings in the set.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tokjax.coding import arithmetic, cdf
from tokjax.coding.entropy import BYTES
from tokjax.coding.windows import Window
from tokjax.core import vocabulary
from tokjax.core.cached import cached_engine
from tokjax.core.errors import TokenizerError
from tokjax.core.spec import check
from tokjax.core.types import Tables

ROOT = -1  # the parent of a single byte
_TOGETHER = 512  # strings that `fitting_strings` extends at once
DECODED_AT_ONCE = 1 << 16  # tokens; what decoding works on then fits a core's cache

NextProbabilities = Callable[[list[bytes]], np.ndarray]


def from_strings(strings: Sequence[bytes]) -> Tables:
    """Returns {"parents": int32 [V], "last_bytes": uint8 [V]} of a prefix-closed set; the order gives the ids.

    Args:
      strings: the 256 single bytes in order, then longer strings, each after its own prefixes.

    Raises:
      TokenizerError: a byte that is out of place, a string given twice, or one that stands before a prefix of it.
    """
    if list(strings[:BYTES]) != [bytes([byte]) for byte in range(BYTES)]:
        raise TokenizerError("The set of strings must begin with the 256 single bytes, in order.")
    ids: dict[bytes, int] = {}
    parents = np.full(len(strings), ROOT, np.int32)
    for index, string in enumerate(strings):
        if string in ids:
            raise TokenizerError(f"The string {string!r} is in the set twice; remove one.")
        if index >= BYTES:
            if string[:-1] not in ids:
                raise TokenizerError(
                    f"The set lacks {string[:-1]!r} before {string!r}; add every prefix, shorter first."
                )
            parents[index] = ids[string[:-1]]
        ids[string] = index
    return {"parents": parents, "last_bytes": np.array([string[-1] for string in strings], np.uint8)}


def lengths(tables: Tables) -> np.ndarray:
    """Returns the length in bytes of every string, int32 [V]."""
    parents = tables["parents"]
    found = np.zeros(len(parents), np.int32)
    strings = ancestors = np.arange(len(parents))
    while len(strings):
        found[strings] += 1
        ancestors = parents[ancestors]
        strings, ancestors = strings[ancestors != ROOT], ancestors[ancestors != ROOT]
    return found


def pack(tables: Tables) -> Tables:
    """Returns the strings laid end to end, as `core.vocabulary.pack` does of a list; cached."""
    return _pack(None, tables)


@cached_engine
def _pack(spec: None, tables: Tables) -> Tables:
    del spec
    parents, last_bytes = tables["parents"], tables["last_bytes"]
    offsets = np.zeros(len(parents) + 1, np.int64)
    np.cumsum(lengths(tables), out=offsets[1:])
    flat = np.zeros(offsets[-1], np.uint8)
    places, ancestors = offsets[1:] - 1, np.arange(len(parents))
    while len(places):  # from the last byte of every string to its first
        flat[places] = last_bytes[ancestors]
        ancestors = parents[ancestors]
        places, ancestors = places[ancestors != ROOT] - 1, ancestors[ancestors != ROOT]
    return {"token_bytes": flat, "token_offsets": offsets}


def unpack(tables: Tables) -> list[bytes]:
    """The inverse of `from_strings`."""
    return vocabulary.unpack(pack(tables))


def decode(tables: Tables, ids: np.ndarray) -> bytes:
    """Returns the bytes of `ids` [T], joined.

    Raises:
      TokenizerError: an id outside the set.
    """
    packed = pack(tables)
    ids = vocabulary.check_ids(ids, len(tables["parents"]))
    parts = (ids[start : start + DECODED_AT_ONCE] for start in range(0, len(ids), DECODED_AT_ONCE))
    return b"".join(_gather(packed, part).tobytes() for part in parts)


def _gather(packed: Tables, ids: np.ndarray) -> np.ndarray:
    """The bytes of at least one id, uint8. The source index of a byte is one more than that of the byte before it,
    except where a token begins."""
    offsets = packed["token_offsets"]
    first, after = offsets.take(ids), offsets[1:].take(ids)
    ends = np.cumsum(after - first)
    source = np.ones(ends[-1], np.int64)
    source[0] = first[0]
    source[ends[:-1]] = first[1:] - after[:-1] + 1
    return packed["token_bytes"].take(np.cumsum(source, out=source))


def fitting_strings(next_probabilities: NextProbabilities, window: Window, most: int) -> list[bytes]:
    """Returns the single bytes and then every longer string that fits a window, shorter ones first, then by bytes.

    Every start of such a string fits too, so the set is prefix-closed, and its longest match is the window that the
    `paper` rule would make.

    Args:
      next_probabilities: n strings -> float64 [n, 256], the probability of each next byte. Also asked for b"".
      window: W, F and the longest string.
      most: how many strings there may be.

    Raises:
      SpecError: there are more.
    """
    strings = [bytes([byte]) for byte in range(BYTES)]
    prefixes, interval = [b""], jax.tree.map(np.asarray, window.start((1,)))
    for _ in range(window.longest):
        found, intervals = [], []
        for start in range(0, len(prefixes), _TOGETHER):
            some = slice(start, start + _TOGETHER)
            bounds = cdf.cumulate(cdf.quantise(next_probabilities(prefixes[some]), window.precision))
            children, fits = _children(window, jax.tree.map(lambda array: array[some], interval), bounds)  # noqa: B023
            parent, byte = np.nonzero(fits)
            found += [prefixes[start + p] + bytes([b]) for p, b in zip(parent.tolist(), byte.tolist(), strict=True)]
            intervals.append(jax.tree.map(lambda array: array[parent, byte], children))  # noqa: B023
        if not found:
            break
        prefixes, interval = found, jax.tree.map(lambda *parts: np.concatenate(parts), *intervals)
        strings += sorted(found) if len(found[0]) > 1 else []
        check(len(strings) <= most, "window_bits", window.bits, f"more than {most} strings fit it; use fewer bits.")
    return strings


def _children(window: Window, interval: Any, bounds: np.ndarray) -> tuple[Any, np.ndarray]:
    """Returns the intervals of all one-byte extensions, [n, 256, ...], and which of them fit, bool [n, 256]."""
    rows = _TOGETHER - len(bounds)
    padded = jax.tree.map(lambda array: np.pad(array, ((0, rows), *[(0, 0)] * (array.ndim - 1))), interval)
    children, fits = _narrow_all(window, padded, np.pad(bounds, ((0, rows), (0, 0)), constant_values=1))
    return jax.tree.map(lambda array: np.asarray(array)[: len(bounds)], (children, fits))


@functools.partial(jax.jit, static_argnums=0)
def _narrow_all(window: Window, interval: Any, bounds: jax.Array) -> tuple[Any, jax.Array]:
    wide = jax.tree.map(lambda array: jnp.repeat(array[:, None], BYTES, axis=1), interval)
    children = arithmetic.narrow(wide, bounds[:, :BYTES], bounds[:, 1 : BYTES + 1], window.precision)
    return children, window.code(children)[1]


def most_probable(next_probabilities: NextProbabilities, size: int, *, batch: int = 4096) -> list[bytes]:
    """Returns the single bytes and then the most probable longer strings, most probable first.

    A string's probability is the product of those of its bytes, each given the ones before it. A string is never more
    probable than its prefixes, so the set is prefix-closed and best-first search finds it exactly. Strings of equal
    probability come in the order of length, then of their bytes.

    Args:
      next_probabilities: n strings -> float64 [n, 256], the probability of each next byte. Also asked for b"".
      size: how many strings to return; fewer are returned where fewer have a probability above 0.
      batch: how many strings to ask for at once. It does not change the result.

    Raises:
      SpecError: `size` is below 256.

    Source: Tunstall 1967, "Synthesis of noiseless compression codes": the most probable string is extended first.
    """
    check(size >= BYTES, "size", size, "use at least 256: the bytes come first.")
    room = size - BYTES
    strings = [bytes([byte]) for byte in range(BYTES)]
    bits = _information(next_probabilities([b""]))[0]
    length, extended = np.ones(BYTES, np.int64), np.zeros(BYTES, bool)
    limit = (np.inf, 0)  # the bits and the length of the last string that may still be among the best
    while room:
        open_strings = np.flatnonzero(~extended & _within(limit, bits, length))
        chosen = open_strings[np.argsort(bits[open_strings], kind="stable")[:batch]]
        if not len(chosen):
            break
        extended[chosen] = True
        extended_bits = bits[chosen, None] + _information(next_probabilities([strings[i] for i in chosen.tolist()]))
        extended_length = np.broadcast_to(length[chosen, None] + 1, extended_bits.shape)
        rows, last = np.nonzero(_within(limit, extended_bits, extended_length))
        all_bits = np.concatenate([bits, extended_bits[rows, last]])
        all_length = np.concatenate([length, extended_length[rows, last]])
        limit = _limit(all_bits[BYTES:], all_length[BYTES:], room)
        kept = _within(limit, all_bits, all_length)
        kept[: len(bits)] = True
        bits, length = all_bits[kept], all_length[kept]
        extended = np.concatenate([extended, np.zeros(len(bits) - len(extended), bool)])
        new = kept[len(strings) :]
        strings += [strings[i] + bytes([byte]) for i, byte in zip(chosen[rows[new]].tolist(), last[new], strict=True)]
    longer = np.flatnonzero(_within(limit, bits, length)[BYTES:]) + BYTES
    best = sorted((bits[i], length[i], strings[i]) for i in longer.tolist())
    return strings[:BYTES] + [string for _, _, string in best[:room]]


def _information(probabilities: np.ndarray) -> np.ndarray:
    """Bits of each outcome; never below 0, which rounding in a model's normalisation could give."""
    with np.errstate(divide="ignore"):
        return np.maximum(-np.log2(probabilities.astype(np.float64)), 0.0)


def _limit(bits: np.ndarray, length: np.ndarray, count: int) -> tuple[float, int]:
    """The (bits, length) of the string of rank `count`, by bits and then by length."""
    if len(bits) < count:
        return np.inf, 0
    last = np.partition(bits, count - 1)[count - 1]
    tied = length[bits == last]
    place = count - 1 - np.count_nonzero(bits < last)
    return float(last), int(np.partition(tied, place)[place])


def _within(limit: tuple[float, int], bits: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Which strings stand no lower than `limit`. Length counts too: strings that never lose probability are endless."""
    last_bits, last_length = limit
    return (bits < last_bits) | ((bits == last_bits) & (length <= last_length))
