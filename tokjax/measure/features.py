"""Features of images: a named extractor with a fingerprint, and what it says of a whole set.

A distance between sets of images means nothing without the network, weights and resizing behind it, so these travel
with the features as a hash and `measure.distances` refuses to mix them.

Letters: `B`, `N` images, `H` height, `W` width, `C` channels, `D` features.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np

from tokjax.core.errors import SourceError, SpecError
from tokjax.core.saved import content_hash
from tokjax.core.spec import check
from tokjax.core.types import Params
from tokjax.measure.moments import Moments
from tokjax.measure.networks import convolve

RESERVED = "inception"  # the name that turns FD into FID; `measure.inception` gives it
PYRAMID_WIDTHS = (16, 32, 48)
_STEP = 1 / 127.5  # between two values of 8 bits
_TOLERANCE = 1e-3  # by which rounding may leave the range [-1, 1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preparation:
    """What happens to an image before a network sees it; part of the fingerprint.

    Attributes:
      crop: side of the centred square that is kept; None keeps all.
      resize: side that it is then brought to, bilinearly; None leaves it.
      antialias: whether shrinking averages over all pixels.
      eight_bit: whether values are first rounded to the 256 that a file holds, so that decoded images have no more
        of them than the photos they are compared with.
    """

    crop: int | None = None
    resize: int | None = None
    antialias: bool = True
    eight_bit: bool = True

    def __post_init__(self):
        for name in ("crop", "resize"):
            value = getattr(self, name)
            check(value is None or value > 0, name, value, "give a number of pixels, or None.")

    def __call__(self, images: jax.Array) -> jax.Array:
        """Prepares `images` [B, H, W, C] in [-1, 1]; traces."""
        if self.eight_bit:
            images = jnp.round((images + 1.0) / _STEP) * _STEP - 1.0
        if self.crop is not None:
            height, width = images.shape[1:3]
            check(self.crop <= min(height, width), "crop", self.crop, f"images have {height} x {width} pixels.")
            top, left = (height - self.crop) // 2, (width - self.crop) // 2
            images = images[:, top : top + self.crop, left : left + self.crop]
        if self.resize is not None:
            shape = (images.shape[0], self.resize, self.resize, images.shape[-1])
            images = jax.image.resize(images, shape, "bilinear", antialias=self.antialias)
        return images


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Features:
    """A network that turns images into vectors, under a name.

    Attributes:
      name: what results call it. The function behind it is known by this name only: rename it when it changes.
      apply: (params, images float32 [B, H, W, C] in [-1, 1]) -> [B, D]; pure.
      params: its weights.
      prepare: what is done to images first.

    Raises:
      SpecError: an empty name, or one that belongs to Inception.
    """

    name: str
    apply: Callable[[Params, jax.Array], jax.Array]
    params: Params
    prepare: Preparation = Preparation()

    def __post_init__(self):
        check(bool(self.name), "name", self.name, "name the extractor: distances are compared by it.")
        taken = self.name.lower() in (RESERVED, "fid", "kid")
        check(not taken, "name", self.name, "only measure.inception.inception(weights) may have it. Choose another.")

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the name, the preparation and every weight, 16 hex digits."""
        leaves = jax.tree_util.tree_leaves_with_path(self.params)
        tables = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
        return content_hash(self.name, self.prepare, tables)

    @functools.cached_property
    def _program(self) -> Callable[[Params, jax.Array], jax.Array]:
        def program(params: Params, images: jax.Array) -> jax.Array:
            with jax.default_matmul_precision("highest"):  # else a GPU's or TPU's rounding is in the distance
                return self.apply(params, self.prepare(images)).astype(jnp.float32)

        return jax.jit(program)

    def __call__(self, images: jax.Array | np.ndarray) -> np.ndarray:
        """Returns the features of `images`, float32 [B, D].

        Args:
          images: float [B, H, W, C] in [-1, 1].

        Raises:
          SourceError: they are of another type or range.
          SpecError: the network gives no vectors.
        """
        check_images(images)
        found = np.asarray(self._program(self.params, jnp.asarray(images, jnp.float32)))
        if found.ndim != 2 or len(found) != len(images):
            raise SpecError(
                f"{self.name}: gives shape {found.shape}, expected [{len(images)}, D]. Pool over positions."
            )
        return found


def check_images(images: jax.Array | np.ndarray) -> None:
    """Raises SourceError unless `images` are float [B, H, W, C] with values in [-1, 1]."""
    if images.ndim != 4 or not jnp.issubdtype(images.dtype, jnp.floating):
        raise SourceError(f"images: got {images.dtype} of shape {images.shape}; give float [B, H, W, C] in [-1, 1].")
    low, high = (float(extreme) for extreme in (images.min(initial=0), images.max(initial=0)))
    if not max(-low, high) <= 1 + _TOLERANCE:  # so put, NaN is caught too
        raise SourceError(f"images: values in [{low:.4g}, {high:.4g}]; scale or clip them to [-1, 1] first.")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FeatureSet:
    """What an extractor says of a set of images; `+` merges batches and hosts.

    Attributes:
      name: of the set, as "emoji:valid".
      extractor, fingerprint: of the `Features` that gave it.
      moments: mean and covariance.
      vectors: float32 [N, D], or None where only the moments were kept.
    """

    name: str
    extractor: str
    fingerprint: str
    moments: Moments
    vectors: np.ndarray | None

    def __len__(self) -> int:
        return self.moments.count

    def __add__(self, other: "FeatureSet") -> "FeatureSet":
        mine, theirs = ((s.name, s.extractor, s.fingerprint) for s in (self, other))
        if mine != theirs:
            raise SpecError(f"feature sets: {mine} and {theirs} are parts of different sets; merge only one set's.")
        both = self.vectors is not None and other.vectors is not None
        vectors = np.concatenate([self.vectors, other.vectors]) if both else None  # type: ignore[list-item]
        return dataclasses.replace(self, moments=self.moments + other.moments, vectors=vectors)


def extract(
    features: Features, batches: Iterable[jax.Array | np.ndarray], *, name: str, keep_vectors: bool = True
) -> FeatureSet:
    """Runs `features` over `batches` of images.

    Args:
      features: the extractor.
      batches: float [B, H, W, C] in [-1, 1] each; equal B compile once.
      name: of the set.
      keep_vectors: whether to keep more than the moments; Fréchet distances need no more, all others do.

    Raises:
      SourceError: no images, or as of `Features`.
    """
    moments, kept = None, []
    for batch in batches:
        found = features(batch)
        part = Moments.of(found)
        moments = part if moments is None else moments + part
        if keep_vectors:
            kept.append(found)
    if moments is None or moments.count == 0:
        raise SourceError(f"{name}: no images to take features of.")
    vectors = np.concatenate(kept) if keep_vectors else None
    return FeatureSet(
        name=name, extractor=features.name, fingerprint=features.fingerprint, moments=moments, vectors=vectors
    )


def random_pyramid(
    channels: int = 3, *, widths: tuple[int, ...] = PYRAMID_WIDTHS, seed: int = 0, prepare: Preparation | None = None
) -> Features:
    """Features that need no training: a pyramid of random filters, of which each level is summed up by mean and spread.

    Each level is a random 3 x 3 convolution and a ReLU, halved for the next. Filters sum to 0 over positions: they see
    edges, not brightness, which the mean and spread of the pixels themselves stand for. Responses count by their
    logarithm, or the few strong ones would hide the faint ones that blur and coding change.

    Args:
      channels: C.
      widths: filters of each level; D is 2 (C + the sum of them).
      seed: of the filters. They are numpy's; should a version draw others, the fingerprint says so.
      prepare: what is done to images first; by default nothing but rounding to 8 bits.
    """
    generator = np.random.default_rng(seed)
    filters = []
    for before, width in zip((channels, *widths), widths, strict=False):
        drawn = generator.standard_normal((width, before, 3, 3))
        drawn -= drawn.mean(axis=(2, 3), keepdims=True)
        filters.append((drawn / np.sqrt(np.sum(drawn**2, axis=(1, 2, 3), keepdims=True))).astype(np.float32))
    return Features(
        name="random_pyramid",
        apply=_apply_pyramid,
        params=filters,
        prepare=Preparation() if prepare is None else prepare,
    )


def _apply_pyramid(params: Params, images: jax.Array) -> jax.Array:
    found, x = _mean_and_spread(images), images
    for level, weight in enumerate(params):
        if level:
            x = jax.image.resize(x, (x.shape[0], -(-x.shape[1] // 2), -(-x.shape[2] // 2), x.shape[3]), "bilinear")
        edged = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")  # zeros would be an edge of their own
        x = jax.nn.relu(convolve(edged, weight, padding="VALID"))
        found += [jnp.log1p(energy / _STEP) for energy in _mean_and_spread(x)]
    return jnp.concatenate(found, axis=-1)


def _mean_and_spread(x: jax.Array) -> list[jax.Array]:
    return [jnp.mean(x, axis=(1, 2)), jnp.std(x, axis=(1, 2))]
