"""Convolutional encoder and decoder of images, as pure functions over declared parameters.

Letters: `B` batch, `H`, `W` rows and columns, `C` channels, `D` width.
"""

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp

from tokjax.core.spec import check
from tokjax.nn.layers import ROWS
from tokjax.nn.param import Param, fan_in, ones, zeros
from tokjax.sharding import constrain

_GROUPS = 32  # of a group norm, at most
LAYOUTS = ("plain", "maskgit")


def _axis(name: str, channels: int) -> str | None:
    """Returns `name`, or None for channels that devices cannot split, as those of pixels."""
    return name if channels % ROWS == 0 else None


def declare_conv(inputs: int, outputs: int, size: int = 3, gain: float = 1.0, bias: bool = True) -> dict[str, Param]:
    """Declares a `size` x `size` convolution."""
    kernel, out = (size, size, inputs, outputs), _axis("mlp", outputs)
    axes = (None, None, _axis("embed", inputs), out)
    tree = {"kernel": Param(kernel, axes, fan_in(round(size * size * inputs / gain**2)))}
    return tree | {"bias": Param((outputs,), (out,), zeros, decay=False)} if bias else tree


def conv(params: Any, x: jax.Array, stride: int = 1) -> jax.Array:
    """Convolves `x` [B, H, W, C]; the result has H / stride rows, edges padded with zeros."""
    kernel = params["kernel"].astype(x.dtype)
    # Left to itself, XLA gets the gradient wrong where devices split rows as well as channels that come in.
    x = constrain(x, "batch", None, None, None)
    out = jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return out + params["bias"].astype(x.dtype) if "bias" in params else out


def declare_group_norm(width: int) -> dict[str, Param]:
    """Declares scale and bias of a group norm."""
    return {
        "scale": Param((width,), (_axis("mlp", width),), ones, decay=False),
        "bias": Param((width,), (_axis("mlp", width),), zeros, decay=False),
    }


def group_norm(params: Any, x: jax.Array, epsilon: float = 1e-6) -> jax.Array:
    """Normalises `x` [B, H, W, C] over positions and channels of up to 32 groups, in float32 (Wu & He 2018)."""
    C = x.shape[-1]
    grouped = x.astype(jnp.float32).reshape(*x.shape[:-1], math.gcd(C, _GROUPS), -1)
    mean = jnp.mean(grouped, axis=(1, 2, 4), keepdims=True)
    variance = jnp.mean(jnp.square(grouped - mean), axis=(1, 2, 4), keepdims=True)
    normed = ((grouped - mean) * jax.lax.rsqrt(variance + epsilon)).reshape(x.shape)
    return (normed * params["scale"] + params["bias"]).astype(x.dtype)


def declare_residual(inputs: int, outputs: int) -> dict[str, Any]:
    """Declares a block of two convolutions beside a shortcut."""
    tree = {
        "norm1": declare_group_norm(inputs),
        "conv1": declare_conv(inputs, outputs),
        "norm2": declare_group_norm(outputs),
        "conv2": declare_conv(outputs, outputs, gain=0.5),
    }
    return tree if inputs == outputs else tree | {"shortcut": declare_conv(inputs, outputs, size=1)}


def residual(params: Any, x: jax.Array) -> jax.Array:
    """Adds two normalised convolutions of `x` to it."""
    y = conv(params["conv1"], jax.nn.silu(group_norm(params["norm1"], x)))
    y = conv(params["conv2"], jax.nn.silu(group_norm(params["norm2"], y)))
    return (conv(params["shortcut"], x) if "shortcut" in params else x) + y


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvSpec:
    """Shape of a convolutional encoder and of the decoder that mirrors it.

    Attributes:
      widths: channels at each resolution, from the image's on; each but the first halves rows and columns.
      blocks: residual blocks at each resolution.
      layout: `plain`; or `maskgit`, what the VQGAN of MaskGIT (Chang et al. 2022, appendix B) is made of: see there.
    """

    widths: tuple[int, ...]
    blocks: int = 2
    layout: Literal["plain", "maskgit"] = "plain"

    def __post_init__(self):
        fix = "give at least one width, each 1 or more."
        check(len(self.widths) > 0 and min(self.widths) >= 1, "widths", self.widths, fix)
        check(self.blocks >= 1, "blocks", self.blocks, "must be at least 1.")
        check(self.layout in LAYOUTS, "layout", self.layout, f"use one of {', '.join(LAYOUTS)}.")

    @property
    def factor(self) -> int:
        """Rows of the image for each row of the grid."""
        return 2 ** (len(self.widths) - 1)


def declare_encoder(spec: ConvSpec, channels: int, outputs: int) -> dict[str, Any]:
    """Declares the way from an image to a grid of `outputs` channels."""
    if spec.layout == "maskgit":
        return _declare_maskgit_encoder(spec, channels, outputs)
    tree: dict[str, Any] = {"in": declare_conv(channels, spec.widths[0])}
    before = spec.widths[0]
    for level, width in enumerate(spec.widths):
        if level:
            tree[f"down{level}"] = declare_conv(before, width)
        for block in range(spec.blocks):
            tree[f"block{level}_{block}"] = declare_residual(width, width)
        before = width
    return tree | {"norm": declare_group_norm(before), "out": declare_conv(before, outputs, size=1)}


def encode(spec: ConvSpec, params: Any, pixels: jax.Array) -> jax.Array:
    """Returns the grid [B, H / factor, W / factor, outputs] of `pixels` [B, H, W, C]."""
    if spec.layout == "maskgit":
        return _maskgit_encode(spec, params, pixels)
    x = conv(params["in"], pixels)
    for level in range(len(spec.widths)):
        if level:
            x = conv(params[f"down{level}"], x, stride=2)
        for block in range(spec.blocks):
            x = residual(params[f"block{level}_{block}"], x)
    return conv(params["out"], jax.nn.silu(group_norm(params["norm"], x)))


def declare_decoder(spec: ConvSpec, inputs: int, channels: int) -> dict[str, Any]:
    """Declares the way back from a grid of `inputs` channels to an image."""
    if spec.layout == "maskgit":
        return _declare_maskgit_decoder(spec, inputs, channels)
    before = spec.widths[-1]
    tree: dict[str, Any] = {"in": declare_conv(inputs, before)}
    for level in reversed(range(len(spec.widths))):
        for block in range(spec.blocks):
            tree[f"block{level}_{block}"] = declare_residual(spec.widths[level], spec.widths[level])
        if level:
            tree[f"up{level}"] = declare_conv(spec.widths[level], spec.widths[level - 1])
    first = spec.widths[0]
    return tree | {"norm": declare_group_norm(first), "out": declare_conv(first, channels)}


def decode(spec: ConvSpec, params: Any, grid: jax.Array) -> jax.Array:
    """Returns the image [B, H * factor, W * factor, C] of `grid` [B, H, W, inputs]."""
    if spec.layout == "maskgit":
        return _maskgit_decode(spec, params, grid)
    x = conv(params["in"], grid)
    for level in reversed(range(len(spec.widths))):
        for block in range(spec.blocks):
            x = residual(params[f"block{level}_{block}"], x)
        if level:
            x = conv(params[f"up{level}"], jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2))
    return conv(params["out"], jax.nn.silu(group_norm(params["norm"], x)))


def conv_flops(spec: ConvSpec, size: int, channels: int, ends: int) -> float:
    """Forward FLOPs per image of `encode` and `decode` together: multiply and add are two, padding included.

    Args:
      spec: their shape.
      size: rows and columns of the image.
      channels: C.
      ends: channels of the grid.
    """
    return encoder_flops(spec, size, channels, ends) + decoder_flops(spec, size, channels, ends)


def encoder_flops(spec: ConvSpec, size: int, channels: int, ends: int) -> float:
    """Forward FLOPs per image of `encode`; arguments as of `conv_flops`."""
    areas, maskgit = _areas(spec, size), spec.layout == "maskgit"
    total, before = 9 * areas[0] * spec.widths[0] * channels + areas[-1] * spec.widths[-1] * ends, spec.widths[0]
    for level, (width, area) in enumerate(zip(spec.widths, areas, strict=True)):
        if maskgit:
            total += _maskgit_blocks(spec, area, before, width)
        else:
            total += 9 * area * width * (before * (level > 0) + 2 * spec.blocks * width)
        before = width
    return 2.0 * (total + maskgit * _maskgit_blocks(spec, areas[-1], before, before))


def decoder_flops(spec: ConvSpec, size: int, channels: int, ends: int) -> float:
    """Forward FLOPs per image of `decode`; arguments as of `conv_flops`."""
    areas, maskgit, before = _areas(spec, size), spec.layout == "maskgit", spec.widths[-1]
    total = 9 * (areas[0] * spec.widths[0] * channels + areas[-1] * before * ends)
    total += maskgit * _maskgit_blocks(spec, areas[-1], before, before)
    for level in reversed(range(len(spec.widths))):
        width, area = spec.widths[level], areas[level]
        total += _maskgit_blocks(spec, area, before, width) if maskgit else 9 * area * 2 * spec.blocks * width**2
        if level:
            total += 9 * areas[level - 1] * width * (width if maskgit else spec.widths[level - 1])
        before = width
    return 2.0 * total


def _areas(spec: ConvSpec, size: int) -> list[int]:
    """Returns the pixels of each resolution."""
    return [(size // 2**level) ** 2 for level in range(len(spec.widths))]


def _maskgit_blocks(spec: ConvSpec, area: int, before: int, width: int) -> int:
    """Returns the products of the blocks of a resolution, the first of which reads `before` channels."""
    return area * width * (9 * (before + (2 * spec.blocks - 1) * width) + width * (before != width))


# What MaskGIT's VQGAN does otherwise: the first block of a resolution changes the channels, not the convolution
# between resolutions; encoders average pixels where they halve rows; more blocks stand at the coarsest resolution;
# convolutions of blocks have no bias; images are from 0 to 1.


def _declare_maskgit_block(inputs: int, outputs: int) -> dict[str, Any]:
    tree = {
        "norm1": declare_group_norm(inputs),
        "conv1": declare_conv(inputs, outputs, bias=False),
        "norm2": declare_group_norm(outputs),
        "conv2": declare_conv(outputs, outputs, gain=0.5, bias=False),
    }
    return tree if inputs == outputs else tree | {"shortcut": declare_conv(outputs, outputs, size=1, bias=False)}


def _maskgit_block(params: Any, x: jax.Array) -> jax.Array:
    """`residual`, but where channels change the shortcut is one of the block's own output, not of its input.

    So it is in the published model, whose weights have been trained that way.
    """
    y = conv(params["conv1"], jax.nn.silu(group_norm(params["norm1"], x)))
    y = conv(params["conv2"], jax.nn.silu(group_norm(params["norm2"], y)))
    return (conv(params["shortcut"], y) if "shortcut" in params else x) + y


def _declare_maskgit_encoder(spec: ConvSpec, channels: int, outputs: int) -> dict[str, Any]:
    before = spec.widths[0]
    tree: dict[str, Any] = {"in": declare_conv(channels, before, bias=False)}
    for level, width in enumerate(spec.widths):
        for block in range(spec.blocks):
            tree[f"block{level}_{block}"] = _declare_maskgit_block(before, width)
            before = width
    tree |= {f"middle{block}": _declare_maskgit_block(before, before) for block in range(spec.blocks)}
    return tree | {"norm": declare_group_norm(before), "out": declare_conv(before, outputs, size=1)}


def _maskgit_encode(spec: ConvSpec, params: Any, pixels: jax.Array) -> jax.Array:
    x = conv(params["in"], 0.5 * (pixels + 1.0))
    for level in range(len(spec.widths)):
        if level:
            B, H, W, C = x.shape
            x = jnp.mean(x.reshape(B, H // 2, 2, W // 2, 2, C), axis=(2, 4))
        for block in range(spec.blocks):
            x = _maskgit_block(params[f"block{level}_{block}"], x)
    for block in range(spec.blocks):
        x = _maskgit_block(params[f"middle{block}"], x)
    return conv(params["out"], jax.nn.silu(group_norm(params["norm"], x)))


def _declare_maskgit_decoder(spec: ConvSpec, inputs: int, channels: int) -> dict[str, Any]:
    before = spec.widths[-1]
    tree: dict[str, Any] = {"in": declare_conv(inputs, before)}
    tree |= {f"middle{block}": _declare_maskgit_block(before, before) for block in range(spec.blocks)}
    for level in reversed(range(len(spec.widths))):
        for block in range(spec.blocks):
            tree[f"block{level}_{block}"] = _declare_maskgit_block(before, spec.widths[level])
            before = spec.widths[level]
        if level:
            tree[f"up{level}"] = declare_conv(before, before)
    return tree | {"norm": declare_group_norm(before), "out": declare_conv(before, channels)}


def _maskgit_decode(spec: ConvSpec, params: Any, grid: jax.Array) -> jax.Array:
    x = conv(params["in"], grid)
    for block in range(spec.blocks):
        x = _maskgit_block(params[f"middle{block}"], x)
    for level in reversed(range(len(spec.widths))):
        for block in range(spec.blocks):
            x = _maskgit_block(params[f"block{level}_{block}"], x)
        if level:
            x = conv(params[f"up{level}"], jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2))
    return 2.0 * conv(params["out"], jax.nn.silu(group_norm(params["norm"], x))) - 1.0
