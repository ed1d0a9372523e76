"""Mixtures: several sources of text, each with its share of the rows that are trained on.

Which source a row comes from is a function of its number alone, and row k of a source in a mixture is its own row k: of
the same epoch, and with the same windows, as if it were trained on by itself with that seed. A small source is so read
many times while a large one is read once, and a run resumes at any row.
"""

import bisect
import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import TypeVar

import numpy as np

from tokjax.core.errors import SourceError
from tokjax.core.registry import sources
from tokjax.core.types import Source
from tokjax.data.documents import Documents, open_inner
from tokjax.data.splits import first_of_each
from tokjax.data.windows import Rows, Text

S = TypeVar("S", bound=Source)

_LONGEST_PERIOD = 100_000  # rows after which the order of sources repeats


@sources.register("mix")
def mix(rest: str) -> "Mixture":
    """Sources by weight, as in 'mix:0.7*tokenized:books|0.3*stdlib'; weights such as 1/3 are exact.

    Weights are shares of rows, and sum to 1. Parentheses around an address keep a '|' in it from ending it, as in
    'mix:1/2*(mix:0.3*A|0.7*B)|1/2*C', which is the same as the mixture of all three by the products of their weights.
    As a source of documents a mixture holds each document of its sources once.

    Raises:
      SourceError: weights that are no shares, a source that is named twice, or one that cannot be opened.
      UnknownNameError: no source has such a name.
    """
    address = f"mix:{rest}"
    written = _read_parts(address)
    check_weights(address, [weight for weight, _ in written])  # before anything is read
    weights, parts = zip(*_open_parts(written), strict=True)
    check_weights(address, weights)
    names = [part.name for part in parts]
    if twice := {name for name in names if names.count(name) > 1}:
        raise SourceError(
            f"{address}: has {', '.join(sorted(twice))} twice. Name it once, with the sum of its weights."
        )
    return _union(address, weights, parts)


@dataclasses.dataclass(kw_only=True, eq=False)
class Mixture(Documents):
    """The distinct documents of several sources, and the weight of each source.

    Attributes:
      parts: the sources.
      weights: of their rows; they sum to 1.
    """

    parts: tuple[Documents, ...]
    weights: tuple[Fraction, ...]

    def split(self, name: str) -> "Mixture":
        """Returns the documents in split `name` of every source.

        Raises:
          SourceError: no split has that name, or a source holds another one only.
        """
        split = super().split(name)
        assert isinstance(split, Mixture)
        return dataclasses.replace(split, parts=tuple(part.split(name) for part in self.parts))

    def _require_documents(self) -> None:
        for part in self.parts:
            part._require_documents()


class Schedule:
    """Which source each row comes from: each source has its weight of any first rows, within 1.

    The order repeats after as many rows as the common denominator of the weights. Row k of a source, from 0, may come
    where that does not yet make it one ahead, and has to come before the source is one behind; of those that may, the
    one that has to come first comes. For jobs of one length that rule meets every deadline that can be met, and these
    can be (Steiner and Yeomans 1993, "Level schedules for mixed-model, just-in-time processes").

    Args:
      weights: that `check_weights` lets pass.

    Attributes:
      shares: int64 [K], rows of each source in one period.
      sources: int64 [period], which source each row of a period comes from.
    """

    def __init__(self, weights: Sequence[Fraction]):
        period = math.lcm(*(weight.denominator for weight in weights))
        self.shares = np.array([int(weight * period) for weight in weights])
        self.sources = _period(tuple(self.shares.tolist()))

    def counts(self, rows: int) -> np.ndarray:
        """Returns how many of the first `rows` rows come from each source: int64 [K]."""
        whole, rest = divmod(rows, len(self.sources))
        return whole * self.shares + np.bincount(self.sources[:rest], minlength=len(self.shares))


def check_weights(address: str, weights: Sequence[Fraction]) -> None:
    """Raises SourceError unless all are positive, sum to 1 and have a common denominator that is not too large."""
    shown = ", ".join(map(str, weights))
    if any(weight <= 0 for weight in weights) or sum(weights) != 1:
        raise SourceError(
            f"{address}: the weights {shown} sum to {sum(weights)}. Give positive ones that sum to exactly 1."
        )
    period = math.lcm(*(weight.denominator for weight in weights))
    if period > _LONGEST_PERIOD:
        raise SourceError(
            f"{address}: the weights {shown} have the common denominator {period}, above {_LONGEST_PERIOD}. Round them."
        )


def _period(shares: Sequence[int]) -> np.ndarray:
    """Returns the source of each row of one period: int64 [period]."""
    period, counts = sum(shares), [0] * len(shares)
    chosen = np.empty(period, np.int64)
    for row in range(period):
        ready = [source for source, share in enumerate(shares) if counts[source] * period < (row + 1) * share]
        chosen[row] = min(ready, key=lambda source: -(-(counts[source] + 1) * period // shares[source]))
        counts[chosen[row]] += 1
    return chosen


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class MixedText:
    """A `windows.Text` whose rows come from several.

    Attributes:
      parts: the texts, of one tokenizer.
      weights: of their rows; they sum to 1.
    """

    parts: Sequence[Text]
    weights: Sequence[Fraction]

    @functools.cached_property
    def schedule(self) -> Schedule:
        """Which part each row comes from."""
        return Schedule(self.weights)

    @property
    def end_of_document(self) -> int:
        """The id that is not a token."""
        return self.parts[0].end_of_document

    @property
    def bytes_per_pair(self) -> float:
        """Bytes of text that a target stands for, on average over the mixture."""
        return sum(float(w) * part.bytes_per_pair for w, part in zip(self.weights, self.parts, strict=True))

    def rows(self, numbers: range, *, seed: int, length: int, per_batch: Fraction) -> Rows:
        """Returns rows by their numbers; see `windows.Text`."""
        schedule = self.schedule
        first, last = (schedule.counts(row) for row in (numbers.start, numbers.stop))
        sources = schedule.sources[np.asarray(numbers) % len(schedule.sources)]
        found = [
            part.rows(range(start, stop), seed=seed, length=length, per_batch=per_batch * weight)
            for part, weight, start, stop in zip(self.parts, self.weights, first.tolist(), last.tolist(), strict=True)
        ]
        joined = Rows(*(np.concatenate(arrays) for arrays in zip(*found, strict=True)))
        places = np.argsort(np.argsort(sources, kind="stable"), kind="stable")  # from by source to by number
        return Rows(*(array[places] for array in joined))


def unweighted(source: S, *, by: str) -> S:
    """Returns `source`, unless it is a mixture, of which what reads documents one by one would lose the weights.

    Args:
      source: any.
      by: what reads it, for the message.

    Raises:
      SourceError: it is a mixture.
    """
    if isinstance(source, Mixture):
        raise SourceError(
            f"{source.name}: {by} would read each document once, whatever its weight. Give it one of the sources."
        )
    return source


class _Concatenated:
    """The documents of several sources, one source after the other."""

    def __init__(self, parts: Sequence[Documents]):
        self._parts, self._ends = parts, list(itertools.accumulate(map(len, parts)))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> bytes:
        number = bisect.bisect_right(self._ends, index)
        return self._parts[number][index - (self._ends[number - 1] if number else 0)]


def _union(address: str, weights: tuple[Fraction, ...], parts: Sequence[Documents]) -> Mixture:
    digests = np.concatenate([part.digests for part in parts])
    kept = first_of_each(digests)
    return Mixture(
        name=address,
        records=_Concatenated(parts),
        indices=kept,
        digests=digests[kept],
        sizes=np.concatenate([part.sizes for part in parts])[kept],
        duplicates=sum(part.duplicates for part in parts) + len(digests) - len(kept),
        opened=len(kept),
        parts=tuple(parts),
        weights=weights,
    )


def _read_parts(address: str) -> list[tuple[Fraction, str]]:
    """Returns weight and address of each part of 'mix:WEIGHT*ADDRESS|...'."""
    rest, parts = address.removeprefix("mix:"), [""]
    depth = 0
    for character in rest:
        depth += (character == "(") - (character == ")")
        if character == "|" and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    if depth:
        raise SourceError(f"{address}: its parentheses do not match. Write one after each address that has one before.")
    return [_read_part(address, part) for part in parts]


def _read_part(address: str, part: str) -> tuple[Fraction, str]:
    weight, star, source = part.partition("*")
    if source.startswith("(") and source.endswith(")"):
        source = source[1:-1]
    try:
        if not star or not source:
            raise ValueError
        return Fraction(weight), source
    except (ValueError, ZeroDivisionError):
        raise SourceError(
            f"{address}: {part!r} is no WEIGHT*SOURCE. Write for example 'mix:0.7*pydocs|0.3*stdlib'."
        ) from None


def _open_parts(parts: Sequence[tuple[Fraction, str]]) -> list[tuple[Fraction, Documents]]:
    """Opens the sources; a mixture among them is replaced by its own, so that every count stays as near as it can."""
    opened: list[tuple[Fraction, Documents]] = []
    for weight, address in parts:
        source = open_inner(address)
        if isinstance(source, Mixture):
            opened += [(weight * inner, part) for inner, part in zip(source.weights, source.parts, strict=True)]
        else:
            opened.append((weight, source))
    return opened
