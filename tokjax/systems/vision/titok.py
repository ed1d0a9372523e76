"""TiTok: an image as a row of tokens that lie on no grid."""

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp

from tokjax.core.errors import SpecError
from tokjax.core.keys import named
from tokjax.core.registry import Paper, systems
from tokjax.core.spec import check
from tokjax.core.types import Aux, Params
from tokjax.data.images import ImageBatch, ProxyBatch
from tokjax.nn.conv import conv, declare_conv
from tokjax.nn.latent_vit import (
    declare_latent_decoder,
    declare_latent_encoder,
    declare_vectors,
    latent_decode,
    latent_encode,
    latent_flops,
)
from tokjax.nn.param import without_decay
from tokjax.nn.patches import patchify, unpatchify
from tokjax.nn.vit import ViTSpec, declare_dense, dense
from tokjax.objectives.image import ImageTokenizer
from tokjax.objectives.proxy import ProxySpec, declare_proxy, decode_logits, proxy_flops, proxy_loss, proxy_params
from tokjax.objectives.reconstruction import (
    ReconstructionSpec,
    declare_adversary,
    init_adversary,
    reconstruction_loss,
)
from tokjax.quantize import Quantizer, quantizer

Stage = Literal["single", "proxy", "pixels"]
# Parameters that a stage leaves as they are.
_HELD: dict[str, tuple[str, ...]] = {
    "single": (),
    "proxy": ("proxy", "adversary"),
    "pixels": ("encoder", "latents", "quantizer"),
}

YU = Paper(
    title="An Image is Worth 32 Tokens for Reconstruction and Generation",
    authors="Yu, Weber, Deng, Shen, Cremers, Chen",
    year=2024,
    url="https://arxiv.org/abs/2406.07550",
)


@systems.register("titok", papers=(YU,))
@dataclasses.dataclass(frozen=True, kw_only=True)
class TiTok(ImageTokenizer):
    """A row of latent tokens between two transformers; one mask token at each patch draws the image from them.

    It is trained in one stage, against pixels; or in two, of which the second starts from the first's parameters
    (`train.init_from`). Both stages of one model are the same spec but for `stage`, and declare the same parameters:
    those of the proxy are put there before the first (`objectives.proxy.proxy_params`), which leaves them alone.

    Attributes:
      patch: rows of a patch.
      latents: codes of an image.
      encoder: shape of the transformer that reads patches and latent tokens.
      decoder: shape of the one that reads codes and mask tokens.
      code_width: channels of the vectors that are quantized.
      quantizer: what quantizes them, as of `vqgan`.
      stage: `single`, the decoder gives patches of pixels; `proxy`, it gives the proxy's codes, which a `ProxyBatch`
        carries; `pixels`, decoder and proxy are trained together against pixels, the rest stays as it is.
      proxy: the tokenizer whose codes are learned, of which one code stands for one patch; None of a single stage.
      reconstruction: terms of the loss against pixels.
      legacy: see `nn.latent_vit.latent_encode`; of released weights only.
    """

    patch: int
    latents: int
    encoder: ViTSpec
    decoder: ViTSpec
    code_width: int
    quantizer: str
    stage: Stage = "single"
    proxy: ProxySpec | None = None
    reconstruction: ReconstructionSpec = dataclasses.field(default_factory=ReconstructionSpec)
    legacy: bool = False

    def __post_init__(self):
        super().__post_init__()
        check(self.patch >= 1, "patch", self.patch, "must be at least 1.")
        check(self.latents >= 1, "latents", self.latents, "must be at least 1.")
        check(self.size % self.patch == 0, "size", self.size, f"must be a multiple of patch, {self.patch}.")
        check(self.stage in _HELD, "stage", self.stage, f"use one of {', '.join(_HELD)}.")
        shape = self.codes.codes_shape((1, self.latents))
        check(shape == (1, self.latents), "quantizer", self.quantizer, "use one that gives a code per vector.")
        fix = "only the encoder of released weights, which is not trained any more, needs it; leave it False."
        check(not self.legacy or self.stage == "pixels", "legacy", self.legacy, fix)
        if self.stage == "single":
            check(self.proxy is None, "proxy", self.proxy, "a single stage has none; leave it out, or change stage.")
            return
        if self.proxy is None:
            raise SpecError(f"proxy: missing; the stage {self.stage!r} needs the shape of the tokenizer to learn from.")
        factor = self.proxy.body.factor
        check(factor == self.patch, "patch", self.patch, f"a code of the proxy stands for {factor} rows; give as many.")
        kept = jax.tree.leaves(jax.eval_shape(self.codes.init_state, jax.random.key(0)))
        fix = "keeps codes in the state, which the second stage does not start from; use none with averages or revival."
        check(max((x.ndim for x in kept), default=0) < 2, "quantizer", self.quantizer, fix)

    @functools.cached_property
    def codes(self) -> Quantizer:
        """What quantizes the latent tokens."""
        return quantizer(self.quantizer, width=self.code_width)

    @property
    def tokens(self) -> int:
        return self.latents

    @property
    def vocab_size(self) -> int:
        return self.codes.sizes[0]

    @property
    def proxied(self) -> bool:
        return self.stage == "proxy"

    def adopt(self, params: Params, other: ImageTokenizer, other_params: Params, other_state: Params) -> Params:
        """Returns `params` with the codebook and decoder of `other`, a `vqgan` of the shape of `proxy`.

        Raises:
          SpecError: its arrays are of other shapes.
        """
        taken = proxy_params(other.codes, other_params, other_state)  # type: ignore[attr-defined]
        if jax.tree.map(jnp.shape, taken) != jax.tree.map(jnp.shape, params["proxy"]):
            raise SpecError("proxy: the run given has another body, codes or code_width; use its own numbers here.")
        return params | {"proxy": taken}

    @property
    def patches(self) -> int:
        """Patches of an image, and codes of the proxy."""
        return (self.size // self.patch) ** 2

    def declare(self) -> Any:
        numbers, width = self.patch**2 * self.channels, self.decoder.width
        if self.proxy is None:
            proxy = {}
            head = {
                "patch": declare_dense(width, numbers, ("embed", None)),
                "out": declare_conv(self.channels, self.channels),
            }
        else:
            proxy = declare_proxy(self.proxy, self.channels)
            head = {
                "hidden": declare_dense(width, 2 * width, ("embed", "mlp")),
                "logits": declare_dense(2 * width, self.proxy.codes, ("mlp", None)),
            }
        tree = {
            "latents": declare_vectors(self.encoder.width, self.latents),
            "encoder": declare_latent_encoder(self.encoder, self.patches, numbers, self.latents, self.code_width),
            "quantizer": self.codes.declare(),
            "decoder": declare_latent_decoder(self.decoder, self.code_width, self.latents, self.patches),
            "head": head,
            "proxy": proxy,
            "adversary": declare_adversary(self.reconstruction, self.channels),
        }
        return tree | {name: without_decay(tree[name]) for name in _HELD[self.stage]}

    def init_state(self, key: jax.Array) -> Params:
        return {
            "step": jnp.zeros((), jnp.int32),
            "quantizer": self.codes.init_state(named(key, "quantizer")),
            "adversary": init_adversary(self.reconstruction),
        }

    def vectors(self, params: Params, pixels: jax.Array) -> jax.Array:
        """Returns what is quantized of `pixels`, float32 [B, T, code_width]."""
        patches = patchify(pixels, self.patch)
        return latent_encode(self.encoder, params["encoder"], patches, params["latents"], legacy=self.legacy)

    def logits(self, params: Params, vectors: jax.Array) -> jax.Array:
        """Returns logits of the proxy's codes, float32 [B, patches, codes], from quantized `vectors`."""
        head = params["head"]
        hidden = jnp.tanh(dense(head["hidden"], latent_decode(self.decoder, params["decoder"], vectors)))
        return dense(head["logits"], hidden)

    def draw(self, params: Params, vectors: jax.Array) -> jax.Array:
        """Returns the images [B, S, S, C] of quantized `vectors` [B, T, code_width]."""
        if self.proxy is not None:
            return decode_logits(self.proxy, params["proxy"], self.logits(params, vectors))
        patches = dense(params["head"]["patch"], latent_decode(self.decoder, params["decoder"], vectors))
        return conv(params["head"]["out"], unpatchify(patches, self.patch, self.channels))

    def encode(self, params: Params, state: Params, pixels: jax.Array) -> jax.Array:
        z = self.vectors(params, pixels)
        return self.codes.quantize(params["quantizer"], state["quantizer"], z).codes

    def decode(self, params: Params, state: Params, codes: jax.Array, key: jax.Array) -> jax.Array:
        del key
        return self.draw(params, self.codes.dequantize(params["quantizer"], state["quantizer"], codes))

    def loss(
        self, params: Params, state: Params, batch: ImageBatch, key: jax.Array
    ) -> tuple[jax.Array, tuple[Params, Aux]]:
        """What the stage's targets miss, and what the quantizer adds where it is trained."""
        params = params | {name: jax.lax.stop_gradient(params[name]) for name in _HELD[self.stage]}
        learns = self.stage != "pixels"
        z = self.vectors(params, batch.pixels)
        exists = jnp.broadcast_to(batch.mask[:, None] > 0, z.shape[:-1])
        key = named(key, "quantizer")
        found = self.codes.quantize(params["quantizer"], state["quantizer"], z, key, mask=exists, train=learns)
        adversary = state["adversary"]
        if self.stage == "proxy":
            if not isinstance(batch, ProxyBatch):
                raise SpecError("stage: 'proxy' learns the codes of another tokenizer; give batches that carry them.")
            missed, aux = proxy_loss(self.logits(params, found.vectors), batch.codes, batch.mask)
        else:
            missed, (adversary, aux) = reconstruction_loss(
                self.reconstruction, params["adversary"], adversary,
                self.draw(params, found.vectors), batch.pixels, batch.mask, state["step"],
            )  # fmt: skip
        loss, count = missed + found.loss if learns else missed, jnp.sum(batch.mask)
        state = {"step": state["step"] + 1, "quantizer": found.state, "adversary": adversary}
        return loss, (state, {"loss": (loss * count, count)} | aux | found.stats)

    def flops(self, batch_size: int, length: int) -> float:
        """Forward FLOPs from pixels to what the stage compares; those of a discriminator do not count."""
        del length
        numbers, width = self.patch**2 * self.channels, self.decoder.width
        of_image = self.codes.flops(self.latents) + latent_flops(
            self.encoder, self.decoder, self.patches, numbers, self.latents, self.code_width
        )
        if self.proxy is None:
            of_image += 2.0 * self.patches * width * numbers + 2.0 * 9 * self.size**2 * self.channels**2
        else:
            of_image += 2.0 * self.patches * 2 * width * (width + self.proxy.codes)
        if self.proxy is not None and self.stage == "pixels":
            of_image += proxy_flops(self.proxy, self.size, self.channels)
        return batch_size * of_image
