"""LPIPS: how different two images look to a network, from weights that the user gives.

Source: Zhang et al. 2018 (https://arxiv.org/abs/1801.03924), eq. 1, as of version 0.1 of its weights. Pure and
differentiable, so that it serves as a loss too.

Letters: `B` images, `H` height, `W` width, `C` channels.
"""

import itertools
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from tokjax.core.errors import SpecError
from tokjax.core.types import Params
from tokjax.measure.networks import State, convolve, take

Backbone = Literal["vgg16", "alexnet"]
_SHIFT = (-0.030, -0.088, -0.188)  # of images in [-1, 1], red, green, blue
_SCALE = (0.458, 0.448, 0.450)
_EPSILON = 1e-10
# Numbers of the convolutions in torchvision's `features`; LPIPS looks at the last of each group.
_VGG16 = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
_ALEXNET = ((0,), (3,), (6,), (8,), (10,))
_LAYERS = {"vgg16": _VGG16, "alexnet": _ALEXNET}
_SMALLEST = {"vgg16": 16, "alexnet": 31}  # sides that leave one pixel in the last layer


def lpips_params(backbone: Backbone, network: State, heads: State) -> Params:
    """Returns the parameters of `lpips` from two state dicts, as `networks.load_state` reads them.

    Args:
      backbone: which network.
      network: torchvision's state dict of it, `features.0.weight` and so on.
      heads: the linear heads of the `lpips` package, `lin0.model.1.weight` and so on (its `weights/v0.1/vgg.pth` and
        `alex.pth`).

    Raises:
      SpecError: an unknown backbone, absent arrays, or heads of another backbone.
    """
    if backbone not in _LAYERS:
        raise SpecError(f"backbone: got {backbone!r}; give one of {', '.join(_LAYERS)}.")
    layers = _LAYERS[backbone]
    names = [f"features.{n}.{part}" for n in itertools.chain(*layers) for part in ("weight", "bias")]
    params = {"network": take(network, names, backbone)}
    found = take(heads, [f"lin{i}.model.1.weight" for i in range(len(layers))], "lpips heads")
    params["heads"] = {name: weight.reshape(-1) for name, weight in found.items()}
    for taps, (name, head) in zip(layers, params["heads"].items(), strict=True):
        width = len(params["network"][f"features.{taps[-1]}.bias"])
        if len(head) != width:
            raise SpecError(
                f"{name}: has {len(head)} weights, but {backbone} has {width} channels there. Give its own heads."
            )
    return params


def lpips(backbone: Backbone, params: Params, x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns LPIPS of pairs of images, float32 [B]; 0 for equal ones.

    Args:
      backbone: which network `params` are of.
      params: as of `lpips_params`.
      x, y: float [B, H, W, 3] in [-1, 1].

    Raises:
      SpecError: images of which the last layer would leave nothing.
    """
    least = _SMALLEST[backbone]
    if min(x.shape[1:3]) < least:
        raise SpecError(f"images: {x.shape[1]} x {x.shape[2]} pixels are too few; {backbone} needs {least} a side.")
    heads = list(params["heads"].values())
    seen, other = (backbone_features(backbone, params["network"], images) for images in (x, y))
    return feature_distance(seen, other, heads)


def feature_distance(x: Sequence[jax.Array], y: Sequence[jax.Array], heads: Sequence[jax.Array]) -> jax.Array:
    """The formula of LPIPS: squared differences of unit features, weighted by channel, averaged, summed over layers.

    Args:
      x, y: features of each layer [B, H, W, C], of any network.
      heads: weights of the channels of each layer [C], not negative.

    Returns:
      float32 [B].
    """
    total = jnp.zeros(len(x[0]), jnp.float32)
    for a, b, head in zip(x, y, heads, strict=True):
        total += jnp.mean(jnp.square(_unit(a) - _unit(b)) @ jnp.asarray(head, jnp.float32), axis=(1, 2))
    return total


def backbone_features(backbone: Backbone, network: Params, images: jax.Array) -> list[jax.Array]:
    """Returns the five layers that LPIPS looks at [B, H, W, C], of `images` [B, H, W, 3] in [-1, 1]."""
    x = (images.astype(jnp.float32) - jnp.asarray(_SHIFT)) / jnp.asarray(_SCALE)
    found = []
    for layer, taps in enumerate(_LAYERS[backbone]):
        if backbone == "vgg16":
            x = nn.max_pool(x, (2, 2), (2, 2)) if layer else x
            options = {"padding": 1}
        else:
            x = nn.max_pool(x, (3, 3), (2, 2)) if layer in (1, 2) else x
            options = {"stride": 4, "padding": 2} if layer == 0 else {"padding": 2 if layer == 1 else 1}
        for number in taps:
            x = convolve(x, network[f"features.{number}.weight"], **options)  # type: ignore[arg-type]
            x = jax.nn.relu(x + network[f"features.{number}.bias"])
        found.append(x)
    return found


def _unit(x: jax.Array) -> jax.Array:
    """Divides by the norm over channels, with a gradient of 0 where all are 0, as behind a ReLU they often are."""
    x = x.astype(jnp.float32)
    squares = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    some = squares > 0
    return x / (jnp.where(some, jnp.sqrt(jnp.where(some, squares, 1.0)), 0.0) + _EPSILON)
