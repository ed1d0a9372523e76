"""The transformer of images: pre-norm blocks with layer norms and biases, in which every position may see every other.

As of Dosovitskiy et al. 2021 (https://arxiv.org/abs/2010.11929), section 3.1. Positions are what the caller adds to
the vectors.

Letters: `B` batch, `T` tokens, `D` width, `H` heads, `K` head width, `F` hidden width.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp

from tokjax.core.spec import check
from tokjax.nn import layers
from tokjax.nn.attention import attention, masked_attention
from tokjax.nn.param import Param, fan_in, ones, stack, zeros
from tokjax.nn.transformer import over_layers
from tokjax.sharding import constrain


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTSpec:
    """Shape of a stack.

    Attributes:
      width: D.
      layers: number of blocks.
      heads: H.
      hidden: F; 0 is 4 D.
      dtype: of activations and matmuls; norms and softmax stay float32.
      scan_layers: as of `TransformerSpec`.
      remat: recompute each block in the backward pass instead of keeping its activations.
    """

    width: int
    layers: int
    heads: int
    hidden: int = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    scan_layers: bool | None = None
    remat: bool = False

    def __post_init__(self):
        for field in ("width", "layers", "heads"):
            check(getattr(self, field) >= 1, field, getattr(self, field), "must be at least 1.")
        check(self.width % self.heads == 0, "heads", self.heads, f"must divide width {self.width}.")
        check(self.hidden >= 0, "hidden", self.hidden, "must be 0, for 4 times the width, or more.")
        if not self.hidden:
            object.__setattr__(self, "hidden", 4 * self.width)


def declare_layer_norm(width: int) -> dict[str, Param]:
    """Declares scale and bias of a layer norm over `width` channels."""
    return {
        "scale": Param((width,), ("embed",), ones, decay=False),
        "bias": Param((width,), ("embed",), zeros, decay=False),
    }


def layer_norm(params: Any, x: jax.Array, epsilon: float = 1e-5) -> jax.Array:
    """Normalises over the last axis to mean 0 and variance 1, in float32 (Ba et al. 2016)."""
    x32 = x.astype(jnp.float32)
    centred = x32 - jnp.mean(x32, axis=-1, keepdims=True)
    normed = centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + epsilon)
    return (normed * params["scale"] + params["bias"]).astype(x.dtype)


def declare_dense(inputs: int, outputs: int, axes: tuple[str | None, str | None], depth: int = 1) -> dict[str, Param]:
    """Declares a matrix with a bias. `depth` (number of residual branches) scales it down."""
    return {
        "kernel": Param((inputs, outputs), axes, fan_in(inputs * depth)),
        "bias": Param((outputs,), axes[1:], zeros, decay=False),
    }


def dense(params: Any, x: jax.Array, inputs: int = 1) -> jax.Array:
    """Multiplies the last `inputs` dimensions of `x` with the kernel and adds the bias."""
    return layers.project(x, params["kernel"], inputs) + params["bias"].astype(x.dtype)


def declare_vit(spec: ViTSpec) -> dict[str, Any]:
    """Declares one block, `layers` times with a leading "layers" dimension; there is no norm after the last."""
    D, H, F = spec.width, spec.heads, spec.hidden
    K, branches = D // H, 2 * spec.layers
    block = {
        "attention_norm": declare_layer_norm(D),
        "query_key_value": {
            "kernel": Param((D, 3, H, K), ("embed", None, "heads", "head_dim"), fan_in(D)),
            "bias": Param((3, H, K), (None, "heads", "head_dim"), zeros, decay=False),
        },
        "attention_out": {
            "kernel": Param((H, K, D), ("heads", "head_dim", "embed"), fan_in(D * branches)),
            "bias": Param((D,), ("embed",), zeros, decay=False),
        },
        "mlp_norm": declare_layer_norm(D),
        "up": declare_dense(D, F, ("embed", "mlp")),
        "down": declare_dense(F, D, ("mlp", "embed"), branches),
    }
    return stack(block, spec.layers)


def vit(spec: ViTSpec, params: Any, x: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
    """Runs the stack.

    Args:
      spec: its shape.
      params: arrays as declared by `declare_vit`.
      x: [B, T, D], positions included.
      mask: bool [B or 1, T, T], the positions that each sees; all by default.

    Returns:
      [B, T, D] in the stack's dtype, not normalised.
    """

    def block(x: jax.Array, params: Any) -> tuple[jax.Array, None]:
        fused = dense(params["query_key_value"], layer_norm(params["attention_norm"], x))
        query, key, value = (fused[:, :, part] for part in range(3))
        if mask is None:
            attended = attention(query, key, value, causal=False)
        else:
            attended = masked_attention(query, key, value, mask=mask)
        x = x + dense(params["attention_out"], attended, inputs=2)
        hidden = jax.nn.gelu(dense(params["up"], layer_norm(params["mlp_norm"], x)), approximate=False)
        return constrain(x + dense(params["down"], hidden), "batch", None, None), None

    if spec.remat:
        block = jax.checkpoint(block)
    return over_layers(spec, block, x.astype(spec.dtype), params)[0]


def vit_flops(spec: ViTSpec, batch_size: int, length: int) -> float:
    """Forward FLOPs of the stack: multiply and add are two."""
    D = spec.width
    matrices = 4 * D**2 + 2 * D * spec.hidden
    return 2.0 * spec.layers * batch_size * length * (matrices + 2 * length * D)
