"""A trained convolutional autoencoder that another model works on the latents of; it is not trained further.

Letters: `B` batch, `S` size of an image, `C` channels, `R` rows of the latents, `L` channels of a latent.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tokjax.core.spec import check
from tokjax.measure.networks import load_state
from tokjax.nn import conv
from tokjax.nn.param import Param


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoencoderSpec:
    """Shape and weights of a frozen autoencoder.

    Attributes:
      body: shape of encoder and decoder, as of `nn.conv`.
      channels: L.
      weights: `.npz` file of the arrays, by names such as 'encoder/in/kernel'; empty declares them, for counting, and
        refuses to encode.
      scale: latents are multiplied by it, so that their variance is about 1.
    """

    body: conv.ConvSpec
    channels: int
    weights: str = ""
    scale: float = 1.0

    def __post_init__(self):
        check(self.channels >= 1, "latent.channels", self.channels, "must be at least 1.")
        check(self.scale > 0, "latent.scale", self.scale, "must be positive.")

    def declare(self, channels: int) -> Any:
        """Declares the arrays, read from the file, for images of C = `channels`. Weight decay leaves them alone.

        Raises:
          CheckpointError: when drawn, if the file is absent or damaged.
          SpecError: when drawn, if it lacks an array or holds one of another shape.
        """
        tree = {
            "encoder": conv.declare_encoder(self.body, channels, self.channels),
            "decoder": conv.declare_decoder(self.body, self.channels, channels),
        }
        return jax.tree_util.tree_map_with_path(self._frozen, tree, is_leaf=lambda x: isinstance(x, Param))

    def _frozen(self, path: Any, param: Param) -> Param:
        name = jax.tree_util.keystr(path, simple=True, separator="/")

        def read(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
            del key
            if not self.weights:
                return jnp.zeros(shape, jnp.float32)
            found = _load(self.weights).get(name, np.zeros(0))
            fix = f"{name!r} is missing or of another shape than {shape}; give the weights of this body."
            check(found.shape == shape, "latent.weights", self.weights, fix)
            return jnp.asarray(found, jnp.float32)

        return dataclasses.replace(param, init=read, decay=False)

    def encode(self, params: Any, pixels: jax.Array) -> jax.Array:
        """Returns the latents [B, R, R, L] of `pixels` [B, S, S, C]; no gradient passes.

        Raises:
          SpecError: there are no weights.
        """
        self._require()
        return jax.lax.stop_gradient(conv.encode(self.body, params["encoder"], pixels) * self.scale)

    def decode(self, params: Any, latents: jax.Array) -> jax.Array:
        """Returns the images of `latents`, as of `encode`; gradients reach the latents alone.

        Raises:
          SpecError: there are no weights.
        """
        self._require()
        return conv.decode(self.body, jax.lax.stop_gradient(params["decoder"]), latents / self.scale)

    def _require(self) -> None:
        check(bool(self.weights), "latent.weights", self.weights, "give the .npz file of a trained autoencoder.")


@functools.lru_cache(maxsize=2)
def _load(path: str) -> Mapping[str, np.ndarray]:
    return load_state(path)
