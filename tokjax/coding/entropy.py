"""Entropy models: the probability of the next byte given those before it, as counts that an arithmetic coder takes.

One interface for all: `fit` learns tables, `engine` turns them into pure functions over many rows in lockstep.

Letters: `B` rows, `F` precision of the counts, `V` symbols: the 256 bytes, or 257 with the end of a text.
"""

import abc
import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from tokjax.coding import cdf
from tokjax.core.errors import SpecError, TokenizerError
from tokjax.core.registry import Registry
from tokjax.core.spec import build, read_named, to_dict
from tokjax.core.types import Source, Tables

entropy_models = Registry("entropy model", "tokjax.coding")
State = Any
BYTES = 256


@dataclasses.dataclass(frozen=True, eq=False)
class Engine:
    """A fitted entropy model as pure functions; `params` is a pytree of arrays that they read.

    Attributes:
      params: the arrays.
      precision: F; the counts of a row sum to 2**F.
      start: number of rows B -> the state before any byte.
      bounds: (params, state, symbols int32 [B]) -> uint32 (lower, upper) [B], cumulative counts of the symbols.
      cdf: (params, state) -> uint32 [B, V + 1], all cumulative counts.
      step: (params, state, bytes int32 [B], restart bool [B]) -> the state after them; rows of `restart` forget
        everything before.
      exact: the counts are the same on every machine and in every program. If not, one compiled `step` must serve
        encoder and decoder.
      rows: the only B that such a program takes; 0 takes any.
      context: bytes after which the model must restart; 0 is never.
      signature: what must be equal where an inexact model's codes are decoded: versions, device, flags, parameters.
    """

    params: Any
    precision: int
    start: Callable[[int], State]
    bounds: Callable[[Any, State, jax.Array], tuple[jax.Array, jax.Array]]
    cdf: Callable[[Any, State], jax.Array]
    step: Callable[[Any, State, jax.Array, jax.Array], State]
    exact: bool = True
    rows: int = 0
    context: int = 0
    signature: dict[str, Any] = dataclasses.field(default_factory=dict)


class EntropyModel(abc.ABC):
    """Base of entropy model specs: a frozen dataclass whose methods are functions of `tables`."""

    @abc.abstractmethod
    def fit(self, source: Source) -> Tables:
        """Learns the tables from every record. Deterministic."""

    @abc.abstractmethod
    def table_names(self) -> frozenset[str]:
        """Returns the tables that it cannot do without."""

    @abc.abstractmethod
    def engine(self, tables: Tables, *, symbols: int = BYTES, precision: int = cdf.PRECISION) -> Engine:
        """Returns the functions over `tables` for V = `symbols`; symbol 256, if any, always has count 1."""

    @abc.abstractmethod
    def next_probabilities(self, tables: Tables, prefixes: Sequence[bytes]) -> np.ndarray:
        """Returns float64 [N, 256], the probabilities of the byte after each of N texts."""


def parse(text: str) -> tuple[str, EntropyModel]:
    """Returns (name, spec) of `NAME` or `NAME:field=value:...`, as in `ngram:order=4`.

    Raises:
      UnknownNameError, SpecError: no such model, no such field, or an impossible value.
    """
    name, fields = read_named(text, where="entropy")
    return name, build(entropy_models[name], fields, where="entropy")


@dataclasses.dataclass(frozen=True, eq=False)
class FittedEntropy:
    """An entropy model with its tables.

    Attributes:
      name: registered name.
      spec: the model.
      tables: its arrays.
    """

    name: str
    spec: EntropyModel
    tables: Tables

    def __post_init__(self):
        missing = sorted(self.spec.table_names() - self.tables.keys())
        if missing:
            names = ", ".join(missing)
            raise TokenizerError(f"The entropy model {self.name!r} lacks its table {names}. Fit or export it again.")

    def engine(self, *, symbols: int = BYTES, precision: int = cdf.PRECISION) -> Engine:
        """As `EntropyModel.engine`."""
        return self.spec.engine(self.tables, symbols=symbols, precision=precision)

    def next_probabilities(self, prefixes: Sequence[bytes]) -> np.ndarray:
        """As `EntropyModel.next_probabilities`."""
        return self.spec.next_probabilities(self.tables, prefixes)

    def pack(self) -> Tables:
        """Returns it as tables that a tokenizer saves among its own; `unpack` is the inverse."""
        text = json.dumps({"name": self.name, "spec": to_dict(self.spec)}, sort_keys=True)
        packed = {f"entropy/{name}": array for name, array in self.tables.items()}
        return {"entropy": np.frombuffer(text.encode(), np.uint8).copy(), **packed}


def unpack(tables: Tables) -> FittedEntropy:
    """Returns the entropy model among `tables`.

    Raises:
      TokenizerError: there is none, or it is damaged.
    """
    try:
        description = json.loads(tables["entropy"].tobytes())
        spec = build(entropy_models[description["name"]], description["spec"])
    except (KeyError, ValueError, SpecError) as error:
        message = f"The tables hold no readable entropy model ({error}). Fit the tokenizer again."
        raise TokenizerError(message) from error
    arrays = {name.removeprefix("entropy/"): value for name, value in tables.items() if name.startswith("entropy/")}
    return FittedEntropy(description["name"], spec, arrays)


def fit_entropy(text: str, source: Source) -> FittedEntropy:
    """Returns the entropy model that `text` names, fitted to `source`; or the saved one in the directory `text`.

    Raises:
      UnknownNameError, SpecError: neither; or it must be trained first.
      SourceError: the source holds no bytes.
    """
    if os.path.isdir(text) and text not in entropy_models:
        from tokjax.coding.saved import load_entropy

        return load_entropy(text)
    name, spec = parse(text)
    return FittedEntropy(name, spec, spec.fit(source))
