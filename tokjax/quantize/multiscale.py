"""An image's vectors as codes from coarse to fine: each scale quantizes what the ones before it left.

Letters: `B` images, `H`, `W` rows and columns of vectors, `D` width, `K` codes, `L` codes of an image.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tokjax.core.registry import Paper, quantizers
from tokjax.core.spec import check
from tokjax.core.types import Params, Quantized
from tokjax.nn.param import Param, fan_in, zeros
from tokjax.quantize.base import NO_CODE, Context, Quantizer, mean_square, quantizer
from tokjax.quantize.gradients import straight_through


@functools.cache
def pool_matrix(large: int, small: int) -> np.ndarray:
    """Returns the matrix [small, large] of means over the stretches that each of `small` cells overlaps."""
    matrix = np.zeros((small, large), np.float32)
    for cell in range(small):
        start, end = cell * large // small, -(-(cell + 1) * large // small)
        matrix[cell, start:end] = 1.0 / (end - start)
    return matrix


@functools.cache
def cubic_matrix(small: int, large: int) -> np.ndarray:
    """Returns the matrix [large, small] of cubic interpolation (Keys 1981, a = -1/2), edges repeated."""
    matrix = np.zeros((large, small), np.float32)
    for row in range(large):
        place = (row + 0.5) * small / large - 0.5
        for cell in range(math.floor(place) - 1, math.floor(place) + 3):
            distance = abs(place - cell)
            weight = (1.5 * distance - 2.5) * distance**2 + 1.0
            if distance > 1:
                weight = ((-0.5 * distance + 2.5) * distance - 4.0) * distance + 2.0
            matrix[row, min(max(cell, 0), small - 1)] += weight if distance < 2 else 0.0
    return matrix


def resize(x: jax.Array, matrix: np.ndarray) -> jax.Array:
    """Returns `x` [B, H, W, D] with `matrix` applied to its rows and to its columns."""
    return jnp.einsum("ih,jw,bhwd->bijd", matrix, matrix, x, precision=jax.lax.Precision.HIGHEST)


@quantizers.register(
    "multiscale",
    papers=(
        Paper(
            title="Visual Autoregressive Modeling: Scalable Image Generation via Next-Scale Prediction",
            authors="Tian, Jiang, Yuan, Peng, Wang",
            year=2024,
            url="https://arxiv.org/abs/2404.02905",
        ),
    ),
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiScale(Quantizer):
    """Codes of an image from coarse to fine, as in `multiscale:scales=1,2,4,8/vq:codes=4096`.

    At each scale what is left of the image is averaged to s x s vectors, which get codes; those are interpolated to
    full size, smoothed by a convolution, and subtracted. Takes vectors [B, S, S, D], S the last scale, and gives codes
    [B, L], L the sum of the squares of the scales; codes of the last scales may be `NO_CODE`. A `mask` is of images,
    [B]. Interpolation has the coefficient -1/2 of Keys, where PyTorch's has -3/4.

    Attributes:
      base: the quantizer of all scales; its own loss does not count, as the paper has it, but that of the sum.
      scales: rows and columns of each scale, in order.
      commitment: weight of the loss that pulls vectors to the sums of their codes.
      smoothing: share of the convolution in what an interpolated scale becomes; 0 has none.
      convolutions: how many there are; scales share them in order.
    """

    base: str
    scales: tuple[int, ...]
    commitment: float = 0.25
    smoothing: float = 0.5
    convolutions: int = 4

    def __post_init__(self):
        super().__post_init__()
        rising = len(self.scales) > 0 and self.scales[0] >= 1 and list(self.scales) == sorted(set(self.scales))
        check(rising, "scales", self.scales, "give whole numbers that grow, as in 1,2,4,8.")
        check(self.commitment >= 0, "commitment", self.commitment, "must not be negative.")
        check(0 <= self.smoothing <= 1, "smoothing", self.smoothing, "a share is from 0 to 1.")
        check(self.convolutions >= 1, "convolutions", self.convolutions, "must be at least 1.")
        adapts = self.codebook.additive and self.codebook.shrink == 1.0 and len(self.codebook.sizes) == 1
        check(adapts, "base", self.base, "what its codes leave of an image has no fixed range; use vq or simvq.")

    @functools.cached_property
    def codebook(self) -> Quantizer:
        """The quantizer of all scales."""
        return quantizer(self.base, width=self.width)

    @property
    def sizes(self) -> tuple[int, ...]:
        return self.codebook.sizes

    @property
    def additive(self) -> bool:
        return False

    @property
    def length(self) -> int:
        """L, codes of an image."""
        return sum(s * s for s in self.scales)

    def declare(self) -> Any:
        D = self.width
        tree = {"codebook": self.codebook.declare()}
        if self.smoothing:
            shape = (self.convolutions, 3, 3, D, D)
            tree["kernel"] = Param(shape, (None,) * 5, fan_in(9 * D))
            tree["bias"] = Param((self.convolutions, D), (None, None), zeros, decay=False)
        return tree

    def init_state(self, key: jax.Array) -> Params:
        return self.codebook.init_state(key)

    def _smooth(self, params: Params, scale: int, x: jax.Array) -> jax.Array:
        """Returns scale number `scale`, interpolated to full size, after its convolution."""
        if not self.smoothing:
            return x
        # Scales spread evenly over the convolutions: each takes the one whose middle is nearest.
        share = scale / max(1, len(self.scales) - 1)
        which = min(int(share * self.convolutions), self.convolutions - 1)
        convolved = jax.lax.conv_general_dilated(
            x, params["kernel"][which], (1, 1), "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=jax.lax.Precision.HIGHEST,
        )  # fmt: skip
        return (1 - self.smoothing) * x + self.smoothing * (convolved + params["bias"][which])

    def _full_size(self, params: Params, scale: int, vectors: jax.Array) -> jax.Array:
        """Returns what the vectors [B, s * s, D] of scale number `scale` add to the image."""
        s, size = self.scales[scale], self.scales[-1]
        grid = vectors.reshape(len(vectors), s, s, self.width)
        return self._smooth(params, scale, resize(grid, cubic_matrix(s, size)) if s < size else grid)

    def _places(self) -> Iterator[tuple[int, slice]]:
        """Yields (number of the scale, where its codes are) of every scale."""
        start = 0
        for number, s in enumerate(self.scales):
            yield number, slice(start, start + s * s)
            start += s * s

    def quantize(
        self,
        params: Params,
        state: Params,
        x: jax.Array,
        key: jax.Array | None = None,
        *,
        mask: jax.Array | None = None,
        train: bool = False,
    ) -> Quantized:
        self._check(x, key, train)
        size = self.scales[-1]
        check(x.shape[1:3] == (size, size) and x.ndim == 4, "scales", self.scales, f"vectors are of shape {x.shape}.")
        B = len(x)
        mask = jnp.ones(B, bool) if mask is None else mask
        z = self.codebook.prepare(x.astype(jnp.float32))
        fixed, total = jax.lax.stop_gradient(z), jnp.zeros_like(z)
        every = jnp.repeat(mask, size * size)
        loss, codes, stats = jnp.zeros(()), [], []
        for number, _ in self._places():
            left = fixed - jax.lax.stop_gradient(total)
            s = self.scales[number]
            pooled = resize(left, pool_matrix(size, s)) if s < size else left
            own = None if key is None else jax.random.fold_in(key, number)
            context = Context(mask=jnp.repeat(mask, s * s), key=own, samples=B, train=train)
            found = self.codebook.assign(params["codebook"], state, pooled.reshape(-1, self.width), context)
            state = found.state
            # Values of the codebook that was searched, which training may have moved; gradients to its parameters.
            learned = self.codebook.lookup(params["codebook"], state, found.codes)
            vectors = straight_through(learned, found.vectors)
            total = total + self._full_size(params, number, vectors.reshape(B, s * s, self.width))
            error = (fixed - total).reshape(-1, self.width)
            loss = loss + mean_square(error, every)
            loss = loss + self.commitment * mean_square((z - jax.lax.stop_gradient(total)).reshape(error.shape), every)
            codes.append(found.codes.reshape(B, s * s))
            stats.append(found.stats)
        merged = jax.tree.map(lambda *values: sum(values), *stats)
        merged["quantization_error"] = (jax.lax.stop_gradient(mean_square(error, every)), jnp.ones(()))
        vectors = jnp.where(mask[:, None, None, None], straight_through(z, total), 0.0).astype(x.dtype)
        return Quantized(
            codes=jnp.where(mask[:, None], jnp.concatenate(codes, axis=1), NO_CODE),
            vectors=vectors,
            loss=loss / len(self.scales),
            state=state,
            stats=merged,
        )

    def dequantize(self, params: Params, state: Params, codes: jax.Array) -> jax.Array:
        """Returns the vectors [B, S, S, D] of `codes` [B, L]; scales that are `NO_CODE` add nothing."""
        total = jnp.zeros((len(codes), self.scales[-1], self.scales[-1], self.width))
        for number, place in self._places():
            vectors = self.codebook.dequantize(params["codebook"], state, codes[:, place])
            exists = jnp.any(codes[:, place] >= 0, axis=1)[:, None, None, None]  # the bias of no code is none
            total = total + jnp.where(exists, self._full_size(params, number, vectors), 0.0)
        return total

    def assign(self, params: Params, state: Params, z: jax.Array, context: Context) -> Quantized:
        raise NotImplementedError("multiscale quantizes whole images; see `quantize`.")

    def lookup(self, params: Params, state: Params, codes: jax.Array) -> jax.Array:
        raise NotImplementedError("multiscale has vectors of whole images; see `dequantize`.")

    def codes_shape(self, lead: tuple[int, ...]) -> tuple[int, ...]:
        return (*lead[:-2], self.length)

    def bits(self, lead: tuple[int, ...]) -> float:
        return math.prod(lead[:-2]) * self.length * math.log2(self.sizes[0])

    def flops(self, count: int) -> float:
        images = count / self.scales[-1] ** 2
        convolved = 18.0 * self.width**2 * count * len(self.scales) if self.smoothing else 0.0
        resized = sum(2.0 * self.width * self.scales[-1] * s * (s + self.scales[-1]) * 2 for s in self.scales[:-1])
        return self.codebook.flops(int(images * self.length)) + convolved + images * resized
