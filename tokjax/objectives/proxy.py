"""Learning the codes of a trained tokenizer ("proxy") in place of pixels, and drawing with its decoder.

Letters: `B` batch, `N` codes of an image, `K` codes there are, `D` width of a code, `S` size, `C` channels.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from tokjax.core.spec import check
from tokjax.core.types import Aux, Params
from tokjax.nn.conv import ConvSpec, declare_decoder, decode, decoder_flops
from tokjax.nn.param import Param, fan_in
from tokjax.quantize import Quantizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProxySpec:
    """Shape of a tokenizer of codes on a grid, as of the system `vqgan`.

    Attributes:
      body: as of that tokenizer.
      codes: K.
      code_width: D.
    """

    body: ConvSpec
    codes: int
    code_width: int

    def __post_init__(self):
        check(self.codes >= 2, "codes", self.codes, "use at least 2.")
        check(self.code_width >= 1, "code_width", self.code_width, "must be at least 1.")


def declare_proxy(spec: ProxySpec, channels: int) -> dict[str, Any]:
    """Declares the codebook and the decoder; `proxy_params` says what to put there."""
    return {
        "codebook": Param((spec.codes, spec.code_width), (None, None), fan_in(spec.code_width), decay=False),
        "decoder": declare_decoder(spec.body, spec.code_width, channels),
    }


def proxy_params(codes: Quantizer, params: Params, state: Params) -> Params:
    """Returns the arrays of `declare_proxy` of a trained `vqgan`.

    Args:
      codes: its quantizer.
      params: its parameters.
      state: what gradients did not train of it.
    """
    every = jnp.arange(codes.sizes[0], dtype=jnp.int32)
    codebook = codes.dequantize(params["quantizer"], state["quantizer"], every)
    return {"codebook": codebook, "decoder": params["decoder"]}


def decode_logits(spec: ProxySpec, params: Params, logits: jax.Array) -> jax.Array:
    """Returns the images [B, S, S, C] of float32 `logits` [B, N, K], each place the mean of the codes it may be."""
    rows = math.isqrt(logits.shape[1])
    grid = jax.nn.softmax(logits, axis=-1) @ params["codebook"]
    return decode(spec.body, params["decoder"], grid.reshape(len(logits), rows, rows, -1))


def proxy_loss(logits: jax.Array, codes: jax.Array, mask: jax.Array) -> tuple[jax.Array, Aux]:
    """Scores float32 `logits` [B, N, K] of `codes` int32 [B, N] by cross-entropy, in nats per code.

    Args:
      logits: of each code.
      codes: those of the proxy.
      mask: float32 [B], images that count.

    Returns:
      (scalar, metrics per image).
    """
    weight, count = mask / jnp.maximum(jnp.sum(mask), 1.0), jnp.sum(mask)
    chosen = jnp.take_along_axis(logits, codes[..., None], axis=-1)[..., 0]
    nll = weight @ jnp.mean(jax.nn.logsumexp(logits, axis=-1) - chosen, axis=-1)
    correct = weight @ jnp.mean((jnp.argmax(logits, axis=-1) == codes).astype(jnp.float32), axis=-1)
    return nll, {"proxy_nll": (nll * count, count), "proxy_accuracy": (correct * count, count)}


def proxy_flops(spec: ProxySpec, size: int, channels: int) -> float:
    """Forward FLOPs of `decode_logits` for one image of `size` rows."""
    places = (size // spec.body.factor) ** 2
    return decoder_flops(spec.body, size, channels, spec.code_width) + 2.0 * places * spec.codes * spec.code_width
