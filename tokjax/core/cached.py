"""Engines rebuilt from tables, kept for the tables that are in use."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from tokjax.core.types import Tables

E = TypeVar("E")
ENGINES = 8  # how many rebuilt engines of one kind are kept


class _Identity:
    """Hashes tables by the identity of their arrays, which it keeps alive: constant time at every call."""

    def __init__(self, tables: Tables):
        self.tables = dict(tables)
        self._ids = tuple((name, id(array)) for name, array in sorted(tables.items()))

    def __hash__(self) -> int:
        return hash(self._ids)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self._ids == other._ids


def cached_engine(build: Callable[[Any, Tables], E]) -> Callable[[Any, Tables], E]:
    """Caches `build(spec, tables)`, which turns tables into a fast engine, for the most recent tables.

    Tables are constants: changing an array in place after its first use has no effect on the engine.
    """

    @functools.lru_cache(maxsize=ENGINES)
    def cached(spec: Any, identity: _Identity) -> E:
        return build(spec, identity.tables)

    return functools.wraps(build)(lambda spec, tables: cached(spec, _Identity(tables)))
