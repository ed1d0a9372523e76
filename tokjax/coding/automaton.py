"""A prefix-closed set of strings as an automaton over bytes, one array read per byte, in about 5 bytes per string.

A state is a slot. Slots 0 to 255 are the single bytes; the child by byte `b` of the string in slot `s`, if there is
one, is in slot `base(s) + b`, and says so by carrying the label `b`. Bases are chosen so that the children of all
strings interleave without gaps (row displacement), and no two strings share one, so a label names its parent too.
Letters: `S` slots, `V` strings in the set.
"""

import dataclasses
from typing import Any

import flax.struct
import numpy as np

from tokjax.coding.strings import BYTES, ROOT, pack
from tokjax.core.cached import cached_engine
from tokjax.core.spec import check
from tokjax.core.types import Tables

LABEL_BITS = 9
NO_LABEL = 256  # of an empty slot: no byte matches it
LEAF = 1  # the base of every string without children; slots 1 to 256 carry no label that it would match
_FIRST_BASE = 2  # 0 is the base before any byte: slot b is then byte b
_LARGEST = 1 << 20  # strings; their bases must fit 22 bits
_WINDOW, _WIDEST = 64, 1 << 13  # candidate bases tried at once
_DEALS = 8  # times that free slots are dealt to strings of one child all at once
_LOOK_BACK = 1 << 9  # bases before the last one found that are tried again


@flax.struct.dataclass
class Automaton:
    """Constant arrays, on the host or on a device, that search and decode; a pytree.

    Attributes:
      edges: int32 [S], `base << 9 | label` of every slot. The last slot is empty: no byte was read yet.
      ids: int32 [S], the string in each slot; 0 in empty ones.
      token_bytes: uint8, the strings laid end to end.
      token_offsets: int32 [V + 1], where each begins.
    """

    edges: Any
    ids: Any
    token_bytes: Any
    token_offsets: Any

    @property
    def start(self) -> int:
        """The slot before any byte."""
        return len(self.edges) - 1


@cached_engine
def _automaton(spec: None, tables: Tables) -> Automaton:
    del spec
    parents, last_bytes = tables["parents"], tables["last_bytes"]
    check(len(parents) <= _LARGEST, "tables", len(parents), f"an automaton holds at most {_LARGEST} strings.")
    children = np.lexsort((last_bytes, parents))[BYTES:]
    labels = last_bytes[children].astype(np.int64)
    strings, first, count = np.unique(parents[children], return_index=True, return_counts=True)
    bases = np.full(len(parents), LEAF, np.int64)
    bases[strings] = _displace(labels, first, count)
    slots = np.where(parents == ROOT, last_bytes, bases[parents] + last_bytes)
    edges = np.full(bases.max() + BYTES + 1, LEAF << LABEL_BITS | NO_LABEL, np.int32)
    edges[slots] = bases << LABEL_BITS | last_bytes
    ids = np.zeros(len(edges), np.int32)
    ids[slots] = np.arange(len(parents))
    packed = pack(tables)
    return Automaton(edges, ids, packed["token_bytes"], packed["token_offsets"].astype(np.int32))


def automaton(tables: Tables) -> Automaton:
    """Returns the automaton of a prefix-closed set, as numpy arrays; cached. `jax.device_put` moves it to a device."""
    return _automaton(None, tables)


@dataclasses.dataclass
class _Space:
    """Which slots are free to hold a string, and which places are taken as bases."""

    free: np.ndarray
    taken: np.ndarray

    @classmethod
    def empty(cls, slots: int) -> "_Space":
        free, taken = np.ones(slots, bool), np.zeros(slots, bool)
        free[:BYTES] = False
        taken[:_FIRST_BASE] = True
        return cls(free, taken)

    def reserve(self, slots: int) -> None:
        """Makes room for `slots` slots."""
        more = slots - len(self.free)
        if more > 0:
            self.free = np.concatenate([self.free, np.ones(more + slots // 2, bool)])
            self.taken = np.concatenate([self.taken, np.zeros(more + slots // 2, bool)])

    def take(self, bases: np.ndarray | int, slots: np.ndarray) -> None:
        """Marks what strings with `bases`, and their children in `slots`, occupy."""
        self.taken[bases] = True
        self.free[slots] = False


def _displace(labels: np.ndarray, first: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Returns a base for each of several strings, such that no two children meet and no two bases are equal.

    Args:
      labels: int64, the labels of all children, string by string.
      first: where each string's labels begin.
      count: how many it has.

    Strings with the most children go first, each at the lowest base that fits; those with one fill what is left.
    """
    space = _Space.empty(2 * len(labels) + 4 * _WIDEST)
    bases = np.zeros(len(first), np.int64)
    order = np.argsort(-count, kind="stable")
    lowest = _FIRST_BASE
    for string in order[count[order] > 1].tolist():
        own = labels[first[string] : first[string] + count[string]]
        base, tried = _first_fit(space, own.tolist(), lowest)
        space.take(base, base + own)
        bases[string] = base
        lowest += max(0, tried - _LOOK_BACK)  # what lies further back is left to strings of one child
    single = count == 1
    bases[single] = _fill(space, labels[first[single]])
    return bases


def _first_fit(space: _Space, labels: list[int], start: int) -> tuple[int, int]:
    """Returns the first base from `start` on that fits, and how many were tried before it."""
    low, width = start, _WINDOW
    while True:
        space.reserve(low + width + BYTES)
        fits = ~space.taken[low : low + width]
        for label in labels:
            fits &= space.free[low + label : low + label + width]
        found = int(fits.argmax())
        if fits[found]:
            return low + found, low + found - start
        low, width = low + width, min(2 * width, _WIDEST)


def _fill(space: _Space, labels: np.ndarray) -> np.ndarray:
    """Returns a base for each string of one child: the free slots in order, and for those that clash, one by one."""
    bases = np.zeros(len(labels), np.int64)
    waiting = np.arange(len(labels))
    space.reserve(len(space.free) + len(waiting))
    for _ in range(_DEALS):
        slots = np.flatnonzero(space.free[BYTES + _FIRST_BASE :])[: len(waiting)] + BYTES + _FIRST_BASE
        wanted = slots - labels[waiting]
        _, distinct = np.unique(wanted, return_index=True)
        fitting = distinct[~space.taken[wanted[distinct]]]
        bases[waiting[fitting]] = wanted[fitting]
        space.take(wanted[fitting], slots[fitting])
        waiting = np.roll(np.delete(waiting, fitting), 1)
    lowest = int(np.flatnonzero(~space.taken)[0])
    for string in waiting.tolist():
        bases[string], _ = _first_fit(space, [int(labels[string])], lowest)
        space.take(bases[string], bases[string] + labels[string : string + 1])
    return bases
