"""How far an image is from its reconstruction: by pixels, by features, and by a discriminator that learns beside it.

A discriminator is trained against the decoder in the same step and by the same optimizer: the loss is the sum of both
sides', each with the other's parameters held constant.

Letters: `B` batch, `S` size of an image, `C` channels.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tokjax.core.spec import check
from tokjax.core.types import Aux, Params
from tokjax.measure import perceptual
from tokjax.measure.networks import convolve, load_state
from tokjax.nn.discriminator import declare_discriminator, discriminate

_FILTERS = (32, 64, 64)  # of the random features, by level


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReconstructionSpec:
    """Weights of the terms, and what they look at.

    Attributes:
      squared: of the squared difference of pixels, mean over pixels and channels.
      absolute: of the absolute difference.
      perceptual: of the distance of features.
      features: `random`, fixed random filters at three resolutions; or `vgg16` or `alexnet` for LPIPS.
      weights: files of the network and of LPIPS's heads, as `measure.networks.load_state` reads them.
      adversarial: of the discriminator's opinion of reconstructions.
      adversarial_from: step at which the discriminator starts.
      lecam: of the distance of its logits from their averages (Tseng et al. 2021, eq. 8).
      lecam_decay: of these averages.
      discriminator_width: channels of its first convolution.
      discriminator_levels: convolutions that halve the resolution.
    """

    squared: float = 1.0
    absolute: float = 0.0
    perceptual: float = 0.0
    features: str = "random"
    weights: tuple[str, ...] = ()
    adversarial: float = 0.0
    adversarial_from: int = 0
    lecam: float = 0.001
    lecam_decay: float = 0.999
    discriminator_width: int = 64
    discriminator_levels: int = 3

    def __post_init__(self):
        for field in ("squared", "absolute", "perceptual", "adversarial", "lecam"):
            check(getattr(self, field) >= 0, field, getattr(self, field), "must not be negative.")
        check(self.adversarial_from >= 0, "adversarial_from", self.adversarial_from, "is a step, from 0.")
        check(0 <= self.lecam_decay < 1, "lecam_decay", self.lecam_decay, "use a number from 0 to below 1.")
        for field in ("discriminator_width", "discriminator_levels"):
            check(getattr(self, field) >= 1, field, getattr(self, field), "must be at least 1.")
        known = ("random", "vgg16", "alexnet")
        check(self.features in known, "features", self.features, f"use one of {', '.join(known)}.")
        fix = "give the files of the network and of its LPIPS heads."
        needed = self.features != "random" and self.perceptual > 0
        check(not needed or len(self.weights) == 2, "weights", self.weights, fix)


def declare_adversary(spec: ReconstructionSpec, channels: int) -> Any:
    """Declares the discriminator; nothing where it has no weight."""
    if not spec.adversarial:
        return {}
    return declare_discriminator(spec.discriminator_width, spec.discriminator_levels, channels)


def init_adversary(spec: ReconstructionSpec) -> Params:
    """Returns the averages of logits that a run starts with."""
    return {"real": jnp.zeros(()), "fake": jnp.zeros(())} if spec.adversarial else {}


def reconstruction_loss(
    spec: ReconstructionSpec,
    params: Params,
    state: Params,
    reconstruction: jax.Array,
    pixels: jax.Array,
    mask: jax.Array,
    step: jax.Array,
) -> tuple[jax.Array, tuple[Params, Aux]]:
    """Scores reconstructions.

    Args:
      spec: weights of the terms.
      params: of the discriminator.
      state: averages of its logits.
      reconstruction: [B, S, S, C].
      pixels: [B, S, S, C], from -1 to 1.
      mask: float32 [B], images that count.
      step: int32 scalar, updates made before this one.

    Returns:
      (scalar, (new state, metrics per image)).
    """
    weight = mask / jnp.maximum(jnp.sum(mask), 1.0)
    count = jnp.sum(mask)
    difference = reconstruction.astype(jnp.float32) - pixels
    squared = weight @ jnp.mean(jnp.square(difference), axis=(1, 2, 3))
    absolute = weight @ jnp.mean(jnp.abs(difference), axis=(1, 2, 3))
    loss = spec.squared * squared + spec.absolute * absolute
    aux: Aux = {"squared_error": (squared * count, count)}
    if spec.perceptual:
        distance = weight @ feature_distance(spec, reconstruction, pixels)
        loss = loss + spec.perceptual * distance
        aux["perceptual"] = (distance * count, count)
    if spec.adversarial:
        duel, state, found = _duel(spec, params, state, reconstruction, pixels, weight, step)
        loss = loss + duel
        aux |= {name: (value * count, count) for name, value in found.items()}
    return loss, (state, aux)


def _duel(
    spec: ReconstructionSpec,
    params: Params,
    state: Params,
    reconstruction: jax.Array,
    pixels: jax.Array,
    weight: jax.Array,
    step: jax.Array,
) -> tuple[jax.Array, Params, dict[str, jax.Array]]:
    """Returns the losses of both sides, with the hinge of Lim & Ye 2017 and LeCam's regulariser."""
    opinion = weight @ -jnp.mean(discriminate(jax.lax.stop_gradient(params), reconstruction), axis=(1, 2))
    real = discriminate(params, pixels)
    fake = discriminate(params, jax.lax.stop_gradient(reconstruction))
    hinge = weight @ jnp.mean(jax.nn.relu(1.0 - real) + jax.nn.relu(1.0 + fake), axis=(1, 2)) / 2
    mean_real, mean_fake = (weight @ jnp.mean(logits, axis=(1, 2)) for logits in (real, fake))
    lecam = weight @ jnp.mean(
        jnp.square(jax.nn.relu(real - state["fake"])) + jnp.square(jax.nn.relu(state["real"] - fake)), axis=(1, 2)
    )
    started = step >= spec.adversarial_from
    new = {
        "real": spec.lecam_decay * state["real"] + (1 - spec.lecam_decay) * mean_real,
        "fake": spec.lecam_decay * state["fake"] + (1 - spec.lecam_decay) * mean_fake,
    }
    state = jax.lax.stop_gradient(jax.tree.map(lambda a, b: jnp.where(started, a, b), new, state))
    loss = jnp.where(started, spec.adversarial * opinion + hinge + spec.lecam * lecam, 0.0)
    found = jax.lax.stop_gradient({"real_logit": mean_real, "fake_logit": mean_fake})
    return loss, state, found


def feature_distance(spec: ReconstructionSpec, x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns the distance of the features of images [B, S, S, C], float32 [B]; LPIPS where its weights are given."""
    if spec.features == "random":
        seen, other = (_random_features(images) for images in (x, y))
        return perceptual.feature_distance(seen, other, [jnp.full(width, 1 / width) for width in _FILTERS])
    return perceptual.lpips(spec.features, _lpips_weights(spec.features, spec.weights), x, y)  # type: ignore[arg-type]


@functools.cache
def _lpips_weights(backbone: Any, files: tuple[str, ...]) -> Params:
    return perceptual.lpips_params(backbone, *map(load_state, files))


@functools.cache
def _filters(channels: int) -> list[np.ndarray]:
    generator, found, before = np.random.default_rng(0), [], channels
    for width in _FILTERS:
        drawn = generator.standard_normal((width, before, 3, 3)) * np.sqrt(2.0 / (9 * before))
        found.append(drawn.astype(np.float32))
        before = width
    return found


def _random_features(images: jax.Array) -> list[jax.Array]:
    """Returns the responses of random filters at three resolutions: their layers weigh structure, not identity."""
    x, found = images.astype(jnp.float32), []
    for level, weight in enumerate(_filters(images.shape[-1])):
        if level:
            x = jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "SAME") / 4.0
        x = jax.nn.leaky_relu(convolve(x, jnp.asarray(weight), padding="SAME"), 0.2)
        found.append(x)
    return found
