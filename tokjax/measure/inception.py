"""Inception v3 as the Fréchet inception distance uses it, from weights that the user gives.

Architecture: Szegedy et al. 2015 (https://arxiv.org/abs/1512.00567), arrays named as in torchvision; with the 1,008
classes of the first public weights and, unlike torchvision's own, averages that leave padding out and a maximum in the
last block. Nothing else in the library may call a distance FID.

Letters: `B` images, `H` height, `W` width, `C` channels.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from tokjax.core.errors import SpecError
from tokjax.core.spec import check
from tokjax.core.types import Params
from tokjax.measure.features import RESERVED, Features, Preparation
from tokjax.measure.networks import State, convolve

CLASSES = 1008
SIDE = 299  # pixels
_EPSILON = 1e-3  # of batch norm
_IMAGES = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), jnp.float32)

Chain = Callable[..., jax.Array]  # (x, *names, stride=of the last) -> x after these convolutions


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Inception(Features):
    """The extractor that `inception` makes; its distances are called FID and KID."""

    def __post_init__(self):
        check(self.name == RESERVED, "name", self.name, f"it is {RESERVED!r}.")
        _check_weights(self.params)


def inception(state: State, *, prepare: Preparation | None = None) -> Inception:
    """Makes the extractor of FID from its weights: the last pooled layer, D = 2048.

    Args:
      state: arrays by name, as `networks.load_state` reads them from `pt_inception-2015-12-05-6726825d.pth`.
      prepare: what is done to images first; by default, like the reference in PyTorch, they are brought to 299 pixels
        without antialiasing, which aliases images that are larger. Distances with another do not compare.

    Raises:
      SpecError: these are not the weights of this network.
    """
    unused = ("AuxLogits.", "num_batches_tracked")
    params = {
        name: np.asarray(array, np.float32) for name, array in state.items() if not any(part in name for part in unused)
    }
    prepare = Preparation(resize=SIDE, antialias=False) if prepare is None else prepare
    return Inception(name=RESERVED, apply=apply_inception, params=params, prepare=prepare)


def apply_inception(params: Params, images: jax.Array) -> jax.Array:
    """Returns the last pooled layer, float32 [B, 2048], of `images` [B, H, W, 3] in [-1, 1], at least 75 x 75."""

    def chain(x: jax.Array, *names: str, prefix: str = "", stride: int = 1, padding: str | None = None) -> jax.Array:
        padding = padding or ("SAME" if stride == 1 else "VALID")
        for name in names:
            options = (stride, padding) if name == names[-1] else (1, "SAME")
            x = _convolution(params, prefix + name, x, *options)
        return x

    x = chain(images, "Conv2d_1a_3x3", stride=2)
    x = chain(x, "Conv2d_2a_3x3", padding="VALID")
    x = _shrink(chain(x, "Conv2d_2b_3x3"))
    x = _shrink(chain(x, "Conv2d_3b_1x1", "Conv2d_4a_3x3", padding="VALID"))
    for name, block in _BLOCKS:
        x = jnp.concatenate(block(functools.partial(chain, prefix=f"{name}."), x), axis=-1)
    return jnp.mean(x, axis=(1, 2))


def inception_logits(params: Params, features: jax.Array) -> jax.Array:
    """Returns logits [B, 1008] of the pooled layer [B, 2048]; without the bias, as the inception score wants them."""
    return features @ jnp.asarray(params["fc.weight"]).T


def _convolution(params: Params, name: str, x: jax.Array, stride: int, padding: str) -> jax.Array:
    scale, shift, mean, variance = (
        params[f"{name}.bn.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
    )
    x = convolve(x, params[f"{name}.conv.weight"], stride=stride, padding=padding)
    return jax.nn.relu((x - mean) * (scale / jnp.sqrt(variance + _EPSILON)) + shift)


def _shrink(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (3, 3), (2, 2))


def _average(x: jax.Array) -> jax.Array:
    return nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)


def _maximum(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (3, 3), padding="SAME")


def _block_a(chain: Chain, x: jax.Array) -> list[jax.Array]:
    return [
        chain(x, "branch1x1"),
        chain(x, "branch5x5_1", "branch5x5_2"),
        chain(x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
        chain(_average(x), "branch_pool"),
    ]


def _block_b(chain: Chain, x: jax.Array) -> list[jax.Array]:
    return [
        chain(x, "branch3x3", stride=2),
        chain(x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3", stride=2),
        _shrink(x),
    ]


def _block_c(chain: Chain, x: jax.Array) -> list[jax.Array]:
    return [
        chain(x, "branch1x1"),
        chain(x, *(f"branch7x7_{i}" for i in range(1, 4))),
        chain(x, *(f"branch7x7dbl_{i}" for i in range(1, 6))),
        chain(_average(x), "branch_pool"),
    ]


def _block_d(chain: Chain, x: jax.Array) -> list[jax.Array]:
    return [
        chain(x, "branch3x3_1", "branch3x3_2", stride=2),
        chain(x, *(f"branch7x7x3_{i}" for i in range(1, 5)), stride=2),
        _shrink(x),
    ]


def _block_e(chain: Chain, x: jax.Array, pool: Callable[[jax.Array], jax.Array] = _average) -> list[jax.Array]:
    narrow = chain(x, "branch3x3_1")
    wide = chain(x, "branch3x3dbl_1", "branch3x3dbl_2")
    return [
        chain(x, "branch1x1"),
        *(chain(narrow, f"branch3x3_2{part}") for part in "ab"),
        *(chain(wide, f"branch3x3dbl_3{part}") for part in "ab"),
        chain(pool(x), "branch_pool"),
    ]


def _last_block(chain: Chain, x: jax.Array) -> list[jax.Array]:
    return _block_e(chain, x, _maximum)


_BLOCKS = (
    ("Mixed_5b", _block_a), ("Mixed_5c", _block_a), ("Mixed_5d", _block_a), ("Mixed_6a", _block_b),
    ("Mixed_6b", _block_c), ("Mixed_6c", _block_c), ("Mixed_6d", _block_c), ("Mixed_6e", _block_c),
    ("Mixed_7a", _block_d), ("Mixed_7b", _block_e), ("Mixed_7c", _last_block),
)  # fmt: skip


def _check_weights(params: Params) -> None:
    """Raises SpecError unless the network runs on `params` and has the classes of the weights that define FID."""
    problem = None
    try:
        width = jax.eval_shape(apply_inception, params, _IMAGES).shape[-1]
        shape = np.shape(params["fc.weight"])
        if shape != (CLASSES, width):
            problem = (
                f"'fc.weight' has shape {shape}, expected {(CLASSES, width)}; torchvision's own weights are others"
            )
    except KeyError as error:
        problem = f"{error} is absent"
    except (TypeError, ValueError) as error:
        problem = str(error)
    if problem:
        raise SpecError(
            f"inception: not the weights that FID is defined by ({problem}). Give the state dict of "
            "pt_inception-2015-12-05-6726825d.pth, or another network under its own name, as Features(name=...)."
        )
