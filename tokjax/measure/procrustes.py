"""How far two sets of embeddings are from being one, up to a rotation.

Sources: Schönemann 1966 (the orthogonal Procrustes problem); Gower 1975 (the residual); Dubuisson & Jain 1994 (the
modified Hausdorff distance).

Letters: `N`, `M` vectors, `D` width.
"""

import dataclasses

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import orthogonal_procrustes
from scipy.spatial import KDTree

from tokjax.core.errors import SourceError


@dataclasses.dataclass(frozen=True, eq=False)
class Alignment:
    """The rotation, or reflection, that brings one set of vectors closest to another, row by row.

    Attributes:
      rotation: float64 [D, D], orthogonal.
      scale: that the rotated vectors are multiplied by.
      source_mean, target_mean: float64 [D].
      residual: share of the target's variance that is left, 0 to 1.
    """

    rotation: np.ndarray
    scale: float
    source_mean: np.ndarray
    target_mean: np.ndarray
    residual: float

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        """Returns `vectors` [..., D] of the source in the space of the target."""
        return self.scale * (vectors - self.source_mean) @ self.rotation + self.target_mean


def align(source: ArrayLike, target: ArrayLike) -> Alignment:
    """Returns the best map from `source` [N, D] to `target` [N, D] by moving, rotating, reflecting and scaling.

    Raises:
      SourceError: sets that are not of one shape, not finite, or have all vectors equal.
    """
    x, y = _vectors(source, "source"), _vectors(target, "target")
    if x.shape != y.shape:
        raise SourceError(f"Alignment pairs rows: shapes {x.shape} and {y.shape} differ; select or pad to one shape.")
    x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
    x, y = x - x_mean, y - y_mean
    if not x.any() or not y.any():
        raise SourceError("All vectors of a set are equal; alignment needs two that differ.")
    rotation, overlap = orthogonal_procrustes(x, y)
    residual = 1 - overlap**2 / (np.sum(x**2) * np.sum(y**2))
    return Alignment(rotation, float(overlap / np.sum(x**2)), x_mean, y_mean, max(float(residual), 0.0))


def hausdorff(first: ArrayLike, second: ArrayLike, *, mean: bool = False) -> float:
    """Returns the greatest distance from a vector of either set, [N, D] and [M, D], to the nearest of the other.

    Args:
      first, second: the sets; no vector needs a partner.
      mean: takes the greater of the two mean distances instead, which one outlier does not decide.

    Raises:
      SourceError: an empty set, vectors that are not finite or have different widths.
    """
    x, y = _vectors(first, "first"), _vectors(second, "second")
    if x.shape[1] != y.shape[1]:
        raise SourceError(f"Distances need vectors of one width, not {x.shape[1]} and {y.shape[1]}.")
    reduce = np.mean if mean else np.max
    return float(max(reduce(KDTree(y).query(x)[0]), reduce(KDTree(x).query(y)[0])))


def _vectors(vectors: ArrayLike, name: str) -> np.ndarray:
    array = np.asarray(vectors, np.float64)
    if array.ndim != 2 or not array.size or not np.isfinite(array).all():
        raise SourceError(f"{name}: needs finite vectors [N, D], not shape {array.shape}.")
    return array
