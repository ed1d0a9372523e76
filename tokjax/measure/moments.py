"""Means and covariances that batches and hosts add up to, in float64, the same however the data was split.

Letters: `N` vectors, `D` width.
"""

import dataclasses
import math
from typing import Any, Self

import numpy as np

from tokjax.core.errors import SourceError


@dataclasses.dataclass(frozen=True)
class Mean:
    """A sum and how many numbers are in it; `+` merges."""

    total: float = 0.0
    count: int = 0

    @classmethod
    def of(cls, values: Any) -> Self:
        """Sums an array of any shape, in float64."""
        values = np.asarray(values, np.float64)
        return cls(math.fsum(values.ravel()), values.size)

    def __add__(self, other: "Mean") -> "Mean":
        return Mean(self.total + other.total, self.count + other.count)

    @property
    def value(self) -> float:
        """The mean; NaN of nothing."""
        return self.total / self.count if self.count else math.nan


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    """Mean and scatter of vectors; `+` merges (Chan, Golub & LeVeque 1979, eq. 2.1).

    Attributes:
      count: N.
      mean: float64 [D].
      scatter: float64 [D, D], the sum of (x - mean)(x - mean)^T.
    """

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def of(cls, vectors: Any) -> Self:
        """Takes the moments of `vectors` [N, D].

        Raises:
          SourceError: they are no matrix, or not finite.
        """
        vectors = np.asarray(vectors, np.float64)
        if vectors.ndim != 2:
            raise SourceError(f"vectors: got shape {vectors.shape}; give [N, D].")
        if not np.isfinite(vectors).all():
            raise SourceError("vectors: some are NaN or infinite. Look at the images or weights that gave them.")
        mean = vectors.mean(axis=0) if len(vectors) else np.zeros(vectors.shape[1])
        centred = vectors - mean
        return cls(len(vectors), mean, centred.T @ centred)

    def __add__(self, other: "Moments") -> "Moments":
        if self.mean.shape != other.mean.shape:
            raise SourceError(f"moments: widths {len(self.mean)} and {len(other.mean)} differ; use one extractor.")
        count = self.count + other.count
        if count == 0:
            return self
        step = other.mean - self.mean
        mean = self.mean + step * (other.count / count)
        between = np.outer(step, step) * (self.count * other.count / count)
        return Moments(count, mean, self.scatter + other.scatter + between)

    @property
    def covariance(self) -> np.ndarray:
        """The unbiased estimate, scatter / (N - 1), float64 [D, D].

        Raises:
          SourceError: fewer than two vectors.
        """
        if self.count < 2:
            raise SourceError(f"covariance: of {self.count} vector(s) there is none. Give at least two.")
        return self.scatter / (self.count - 1)
