"""Sliced Wasserstein distance between patches of Laplacian pyramids: a distance that needs no weights.

Source: Karras et al. 2018, section 5 (https://arxiv.org/abs/1710.10196).

Letters: `N` images, `H` height, `W` width, `C` channels, `P` patches of all images, `D` numbers of a patch.
"""

import dataclasses
import functools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from tokjax.core.errors import SourceError
from tokjax.core.keys import named
from tokjax.core.spec import check, fingerprint, to_dict
from tokjax.measure.distances import Distance
from tokjax.measure.features import check_images

_TAPS = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)  # Burt & Adelson 1983
_NAME = "laplacian_patches"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlicedWasserstein:
    """The distance, as pure functions of images.

    Attributes:
      levels: of the pyramid, each half the side of the one before.
      patch: side of a patch, pixels.
      patches: per image and level; all images have them at positions of their own, drawn from `seed`.
      projections: random directions.
      seed: of positions and directions.
    """

    levels: int = 3
    patch: int = 7
    patches: int = 64
    projections: int = 128
    seed: int = 0

    def __post_init__(self):
        for name in ("levels", "patch", "patches", "projections"):
            check(getattr(self, name) > 0, name, getattr(self, name), "give a positive number.")

    @property
    def fingerprint(self) -> str:
        """Hash of all attributes."""
        return fingerprint([_NAME, to_dict(self)])

    def descriptors(self, batches: Iterable[jax.Array | np.ndarray]) -> list[np.ndarray]:
        """Returns the patches of each level, fine to coarse, float32 [P, patch, patch, C] each.

        Args:
          batches: float [N, H, W, C] in [-1, 1] each; how they are split does not matter.

        Raises:
          SourceError: no images, not in that form, or too small for the levels.
        """
        found: list[list[np.ndarray]] = [[] for _ in range(self.levels)]
        first = 0
        for images in batches:
            check_images(images)
            side = min(images.shape[1:3])
            if side >> (self.levels - 1) < self.patch:
                raise SourceError(
                    f"images: a side of {side} pixels leaves less than a patch of {self.patch} at level {self.levels}. "
                    "Take fewer levels or larger images."
                )
            numbers = jnp.arange(first, first + len(images))
            for level, patches in enumerate(_patches(self, jnp.asarray(images, jnp.float32), numbers)):
                found[level].append(np.asarray(patches))
            first += len(images)
        if first == 0:
            raise SourceError("sliced Wasserstein distance: no images.")
        return [np.concatenate(parts) for parts in found]

    def by_level(self, images: list[np.ndarray], reference: list[np.ndarray]) -> list[float]:
        """Returns the distance at each level, fine to coarse, between two sets of `descriptors` of equal size.

        Patches are in units of the reference: less its mean per channel, over its standard deviation. (The paper
        brings each set to its own, which hides differences of contrast.)

        Raises:
          SourceError: sizes differ, which sorting against each other does not allow.
        """
        values = []
        for level, (x, y) in enumerate(zip(images, reference, strict=True)):
            if x.shape != y.shape:
                raise SourceError(f"patches: got shapes {x.shape} and {y.shape}; give as many images of the same size.")
            mean, spread = y.mean(axis=(0, 1, 2)), y.std(axis=(0, 1, 2))
            scale = np.where(spread > 0, spread, 1)
            x, y = (((z - mean) / scale).reshape(len(z), -1) for z in (x, y))
            generator = np.random.default_rng([self.seed, level])
            directions = generator.standard_normal((x.shape[1], self.projections)).astype(np.float32)
            directions /= np.linalg.norm(directions, axis=0)
            shift = np.sort(x @ directions, axis=0) - np.sort(y @ directions, axis=0)
            values.append(float(np.mean(np.abs(shift), dtype=np.float64)))
        return values

    def distance(self, images: list[np.ndarray], reference: list[np.ndarray], *, name: str, against: str) -> Distance:
        """Returns the mean over levels.

        Args:
          images, reference: `descriptors` of the two sets.
          name: of the measured set.
          against: name of the reference.

        Raises:
          SourceError: as of `by_level`.
        """
        value = float(np.mean(self.by_level(images, reference)))
        n, m = (len(patches[0]) // self.patches for patches in (images, reference))
        return Distance(
            metric="SWD",
            value=value,
            extractor=_NAME,
            fingerprint=self.fingerprint,
            images=name,
            n=n,
            reference=against,
            reference_n=m,
        )


def laplacian_pyramid(images: jax.Array, levels: int) -> list[jax.Array]:
    """Splits `images` [N, H, W, C] into bands, fine to coarse; the last is what is left (Burt & Adelson 1983).

    Every band is the image less what its half-sized copy still shows of it, so that the image can be had back.
    """
    bands = []
    for _ in range(levels - 1):
        small = _blur(images)[:, ::2, ::2]
        bands.append(images - _enlarge(small, images.shape))
        images = small
    return [*bands, images]


def from_pyramid(bands: list[jax.Array]) -> jax.Array:
    """The inverse of `laplacian_pyramid`, up to rounding."""
    images = bands[-1]
    for band in reversed(bands[:-1]):
        images = band + _enlarge(images, band.shape)
    return images


def _blur(x: jax.Array) -> jax.Array:
    for axis in (1, 2):
        size, reach = x.shape[axis], len(_TAPS) // 2
        pad = [(reach, reach) if a == axis else (0, 0) for a in range(x.ndim)]
        padded = jnp.pad(x, pad, mode="reflect")
        shifts = (jax.lax.slice_in_dim(padded, at, at + size, axis=axis) for at in range(len(_TAPS)))
        x = sum(tap * shift for tap, shift in zip(_TAPS, shifts, strict=True))  # type: ignore[assignment]
    return x


def _enlarge(small: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    spread = jnp.zeros(shape, small.dtype).at[:, ::2, ::2].set(small)
    return 4.0 * _blur(spread)


@functools.partial(jax.jit, static_argnums=0)
def _patches(spec: SlicedWasserstein, images: jax.Array, numbers: jax.Array) -> list[jax.Array]:
    """Patches of each level [N x patches, patch, patch, C]; positions depend on the seed and an image's number only."""
    key = named(jax.random.key(spec.seed), "positions")

    def of_image(band: jax.Array, number: jax.Array, level: int) -> jax.Array:
        own = jax.random.fold_in(jax.random.fold_in(key, level), number)
        limits = jnp.asarray(band.shape[:2]) - spec.patch + 1
        corners = jax.random.randint(own, (spec.patches, 2), 0, limits)
        size = (spec.patch, spec.patch, band.shape[-1])
        return jax.vmap(lambda corner: jax.lax.dynamic_slice(band, (*corner, 0), size))(corners)

    bands = laplacian_pyramid(images, spec.levels)
    found = [jax.vmap(functools.partial(of_image, level=level))(band, numbers) for level, band in enumerate(bands)]
    return [patches.reshape(-1, *patches.shape[2:]) for patches in found]
