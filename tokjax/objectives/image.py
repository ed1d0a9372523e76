"""Systems between images and codes: what every one gives, so that training and measuring are the same for all.

Letters: `B` batch, `S` size of an image, `C` channels, `T` codes of an image, `K` codes there are.
"""

import abc
import dataclasses
import math

import jax
import jax.numpy as jnp

from tokjax.core.spec import check
from tokjax.core.types import Params, System


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageTokenizer(System):
    """Base of systems that turn images into codes and back; batches are `ImageBatch`.

    Attributes:
      size: S.
      channels: C, 1 or 3.
    """

    size: int
    channels: int = 3

    def __post_init__(self):
        check(self.size >= 1, "size", self.size, "must be at least 1.")
        check(self.channels in (1, 3), "channels", self.channels, "use 1 for grey or 3 for RGB.")

    @property
    @abc.abstractmethod
    def tokens(self) -> int:
        """T, codes of an image."""

    @property
    @abc.abstractmethod
    def vocab_size(self) -> int:
        """K, codes that each of the T may be."""

    @abc.abstractmethod
    def encode(self, params: Params, state: Params, pixels: jax.Array) -> jax.Array:
        """Returns the codes int32 [B, T] of `pixels` float32 [B, S, S, C] from -1 to 1."""

    @abc.abstractmethod
    def decode(self, params: Params, state: Params, codes: jax.Array, key: jax.Array) -> jax.Array:
        """Returns the images float32 [B, S, S, C] of `codes` int32 [B, T]; not bounded.

        Args:
          params: arrays as declared.
          state: what gradients do not train.
          codes: where `ordered`, all from some place on may be `NO_CODE`.
          key: of whatever decoding draws; the same key, the same images.
        """

    @property
    def ordered(self) -> bool:
        """Whether the first codes of an image are codes of their own, that can be decoded without the rest."""
        return False

    @property
    def proxied(self) -> bool:
        """Whether it learns the codes of another tokenizer, which batches carry as `ProxyBatch`; see `adopt`."""
        return False

    def adopt(self, params: Params, other: "ImageTokenizer", other_params: Params, other_state: Params) -> Params:
        """Returns `params` with what it takes over of the tokenizer whose codes it learns."""
        raise NotImplementedError("only a system that is `proxied` takes over another's parameters.")

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of the codes, in raster order; None where they lie on no grid."""
        return None

    @property
    def bits(self) -> float:
        """Bits of an image, all codes equally likely."""
        return self.tokens * math.log2(self.vocab_size)

    def reconstruct(self, params: Params, state: Params, pixels: jax.Array, key: jax.Array) -> jax.Array:
        """Returns what is left of `pixels` after encoding and decoding, from -1 to 1."""
        return jnp.clip(self.decode(params, state, self.encode(params, state, pixels), key), -1.0, 1.0)

    def image_flops(self) -> float:
        """Returns the forward FLOPs of one image in training."""
        return self.flops(1, self.tokens)
