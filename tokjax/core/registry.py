"""Registries: one file that registers itself appears in the command line, the contract tests and the docs."""

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from tokjax.core.errors import UnknownNameError, nearest

C = TypeVar("C")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Paper:
    """Where an idea comes from. `url` is the arXiv or publisher page."""

    title: str
    authors: str
    year: int
    url: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """One registered thing: the class or function, and what a list shows about it."""

    name: str
    value: Any
    summary: str
    papers: tuple[Paper, ...] = ()


class Registry:
    """Names of one kind, found by importing every module of one package on first use."""

    def __init__(self, kind: str, package: str):
        self.kind = kind
        self._package = package
        self._entries: dict[str, Entry] = {}
        self._discovered = False

    def register(self, name: str, *, papers: tuple[Paper, ...] = ()) -> Callable[[C], C]:
        """Decorator: files the class or function under `name`. Its docstring's first line is the summary."""

        def file(value: C) -> C:
            if name in self._entries and self._entries[name].value.__qualname__ != value.__qualname__:  # type: ignore[attr-defined]
                raise ValueError(f"{self.kind} {name!r} is registered twice.")
            summary = (value.__doc__ or "").strip().splitlines()[0].rstrip(".")
            self._entries[name] = Entry(name=name, value=value, summary=summary, papers=papers)
            return value

        return file

    def __getitem__(self, name: str) -> Any:
        return self.entry(name).value

    def entry(self, name: str) -> Entry:
        """Returns the entry called `name`.

        Raises:
          UnknownNameError: no such name; the message gives the nearest.
        """
        self._discover()
        if name not in self._entries:
            raise UnknownNameError(f"Unknown {self.kind} {name!r}.{nearest(name, self._entries)}")
        return self._entries[name]

    def __contains__(self, name: str) -> bool:
        self._discover()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        self._discover()
        return iter(sorted(self._entries))

    def entries(self) -> list[Entry]:
        """Every entry, by name."""
        return [self._entries[name] for name in self]

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True
        root = importlib.import_module(self._package)
        for module in pkgutil.walk_packages(root.__path__, prefix=f"{self._package}."):
            importlib.import_module(module.name)


systems = Registry("system", "tokjax.systems")
tokenizers = Registry("tokenizer", "tokjax.text")
sources = Registry("source", "tokjax.data")
embeddings = Registry("embedding", "tokjax.embed")
quantizers = Registry("quantizer", "tokjax.quantize")
image_sources = Registry("image source", "tokjax.data.images")
studies = Registry("study", "tokjax.studies")
ALL = (systems, tokenizers, embeddings, quantizers, sources, image_sources, studies)
