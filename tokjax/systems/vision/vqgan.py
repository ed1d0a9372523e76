"""A convolutional encoder, codes on a grid, a convolutional decoder: the tokenizer that others are compared with."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from tokjax.core.keys import named
from tokjax.core.registry import Paper, systems
from tokjax.core.spec import check
from tokjax.core.types import Aux, Params
from tokjax.data.images import ImageBatch
from tokjax.nn.conv import ConvSpec, conv_flops, declare_decoder, declare_encoder, decode, encode
from tokjax.objectives.image import ImageTokenizer
from tokjax.objectives.reconstruction import (
    ReconstructionSpec,
    declare_adversary,
    init_adversary,
    reconstruction_loss,
)
from tokjax.quantize import Quantizer, quantizer


@systems.register(
    "vqgan",
    papers=(
        Paper(
            title="Taming Transformers for High-Resolution Image Synthesis",
            authors="Esser, Rombach, Ommer",
            year=2020,
            url="https://arxiv.org/abs/2012.09841",
        ),
    ),
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class VqGan(ImageTokenizer):
    """Codes on a grid between a convolutional encoder and decoder, of any quantizer.

    Attributes:
      body: shape of encoder and decoder.
      code_width: channels of the vectors that are quantized.
      quantizer: what quantizes them, as in `vq:codes=1024:cosine=True` or `fsq:levels=8,5,5,5`; one code per vector.
      reconstruction: terms of the loss.
    """

    body: ConvSpec
    code_width: int
    quantizer: str
    reconstruction: ReconstructionSpec = dataclasses.field(default_factory=ReconstructionSpec)

    def __post_init__(self):
        super().__post_init__()
        fix = f"the body divides it by {self.body.factor}; give a multiple."
        check(self.size % self.body.factor == 0, "size", self.size, fix)
        check(len(self.codes.sizes) == 1, "quantizer", self.quantizer, "it gives several codes per vector; use one.")

    @functools.cached_property
    def codes(self) -> Quantizer:
        """What quantizes the vectors of the grid."""
        return quantizer(self.quantizer, width=self.code_width)

    @property
    def _rows(self) -> int:
        return self.size // self.body.factor

    @property
    def tokens(self) -> int:
        return self.codes.codes_shape((1, self._rows, self._rows))[-1] * (1 if self.grid is None else self._rows)

    @property
    def vocab_size(self) -> int:
        return self.codes.sizes[0]

    @property
    def grid(self) -> tuple[int, int] | None:
        shape = self.codes.codes_shape((1, self._rows, self._rows))
        return (self._rows, self._rows) if len(shape) == 3 else None

    def declare(self) -> Any:
        return {
            "encoder": declare_encoder(self.body, self.channels, self.code_width),
            "quantizer": self.codes.declare(),
            "decoder": declare_decoder(self.body, self.code_width, self.channels),
            "adversary": declare_adversary(self.reconstruction, self.channels),
        }

    def init_state(self, key: jax.Array) -> Params:
        return {
            "step": jnp.zeros((), jnp.int32),
            "quantizer": self.codes.init_state(named(key, "quantizer")),
            "adversary": init_adversary(self.reconstruction),
        }

    def encode(self, params: Params, state: Params, pixels: jax.Array) -> jax.Array:
        z = encode(self.body, params["encoder"], pixels)
        return self.codes.quantize(params["quantizer"], state["quantizer"], z).codes.reshape(len(pixels), -1)

    def decode(self, params: Params, state: Params, codes: jax.Array, key: jax.Array) -> jax.Array:
        del key
        codes = codes.reshape(self.codes.codes_shape((len(codes), self._rows, self._rows)))
        return decode(
            self.body, params["decoder"], self.codes.dequantize(params["quantizer"], state["quantizer"], codes)
        )

    def loss(
        self, params: Params, state: Params, batch: ImageBatch, key: jax.Array
    ) -> tuple[jax.Array, tuple[Params, Aux]]:
        """What the reconstruction misses, and what the quantizer adds."""
        z = encode(self.body, params["encoder"], batch.pixels)
        exists = jnp.broadcast_to(batch.mask[:, None, None] > 0, z.shape[:-1])
        if self.grid is None:
            exists = exists[:, 0, 0]
        found = self.codes.quantize(
            params["quantizer"], state["quantizer"], z, named(key, "quantizer"), mask=exists, train=True
        )
        missed, (adversary, aux) = reconstruction_loss(
            self.reconstruction, params["adversary"], state["adversary"],
            decode(self.body, params["decoder"], found.vectors), batch.pixels, batch.mask, state["step"],
        )  # fmt: skip
        loss, count = missed + found.loss, jnp.sum(batch.mask)
        state = {"step": state["step"] + 1, "quantizer": found.state, "adversary": adversary}
        return loss, (state, {"loss": (loss * count, count)} | aux | found.stats)

    def flops(self, batch_size: int, length: int) -> float:
        """Forward FLOPs of tokenizer and quantizer; those of a discriminator do not count."""
        del length
        of_image = conv_flops(self.body, self.size, self.channels, self.code_width)
        return batch_size * (of_image + self.codes.flops(self._rows**2))
