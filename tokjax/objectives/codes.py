"""Codes of images as data: what generators learn, and targets of tokenizers that learn from another.

Letters: `B` batch, `S` size of an image, `C` channels, `T` codes of an image.
"""

from typing import Self

import flax.struct
import jax

from tokjax.data.images import ImageBatch


@flax.struct.dataclass
class CodeBatch:
    """Codes of images, and what they show.

    Attributes:
      codes: int32 [B, T].
      labels: int32 [B], index of the class; -1 where there is none.
      mask: float32 [B], 1 where the row is an image, 0 where it pads a batch.
    """

    codes: jax.Array
    labels: jax.Array
    mask: jax.Array

    @classmethod
    def of(cls, batch: ImageBatch, codes: jax.Array) -> Self:
        """Returns the batch of the codes of `batch`, int32 [B, T]."""
        return cls(codes=codes, labels=batch.labels, mask=batch.mask)


@flax.struct.dataclass
class ProxyBatch(ImageBatch):
    """Images beside the codes that another tokenizer gives them.

    Attributes:
      codes: int32 [B, T].
    """

    codes: jax.Array

    @classmethod
    def of(cls, batch: ImageBatch, codes: jax.Array) -> Self:
        """Returns `batch` with the codes of its images, int32 [B, T]."""
        return cls(pixels=batch.pixels, labels=batch.labels, mask=batch.mask, codes=codes)
