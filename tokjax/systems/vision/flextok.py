"""FlexTok: an image as a row of codes, each of which adds to those before it, decoded by a flow at any length.

Deviations. The paper works on the latents of a pretrained variational autoencoder; without `latent` this system works
on pixels, as its small recipes do. Dropped codes are replaced by the mask vector after they are brought to the
decoder's width. Which mask of attention the published encoders use is not said; ours is `causal_last`. The alignment of
the decoder with DINOv2 features (REPA) is left out: it needs a network that others trained.
"""

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp

from tokjax.core.keys import named
from tokjax.core.registry import Paper, systems
from tokjax.core.spec import check
from tokjax.core.types import Aux, Params
from tokjax.data.images import ImageBatch
from tokjax.generate.flow import GuidanceSpec, euler, guide
from tokjax.nn.autoencoder import AutoencoderSpec
from tokjax.nn.flow_transformer import FlowTransformerSpec, MaskMode, register_mask
from tokjax.nn.patches import patchify, unpatchify
from tokjax.nn.registers import (
    declare_flow_decoder,
    declare_register_encoder,
    encode_registers,
    flow_decoder,
    register_flops,
)
from tokjax.objectives.flow import draw_times, interpolate
from tokjax.objectives.image import ImageTokenizer
from tokjax.objectives.nested_dropout import LENGTHS, Lengths, draw_lengths
from tokjax.objectives.reconstruction import (
    ReconstructionSpec,
    declare_adversary,
    init_adversary,
    reconstruction_loss,
)
from tokjax.quantize import Quantizer, quantizer

BACHMANN = Paper(
    title="FlexTok: Resampling Images into 1D Token Sequences of Flexible Length",
    authors="Bachmann et al.",
    year=2025,
    url="https://arxiv.org/abs/2502.13967",
)


@systems.register("flextok", papers=(BACHMANN,))
@dataclasses.dataclass(frozen=True, kw_only=True)
class FlexTok(ImageTokenizer):
    """Ordered codes of registers, decoded at any length by a rectified flow.

    Letters: `P` patches of Q values, `N` registers, `D` width of the decoder.

    Attributes:
      patch: rows and columns of a patch of what is encoded: pixels, or latents.
      registers: N, codes of an image.
      encoder_body: shape of the encoder, which nothing conditions.
      decoder_body: shape of the decoder.
      code_width: channels of the vectors that are quantized.
      quantizer: what quantizes them, one code per vector.
      mask: what positions see in the encoder; see `register_mask`. Codes are ordered by dropout, whatever it is.
      dropout: how many codes stay in training; see `draw_lengths`. With `none` the decoder never learns to miss any.
      decoder: `flow`, or `pixels`: the same network, once, with a mask vector for each patch and the time held at 1.
      condition_drop: share of images whose codes are all dropped in training of a flow, which guidance needs.
      stratified: spread the times of a batch evenly.
      steps: of the flow in decoding.
      guidance: of the flow in decoding, away from the decoder without codes.
      reconstruction: terms of the loss of the decoder `pixels`.
      latent: what the patches are latents of; None for pixels.
    """

    patch: int
    registers: int
    encoder_body: FlowTransformerSpec
    decoder_body: FlowTransformerSpec
    code_width: int = 6
    quantizer: str = "fsq:levels=8,8,8,5,5,5"
    mask: MaskMode = "causal_last"
    dropout: Lengths = "uniform_pow2"
    decoder: Literal["flow", "pixels"] = "flow"
    condition_drop: float = 0.1
    stratified: bool = False
    steps: int = 20
    guidance: GuidanceSpec = dataclasses.field(default_factory=GuidanceSpec)
    reconstruction: ReconstructionSpec = dataclasses.field(default_factory=ReconstructionSpec)
    latent: AutoencoderSpec | None = None

    def __post_init__(self):
        super().__post_init__()
        check(self.patch >= 1, "patch", self.patch, "must be at least 1.")
        check(self.registers >= 1, "registers", self.registers, "must be at least 1.")
        check(self.steps >= 1, "steps", self.steps, "must be at least 1.")
        factor = self.patch * (self.latent.body.factor if self.latent else 1)
        check(self.size % factor == 0, "size", self.size, f"a patch covers {factor} pixels; give a multiple.")
        check(0 <= self.condition_drop < 1, "condition_drop", self.condition_drop, "a share is from 0 to below 1.")
        check(self.dropout in LENGTHS, "dropout", self.dropout, f"use one of {', '.join(LENGTHS)}.")
        check(self.decoder in ("flow", "pixels"), "decoder", self.decoder, "use 'flow' or 'pixels'.")
        guided = self.decoder == "flow" and self.guidance.scale != 1
        fix = "guidance needs a decoder that has learned to go without codes; use 0.1, or guidance.scale=1."
        check(not guided or self.condition_drop > 0, "condition_drop", self.condition_drop, fix)
        one = self.codes.codes_shape((1, self.registers)) == (1, self.registers)
        fix = f"use one that gives one code per vector, which stands for {self.code_width} channels."
        check(one and self.codes.code_width == self.code_width, "quantizer", self.quantizer, fix)
        register_mask(self.mask, 0, 0)

    @functools.cached_property
    def codes(self) -> Quantizer:
        """What quantizes the vectors of registers."""
        return quantizer(self.quantizer, width=self.code_width)

    @property
    def tokens(self) -> int:
        return self.registers

    @property
    def vocab_size(self) -> int:
        return self.codes.sizes[0]

    @property
    def ordered(self) -> bool:
        return True

    @property
    def _channels(self) -> int:
        """Of what is cut into patches."""
        return self.latent.channels if self.latent else self.channels

    @property
    def _patches(self) -> tuple[int, int]:
        """(P, Q)."""
        rows = self.size // (self.patch * (self.latent.body.factor if self.latent else 1))
        return rows * rows, self.patch**2 * self._channels

    def declare(self) -> Any:
        (P, Q), N, flow = self._patches, self.registers, self.decoder == "flow"
        return {
            "latent": self.latent.declare(self.channels) if self.latent else {},
            "encoder": declare_register_encoder(self.encoder_body, P, Q, N, self.code_width),
            "quantizer": self.codes.declare(),
            "decoder": declare_flow_decoder(self.decoder_body, P, Q, N, self.code_width, noised=flow),
            "adversary": {} if flow else declare_adversary(self.reconstruction, self.channels),
        }

    def init_state(self, key: jax.Array) -> Params:
        return {
            "step": jnp.zeros((), jnp.int32),
            "quantizer": self.codes.init_state(named(key, "quantizer")),
            "adversary": {} if self.decoder == "flow" else init_adversary(self.reconstruction),
        }

    def _input(self, params: Params, pixels: jax.Array) -> jax.Array:
        """Returns the patches [B, P, Q] of what is encoded."""
        return patchify(self.latent.encode(params["latent"], pixels) if self.latent else pixels, self.patch)

    def _output(self, params: Params, patches: jax.Array) -> jax.Array:
        """The way back from `_input`."""
        found = unpatchify(patches, self.patch, self._channels)
        return self.latent.decode(params["latent"], found) if self.latent else found

    def _registers(self, params: Params, x: jax.Array) -> jax.Array:
        """Returns the vectors to be quantized, float32 [B, N, code_width], of patches [B, P, Q]."""
        return encode_registers(self.encoder_body, params["encoder"], x, self.mask)

    def _predict(
        self, params: Params, vectors: jax.Array, kept: jax.Array, t: jax.Array, x: jax.Array | None = None
    ) -> jax.Array:
        """Returns the velocity of patches `x` [B, P, Q] at times `t` [B], or what patches are; see `flow_decoder`."""
        return flow_decoder(self.decoder_body, params["decoder"], vectors, kept, t, x)

    def encode(self, params: Params, state: Params, pixels: jax.Array) -> jax.Array:
        z = self._registers(params, self._input(params, pixels))
        return self.codes.quantize(params["quantizer"], state["quantizer"], z).codes

    def decode(self, params: Params, state: Params, codes: jax.Array, key: jax.Array) -> jax.Array:
        """As of `ImageTokenizer`; codes that are `NO_CODE` are dropped, and where all are, nothing guides the flow."""
        vectors, kept = self.codes.dequantize(params["quantizer"], state["quantizer"], codes), codes >= 0
        if self.decoder == "pixels":
            return self._output(params, self._predict(params, vectors, kept, jnp.ones(len(codes))))
        noise = jax.random.normal(key, (len(codes), *self._patches))
        guided = self.guidance.scale != 1
        if guided:  # with and without codes, in one pass
            vectors, kept = jnp.tile(vectors, (2, 1, 1)), jnp.concatenate([kept, jnp.zeros_like(kept)])

        def velocity(x: jax.Array, t: jax.Array, memory: jax.Array) -> tuple[jax.Array, jax.Array]:
            x = jnp.tile(x, (2, 1, 1)) if guided else x
            found = self._predict(params, vectors, kept, jnp.full(len(x), t), x)
            if not guided:
                return found, memory
            with_codes, without = jnp.split(found, 2)
            return guide(self.guidance, with_codes, without, memory)

        return self._output(params, euler(velocity, noise, steps=self.steps, memory=jnp.zeros_like(noise)))

    def loss(
        self, params: Params, state: Params, batch: ImageBatch, key: jax.Array
    ) -> tuple[jax.Array, tuple[Params, Aux]]:
        """The squared error of the velocity, or the terms of `reconstruction`; and what the quantizer adds."""
        x, N = self._input(params, batch.pixels), self.registers
        exists = jnp.broadcast_to(batch.mask[:, None] > 0, (len(x), N))
        found = self.codes.quantize(
            params["quantizer"], state["quantizer"], self._registers(params, x), named(key, "quantizer"),
            mask=exists, train=True,
        )  # fmt: skip
        kept = jnp.arange(N) < draw_lengths(named(key, "lengths"), len(x), N, self.dropout)[:, None]
        aux: Aux = {}
        adversary = state["adversary"]
        if self.decoder == "flow":
            missed = self._flow_loss(params, x, found.vectors, kept, batch.mask, key)
        else:
            decoded = self._output(params, self._predict(params, found.vectors, kept, jnp.ones(len(x))))
            missed, (adversary, aux) = reconstruction_loss(
                self.reconstruction, params["adversary"], state["adversary"],
                decoded, batch.pixels, batch.mask, state["step"],
            )  # fmt: skip
        loss, images = missed + found.loss, jnp.sum(batch.mask)
        state = {"step": state["step"] + 1, "quantizer": found.state, "adversary": adversary}
        return loss, (state, {"loss": (loss * images, images)} | aux | found.stats)

    def _flow_loss(
        self, params: Params, x: jax.Array, vectors: jax.Array, kept: jax.Array, mask: jax.Array, key: jax.Array
    ) -> jax.Array:
        """Returns the squared error of the velocity at random times, mean over the images of `mask` [B]."""
        B = len(x)
        given = jax.random.uniform(named(key, "condition"), (B,)) >= self.condition_drop
        t = draw_times(named(key, "times"), B, stratified=self.stratified)
        at, velocity = interpolate(x, jax.random.normal(named(key, "noise"), x.shape), t)
        missed = self._predict(params, vectors, kept & given[:, None], t, at) - velocity
        return jnp.mean(jnp.square(missed), axis=(1, 2)) @ mask / jnp.maximum(jnp.sum(mask), 1.0)

    def flops(self, batch_size: int, length: int) -> float:
        """Forward FLOPs of encoder, quantizer and one pass of decoder; those of a frozen autoencoder do not count."""
        del length
        (P, Q), N = self._patches, self.registers
        of_image = register_flops(
            self.encoder_body, self.decoder_body, P, Q, N, self.code_width, noised=self.decoder == "flow"
        )
        return batch_size * (of_image + self.codes.flops(N))
