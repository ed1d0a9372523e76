"""A discriminator of patches: logits of which are real, one per patch of an image (Isola et al. 2017, section 3.2)."""

from typing import Any

import jax

from tokjax.nn.conv import conv, declare_conv, declare_group_norm, group_norm

_SLOPE = 0.2  # of the rectifiers below 0


def declare_discriminator(width: int, levels: int, channels: int) -> dict[str, Any]:
    """Declares `levels` convolutions that halve rows and double channels from `width` on, and the one that scores."""
    tree: dict[str, Any] = {"in": declare_conv(channels, width, size=4)}
    for level in range(1, levels):
        tree[f"conv{level}"] = declare_conv(width * 2 ** (level - 1), width * 2**level, size=4)
        tree[f"norm{level}"] = declare_group_norm(width * 2**level)
    return tree | {"out": declare_conv(width * 2 ** (levels - 1), 1, size=4)}


def discriminate(params: Any, pixels: jax.Array) -> jax.Array:
    """Returns logits [B, h, w] of patches of `pixels` [B, H, W, C]; above 0 where they look real.

    Norms are over groups of channels, where the paper's are over the batch: an image is judged alone.
    """
    x = jax.nn.leaky_relu(conv(params["in"], pixels, stride=2), _SLOPE)
    level = 1
    while f"conv{level}" in params:
        x = group_norm(params[f"norm{level}"], conv(params[f"conv{level}"], x, stride=2))
        x, level = jax.nn.leaky_relu(x, _SLOPE), level + 1
    return conv(params["out"], x)[..., 0]
