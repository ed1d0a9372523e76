"""A transformer over patches and registers: the body of a flow decoder, and of the encoder of its registers.

Pre-norm blocks without biases: layer norms without scale, in float32; normalised queries and keys; SwiGLU. Under a
condition (the time of a flow) every branch is shifted, scaled and gated by it, by other matrices for patches than for
registers, and all gates start closed (adaLN-zero, Peebles & Xie 2022, section 3.2).

Letters: `B` batch, `P` patches of `Q` values, `N` registers, `T` = P + N, `D` width, `H` heads, `K` head width.
"""

import dataclasses
import math
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from tokjax.core import platform
from tokjax.core.spec import check
from tokjax.nn.attention import attention, masked_attention
from tokjax.nn.layers import declare_gated_mlp, gated_mlp, project
from tokjax.nn.param import Param, fan_in, stack, zeros
from tokjax.sharding import constrain

MaskMode = Literal["full", "causal", "causal_last"]
MASK_MODES: tuple[MaskMode, ...] = get_args(MaskMode)
_BASE = 64  # head width at which the scale of attention is 1 / sqrt(K)
TIME_CHANNELS = 256  # sines and cosines that a time is embedded from
_TIME_SCALE = 1000.0  # what times from 0 to 1 are multiplied by before


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlowTransformerSpec:
    """Shape of a stack.

    Attributes:
      layers: number of blocks.
      width: D; 0 is 64 for each layer, as in "d12", "d18" and "d28".
      head_dim: K. Scores are scaled by 8 / K, which is muP's 1 / K (Yang et al. 2022) and 1 / sqrt(K) at K = 64.
      hidden: MLP width; 0 is 8/3 D rounded up to a multiple of 32.
      dtype: of activations and matmuls; norms, softmax and modulation stay float32.
      scan_layers: run the blocks as a loop; None does except on CPU, where an unrolled program is faster.
      remat: recompute each block in the backward pass instead of keeping its activations.
    """

    layers: int
    width: int = 0
    head_dim: int = 64
    hidden: int = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    scan_layers: bool | None = None
    remat: bool = False

    def __post_init__(self):
        check(self.layers >= 1, "layers", self.layers, "must be at least 1.")
        if not self.width:
            object.__setattr__(self, "width", 64 * self.layers)
        if not self.hidden:
            object.__setattr__(self, "hidden", -(-8 * self.width // (3 * 32)) * 32)
        fits = self.head_dim >= 1 and self.width >= 1 and self.width % self.head_dim == 0
        check(fits, "head_dim", self.head_dim, f"must divide width {self.width}.")

    @property
    def heads(self) -> int:
        """H."""
        return self.width // self.head_dim


def register_mask(mode: MaskMode, patches: int, registers: int) -> np.ndarray:
    """Returns which positions each position sees, bool [T, T]; patches come first.

    Args:
      mode: `full`, all see all; `causal`, each sees itself and what comes before; `causal_last`, patches see patches,
        and registers see patches and are causal among themselves. Patches must not see registers there: a register
        would learn of later ones through them.
      patches: P.
      registers: N.

    Raises:
      SpecError: another mode.
    """
    check(mode in MASK_MODES, "mask", mode, f"use one of {', '.join(MASK_MODES)}.")
    length = patches + registers
    if mode == "full":
        return np.ones((length, length), bool)
    mask = np.tri(length, dtype=bool)
    if mode == "causal_last":
        mask[:patches, :patches] = True
    return mask


def layer_norm(x: jax.Array, epsilon: float = 1e-6) -> jax.Array:
    """Returns `x` with mean 0 and variance 1 over the last axis, in float32 (Ba et al. 2016)."""
    x = x.astype(jnp.float32)
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + epsilon)


def declare_flow_block(spec: FlowTransformerSpec, *, conditioned: bool) -> dict[str, Any]:
    """Declares one block; `modulation` is [D, patches or registers, attention's and MLP's shift, scale and gate, D]."""
    D, H, K = spec.width, spec.heads, spec.head_dim
    tree: dict[str, Any] = {
        "query_key_value": Param((D, 3, H, K), ("embed", None, "heads", "head_dim"), fan_in(D)),
        "attention_out": Param((H, K, D), ("heads", "head_dim", "embed"), fan_in(D * 2 * spec.layers)),
        "mlp": declare_gated_mlp(D, spec.hidden, spec.layers),
    }
    return tree | ({"modulation": Param((D, 2, 6, D), ("embed", None, None, "mlp"), zeros)} if conditioned else {})


def declare_flow_transformer(spec: FlowTransformerSpec, *, conditioned: bool) -> Any:
    """Declares the stack: `layers` blocks with a leading "layers" dimension."""
    return stack(declare_flow_block(spec, conditioned=conditioned), spec.layers)


def flow_transformer(
    spec: FlowTransformerSpec,
    params: Any,
    patches: jax.Array,
    registers: jax.Array,
    *,
    condition: jax.Array | None = None,
    mask: np.ndarray | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Runs the stack.

    Args:
      spec: its shape.
      params: arrays as declared by `declare_flow_transformer`.
      patches: [B, P, D], their positions added.
      registers: [B, N, D], the same.
      condition: float32 [B, D], for parameters declared as `conditioned`.
      mask: bool [T, T] as of `register_mask`; None lets all see all.

    Returns:
      (patches, registers) after the blocks, normalised, in the type of the spec.
    """
    P = patches.shape[1]
    x = jnp.concatenate([patches, registers], axis=1).astype(spec.dtype)
    is_patch = (jnp.arange(x.shape[1]) < P)[:, None, None]

    def block(x: jax.Array, params: Any) -> tuple[jax.Array, None]:
        first, second = _modulation(params, condition, is_patch)
        x = x + _gated(_attend(spec, params, _shifted(x, first), mask), first)
        x = x + _gated(gated_mlp(params["mlp"], _shifted(x, second)), second)
        return constrain(x, "batch", "length", None), None

    scan = platform.target() != "cpu" if spec.scan_layers is None else spec.scan_layers
    if spec.remat:
        block = jax.checkpoint(block)
    x = constrain(x, "batch", "length", None)
    x = layer_norm(jax.lax.scan(block, x, params, unroll=1 if scan else spec.layers)[0]).astype(spec.dtype)
    return x[:, :P], x[:, P:]


_Modulation = tuple[jax.Array, jax.Array, jax.Array] | None  # shift, scale and gate, [B, T, D] each


def _modulation(params: Any, condition: jax.Array | None, is_patch: jax.Array) -> tuple[_Modulation, _Modulation]:
    """Returns what a block's attention and its MLP are modulated by."""
    if condition is None:
        return None, None
    found = project(jax.nn.silu(condition), params["modulation"])  # [B, 2, 6, D]
    found = jnp.where(is_patch, found[:, None, 0], found[:, None, 1])
    a, b, c, d, e, f = (found[:, :, i] for i in range(6))
    return (a, b, c), (d, e, f)


def _shifted(x: jax.Array, modulation: _Modulation) -> jax.Array:
    normed = layer_norm(x)
    if modulation is not None:
        shift, scale, _ = modulation
        normed = normed * (1.0 + scale) + shift
    return normed.astype(x.dtype)


def _gated(x: jax.Array, modulation: _Modulation) -> jax.Array:
    return x if modulation is None else (x * modulation[2]).astype(x.dtype)


def _attend(spec: FlowTransformerSpec, params: Any, x: jax.Array, mask: np.ndarray | None) -> jax.Array:
    query, key, value = jnp.moveaxis(project(x, params["query_key_value"]), 2, 0)
    scale = math.sqrt(_BASE / spec.head_dim)  # attention itself divides by sqrt(K)
    query, key = (layer_norm(query) * scale).astype(x.dtype), layer_norm(key).astype(x.dtype)
    if mask is None:
        attended = attention(query, key, value, causal=False)
    else:
        attended = masked_attention(query, key, value, mask=jnp.asarray(mask)[None])
    return project(attended, params["attention_out"], inputs=2)


def declare_time(width: int) -> dict[str, Param]:
    """Declares the MLP that times are embedded by."""
    return {
        "in": Param((TIME_CHANNELS, width), (None, "embed"), fan_in(TIME_CHANNELS)),
        "out": Param((width, width), ("embed", "mlp"), fan_in(width)),
    }


def time_embedding(params: Any, t: jax.Array) -> jax.Array:
    """Returns float32 [B, D] of times [B] from 0 to 1: an MLP of their sines and cosines (Peebles & Xie 2022)."""
    waves = TIME_CHANNELS // 2
    frequencies = 10_000.0 ** (-jnp.arange(waves, dtype=jnp.float32) / waves)
    angles = _TIME_SCALE * t.astype(jnp.float32)[:, None] * frequencies
    channels = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
    return project(jax.nn.silu(project(channels, params["in"])), params["out"])


def declare_flow_head(width: int, outputs: int) -> dict[str, Param]:
    """Declares the last modulation of patches and what they are read by; both start at zero."""
    return {
        "modulation": Param((width, 2, width), ("embed", None, "mlp"), zeros),
        "out": Param((width, outputs), ("embed", None), zeros),
    }


def flow_head(params: Any, patches: jax.Array, condition: jax.Array) -> jax.Array:
    """Returns float32 [B, P, Q] of the normalised `patches` [B, P, D] under `condition` float32 [B, D]."""
    found = project(jax.nn.silu(condition), params["modulation"])[:, :, None]
    x = patches.astype(jnp.float32) * (1.0 + found[:, 1]) + found[:, 0]
    return project(x, params["out"])


def flow_transformer_flops(spec: FlowTransformerSpec, batch_size: int, length: int, *, conditioned: bool) -> float:
    """Forward FLOPs of the stack over `length` = T positions; masked scores are computed too and count."""
    D = spec.width
    weights = 2.0 * (4 * D * D + 3 * D * spec.hidden) * length
    modulation = 2.0 * 12 * D * D if conditioned else 0.0
    return batch_size * spec.layers * (weights + modulation + 4.0 * length * length * D)
