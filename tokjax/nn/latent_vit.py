"""Between the patches of an image and a row of latent tokens, one transformer each way (Yu et al. 2024, TiTok).

Letters: `B` batch, `N` patches, `P` numbers of a patch, `K` latent tokens, `D` width, `E` width of a code.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from tokjax.nn.param import Param, normal
from tokjax.nn.vit import ViTSpec, declare_dense, declare_layer_norm, declare_vit, dense, layer_norm, vit, vit_flops


def declare_vectors(width: int, count: int | None = None) -> Param:
    """Declares `count` vectors that are added or inserted, or one: of variance 1 / width, without weight decay."""
    stddev = 1.0 / math.sqrt(width)
    if count is None:
        return Param((width,), ("embed",), normal(stddev), decay=False)
    return Param((count, width), (None, "embed"), normal(stddev), decay=False)


def _declare_sequence(spec: ViTSpec, patches: int, latents: int) -> dict[str, Any]:
    return {
        "class": declare_vectors(spec.width),
        "positions": declare_vectors(spec.width, patches + 1),
        "latent_positions": declare_vectors(spec.width, latents),
        "norm_in": declare_layer_norm(spec.width),
        "blocks": declare_vit(spec),
        "norm_out": declare_layer_norm(spec.width),
    }


def _run(spec: ViTSpec, params: Any, patches: jax.Array, latents: jax.Array) -> jax.Array:
    """Returns what the stack makes of a class token, `patches` [B, N, D] and `latents` [B, K, D], [B, 1 + N + K, D]."""
    B, _, D = patches.shape
    patches = jnp.concatenate([jnp.broadcast_to(params["class"], (B, 1, D)), patches], axis=1) + params["positions"]
    x = jnp.concatenate([patches, latents + params["latent_positions"]], axis=1)
    return vit(spec, params["blocks"], layer_norm(params["norm_in"], x))


def declare_latent_encoder(spec: ViTSpec, patches: int, patch_width: int, latents: int, outputs: int) -> dict[str, Any]:
    """Declares the way from N patches of P numbers to K vectors of `outputs` channels."""
    return {
        "patch": declare_dense(patch_width, spec.width, (None, "embed")),
        **_declare_sequence(spec, patches, latents),
        "out": declare_dense(spec.width, outputs, ("embed", None)),
    }


def latent_encode(
    spec: ViTSpec, params: Any, patches: jax.Array, latents: jax.Array, *, legacy: bool = False
) -> jax.Array:
    """Returns the vectors to be quantized, float32 [B, K, E].

    Args:
      spec: shape of the stack.
      params: arrays as declared by `declare_latent_encoder`.
      patches: [B, N, P].
      latents: [K, D], the tokens that read the image.
      legacy: read the K x D numbers of an image as if they lay as D x K, as the code that trained the first released
        weights does (reshaped where it should have been transposed): channels of a token are then those of others.
    """
    x = dense(params["patch"], patches)
    x = _run(spec, params, x, jnp.broadcast_to(latents, (len(x), *latents.shape)))
    x = layer_norm(params["norm_out"], x[:, patches.shape[1] + 1 :].astype(jnp.float32))
    if legacy:
        x = x.reshape(len(x), x.shape[2], x.shape[1]).swapaxes(1, 2)
    return dense(params["out"], x)


def declare_latent_decoder(spec: ViTSpec, inputs: int, latents: int, patches: int) -> dict[str, Any]:
    """Declares the way from K vectors of `inputs` channels to N vectors of D."""
    return {
        "in": declare_dense(inputs, spec.width, (None, "embed")),
        "mask": declare_vectors(spec.width),
        **_declare_sequence(spec, patches, latents),
    }


def latent_decode(spec: ViTSpec, params: Any, vectors: jax.Array) -> jax.Array:
    """Returns what stands at the patches, all of them one mask token before, float32 [B, N, D].

    Args:
      spec: shape of the stack.
      params: arrays as declared by `declare_latent_decoder`.
      vectors: [B, K, E].
    """
    B, N = len(vectors), len(params["positions"]) - 1
    blank = jnp.broadcast_to(params["mask"], (B, N, spec.width))
    x = _run(spec, params, blank, dense(params["in"], vectors))
    return layer_norm(params["norm_out"], x[:, 1 : N + 1].astype(jnp.float32))


def latent_flops(encoder: ViTSpec, decoder: ViTSpec, patches: int, patch_width: int, latents: int, code: int) -> float:
    """Forward FLOPs of encoding and decoding one image, what reads the decoder's vectors not included."""
    length = 1 + patches + latents
    ends = patches * patch_width * encoder.width + latents * code * (encoder.width + decoder.width)
    return 2.0 * ends + vit_flops(encoder, 1, length) + vit_flops(decoder, 1, length)
