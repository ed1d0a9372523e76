"""Distances between sets of images over a named extractor: Fréchet, kernel, and the manifold measures.

Only features of `measure.inception` make a FID or KID; others are called FD(name) and KD(name). A `Distance` carries
what it depends on and does not compare with one that differs in it.

Letters: `N`, `M` images, `D` features, `C` classes.
"""

import dataclasses
import math
from typing import Any, Literal, NamedTuple, Self

import numpy as np

from tokjax.core.errors import SourceError, UserError
from tokjax.core.spec import check
from tokjax.measure.features import RESERVED, FeatureSet
from tokjax.measure.moments import Moments

SUBSETS, SUBSET_SIZE = 100, 1000  # of KID: Binkowski et al. 2018, section 4
NEIGHBOURS = 5
_INCEPTION_NAMES = {"FD": "FID", "KD": "KID"}
_UNBIASED = ("KD",)  # the others fall with the number of images, so that it must be equal
_ROWS = 1024  # of a block of a kernel or distance matrix


class IncomparableError(UserError):
    """Two distances that measure different things."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distance:
    """A distance between a set of images and a reference, with all that it depends on.

    Attributes:
      metric: Fréchet, kernel or sliced Wasserstein distance.
      value: the distance.
      extractor, fingerprint: the name of what looked at the images, and the hash of its weights and preparation.
      images: name of the measured set.
      n: its size.
      reference: name of the set that it is measured against.
      reference_n: its size.
      spread: standard deviation over random subsets, where that is how it was estimated.
    """

    metric: Literal["FD", "KD", "SWD"]
    value: float
    extractor: str
    fingerprint: str
    images: str
    n: int
    reference: str
    reference_n: int
    spread: float | None = None

    @property
    def label(self) -> str:
        """What a table calls it: 'FID' and 'KID' of Inception, else as 'FD(random_pyramid)'."""
        if self.extractor == RESERVED and self.metric in _INCEPTION_NAMES:
            return _INCEPTION_NAMES[self.metric]
        return f"{self.metric}({self.extractor})"

    def __sub__(self, other: "Distance") -> float:
        """Returns how much larger this one is.

        Raises:
          IncomparableError: the two differ in more than the measured images.
        """
        self._check(other)
        return self.value - other.value

    def __lt__(self, other: "Distance") -> bool:
        """Whether these images are nearer to the reference; raises as `-` does."""
        return self - other < 0

    def __gt__(self, other: "Distance") -> bool:
        return self - other > 0

    def _check(self, other: "Distance") -> None:
        needed = ["metric", "extractor", "fingerprint", "reference", "reference_n"]
        if self.metric not in _UNBIASED:
            needed.append("n")
        for name in needed:
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise IncomparableError(
                    f"{self.label} of {self.images!r} and {other.label} of {other.images!r} do not compare: {name} is "
                    f"{mine!r} in one and {theirs!r} in the other. Measure both anew with the same {name}."
                )


def frechet_distance(images: FeatureSet, reference: FeatureSet) -> Distance:
    """Fréchet distance between Gaussians with the moments of the two sets (Heusel et al. 2017, eq. 6).

    Biased: it falls with the number of images, so that both of two compared numbers need the same.

    Raises:
      IncomparableError: the sets were seen by different extractors.
      SourceError: fewer than two images in one.
    """
    _check_pair(images, reference)
    return _distance("FD", frechet(images.moments, reference.moments), images, reference)


def frechet(a: Moments, b: Moments) -> float:
    """Returns |mean_a - mean_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), float64.

    Raises:
      SourceError: fewer than two vectors, or widths that differ.
    """
    if a.mean.shape != b.mean.shape:
        raise SourceError(f"moments: widths {len(a.mean)} and {len(b.mean)} differ; use one extractor.")
    shift, s, t = a.mean - b.mean, a.covariance, b.covariance
    return float(max(shift @ shift + np.trace(s) + np.trace(t) - 2 * trace_sqrt_product(s, t), 0.0))


def trace_sqrt_product(s: np.ndarray, t: np.ndarray) -> float:
    """Returns tr((S T)^(1/2)) of two covariances float64 [D, D]; equal to tr((S^1/2 T S^1/2)^1/2).

    That is the sum of the singular values of T^1/2 S^1/2. Taken so, rounding in directions without variance, of which
    few images leave many, is not lifted to its square root.
    """
    return float(np.linalg.svd(_square_root(t) @ _square_root(s), compute_uv=False).sum())


def _square_root(s: np.ndarray) -> np.ndarray:
    """The symmetric root of a positive semidefinite matrix; eigenvalues within rounding of 0 count as 0."""
    values, vectors = np.linalg.eigh(s)
    values = np.where(values > len(s) * np.finfo(np.float64).eps * values[-1], values, 0.0)
    return (vectors * np.sqrt(values)) @ vectors.T


def kernel_distance(
    images: FeatureSet,
    reference: FeatureSet,
    *,
    subsets: int | None = None,
    subset_size: int = SUBSET_SIZE,
    seed: int = 0,
) -> Distance:
    """Squared maximum mean discrepancy under the kernel (x . y / D + 1)^3, unbiased (Binkowski et al. 2018, eq. 4).

    Right for small sets, and below 0 about half of the time for equal distributions.

    Args:
      images, reference: the two sets, with vectors.
      subsets: None for the estimate over all pairs; or the number of random subsets to average over, as published
        numbers do (100 of 1,000 images).
      subset_size: images of each, no more than either set has.
      seed: of the subsets.

    Raises:
      IncomparableError: the sets were seen by different extractors.
      SourceError: fewer images than needed, or no vectors kept.
    """
    _check_pair(images, reference)
    x, y = _vectors(images), _vectors(reference)
    if subsets is None:
        return _distance("KD", kernel_mmd(x, y), images, reference)
    check(subsets > 0, "subsets", subsets, "give a positive number.")
    if subset_size > min(len(x), len(y)):
        raise SourceError(f"subset_size: got {subset_size}, but the sets have {len(x)} and {len(y)} images. Give less.")
    generator = np.random.default_rng(seed)
    values = [
        kernel_mmd(*(z[generator.choice(len(z), subset_size, replace=False)] for z in (x, y))) for _ in range(subsets)
    ]
    return _distance("KD", float(np.mean(values)), images, reference, spread=float(np.std(values)))


def kernel_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """Returns the unbiased MMD^2 of `x` [N, D] and `y` [M, D] under (x . y / D + 1)^3, in float64.

    Raises:
      SourceError: fewer than two vectors in one.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    n, m = len(x), len(y)
    if min(n, m) < 2:
        raise SourceError(f"kernel distance: of {n} and {m} images there is none. Give at least two of each.")
    own = (_kernel_sum(x, x) - _diagonal(x)) / (n * (n - 1)) + (_kernel_sum(y, y) - _diagonal(y)) / (m * (m - 1))
    return own - 2 * _kernel_sum(x, y) / (n * m)


def _kernel_sum(x: np.ndarray, y: np.ndarray) -> float:
    blocks = (x[at : at + _ROWS] @ y.T for at in range(0, len(x), _ROWS))
    return math.fsum(float(np.sum((block / x.shape[1] + 1) ** 3)) for block in blocks)


def _diagonal(x: np.ndarray) -> float:
    return float(np.sum((np.sum(x * x, axis=1) / x.shape[1] + 1) ** 3))


class Manifold(NamedTuple):
    """How two sets of features overlap, each a share or near 1 for equal distributions.

    Attributes:
      precision: share of the images within reach of some reference image.
      recall: share of the reference images within reach of some image.
      density: images around a reference image over the number expected; may exceed 1.
      coverage: share of the reference images with an image within their reach.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def manifold(images: FeatureSet, reference: FeatureSet, *, neighbours: int = NEIGHBOURS) -> Manifold:
    """Precision and recall (Kynkäänniemi et al. 2019, eq. 2), density and coverage (Naeem et al. 2020, eq. 4, 5).

    The reach of an image is the distance to its `neighbours`-th nearest other image of its own set, that distance
    included. All four depend on the sizes of both sets and on `neighbours`.

    Raises:
      IncomparableError: the sets were seen by different extractors.
      SourceError: no more images than neighbours, or no vectors kept.
    """
    check(neighbours > 0, "neighbours", neighbours, "give a positive number.")
    _check_pair(images, reference)
    x, y = _vectors(images), _vectors(reference)
    if min(len(x), len(y)) <= neighbours:
        raise SourceError(f"manifold: sets of {len(x)} and {len(y)} images have no {neighbours} neighbours each.")
    x_reach, y_reach = _reach(x, neighbours), _reach(y, neighbours)
    near_x, near_y, inside, covered = [], np.zeros(len(y), bool), 0, np.zeros(len(y), bool)
    for block, reach in _blocks(x, x_reach):
        distances = _distances(block, y)
        within = distances <= y_reach
        near_x.append(within.any(axis=1))
        near_y |= (distances <= reach[:, None]).any(axis=0)
        covered |= within.any(axis=0)
        inside += int(within.sum())
    return Manifold(
        precision=float(np.concatenate(near_x).mean()),
        recall=float(near_y.mean()),
        density=inside / (neighbours * len(x)),
        coverage=float(covered.mean()),
    )


def _reach(x: np.ndarray, neighbours: int) -> np.ndarray:
    """Distance of each of `x` [N, D] to its `neighbours`-th nearest other, float64 [N]."""
    # Each is its own nearest, at distance 0, so that the k-th other one is at index k.
    found = [np.partition(_distances(block, x), neighbours, axis=1)[:, neighbours] for block, _ in _blocks(x, x)]
    return np.concatenate(found)


def _blocks(x: np.ndarray, y: np.ndarray):
    return ((x[at : at + _ROWS], y[at : at + _ROWS]) for at in range(0, len(x), _ROWS))


def _distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    from scipy.spatial.distance import cdist  # of differences: exact for near duplicates, as |x|^2 + |y|^2 - 2xy is not

    return cdist(x, y)


@dataclasses.dataclass(frozen=True, eq=False)
class ClassScore:
    """Sums behind the inception score; `+` merges batches and hosts.

    The formula serves any classifier, the name only Inception's: report another's under the name of that classifier.

    Attributes:
      count: images.
      total: float64 [C], sum of their class probabilities.
      certainty: sum over images and classes of p ln p, nats.
    """

    count: int
    total: np.ndarray
    certainty: float

    @classmethod
    def of(cls, logits: Any) -> Self:
        """Takes the sums over images of a classifier's `logits` [N, C]."""
        from scipy.special import log_softmax

        log_p = log_softmax(np.asarray(logits, np.float64), axis=-1)
        p = np.exp(log_p)
        return cls(len(p), p.sum(axis=0), float(np.sum(np.where(p > 0, p * log_p, 0.0))))

    def __add__(self, other: "ClassScore") -> "ClassScore":
        return ClassScore(self.count + other.count, self.total + other.total, self.certainty + other.certainty)

    @property
    def value(self) -> float:
        """exp of the mean KL divergence of an image's classes from those of all: 1 to C; NaN of nothing."""
        from scipy.special import xlogy

        if self.count == 0:
            return math.nan
        marginal = self.total / self.count
        return float(np.exp(self.certainty / self.count - xlogy(marginal, marginal).sum()))


class Splits(NamedTuple):
    """Mean and standard deviation over splits."""

    mean: float
    std: float


def inception_score(logits: np.ndarray, *, splits: int = 1) -> Splits:
    """The inception score of `logits` [N, C] (Salimans et al. 2016, section 4), over consecutive splits of the images.

    Scores with 10 splits, as first published, and with 1 do not compare: each split sees fewer images.

    Raises:
      SourceError: fewer images than splits.
    """
    check(splits > 0, "splits", splits, "give a positive number.")
    if len(logits) < splits:
        raise SourceError(f"inception score: {len(logits)} images do not fill {splits} splits.")
    values = [ClassScore.of(part).value for part in np.array_split(logits, splits)]
    return Splits(float(np.mean(values)), float(np.std(values)))


def _check_pair(images: FeatureSet, reference: FeatureSet) -> None:
    for name in ("extractor", "fingerprint"):
        mine, theirs = getattr(images, name), getattr(reference, name)
        if mine != theirs:
            raise IncomparableError(
                f"{images.name!r} and {reference.name!r} do not compare: {name} is {mine!r} of one and {theirs!r} of "
                "the other. Extract both with the same weights and preparation."
            )


def _vectors(features: FeatureSet) -> np.ndarray:
    if features.vectors is None:
        raise SourceError(f"{features.name}: only moments were kept; extract with keep_vectors=True.")
    return np.asarray(features.vectors, np.float64)


def _distance(
    metric: Literal["FD", "KD"], value: float, images: FeatureSet, reference: FeatureSet, spread: float | None = None
) -> Distance:
    return Distance(
        metric=metric,
        value=value,
        extractor=images.extractor,
        fingerprint=images.fingerprint,
        images=images.name,
        n=len(images),
        reference=reference.name,
        reference_n=len(reference),
        spread=spread,
    )
