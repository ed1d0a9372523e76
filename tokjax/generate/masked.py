"""Filling a row of unknown codes in a few steps, the most certain first (Chang et al. 2022, MaskGIT, section 3.2).

Letters: `B` batch, `T` codes, `V` vocabulary, `S` steps.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal, Self, get_args

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from tokjax.core.spec import check

Schedule = Literal["constant", "linear", "power_cosine"]
Predict = Callable[[jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedSamplingSpec:
    """How codes are filled in.

    Attributes:
      steps: S.
      temperature: of the noise on logits and on certainty at the first step; it falls linearly, to 0 at the last.
      guidance: how far predictions are moved away from those without a class.
      schedule: of the guidance over the steps, from 0 to S - 1: `constant`; `linear`, guidance t / S; or
        `power_cosine`. With c and u the logits with a class and without, the first two give c + s (c - u), where s is
        1 less than in the usual u + s (c - u) (Ho & Salimans 2022); the third gives the usual, with s from 1 up to
        the guidance: 1 + (guidance - 1) (1 - cos(pi (t / S)^power)) / 2 (Gao et al. 2023, MDT).
      power: of `power_cosine`.
    """

    steps: int = 8
    temperature: float = 4.5
    guidance: float = 0.0
    schedule: Schedule = "constant"
    power: float = 3.0

    def __post_init__(self):
        check(self.steps >= 1, "steps", self.steps, "must be at least 1.")
        check(self.temperature >= 0, "temperature", self.temperature, "must not be negative.")
        check(self.schedule in get_args(Schedule), "schedule", self.schedule, f"use one of {get_args(Schedule)}.")
        least = 1 if self.schedule == "power_cosine" else 0
        check(self.guidance >= least, "guidance", self.guidance, f"{self.schedule} begins at {least}; give no less.")
        check(self.power > 0, "power", self.power, "must be positive.")

    @property
    def guided(self) -> bool:
        """Whether predictions without a class are needed."""
        return self.guidance > (1 if self.schedule == "power_cosine" else 0)


def masked_share(progress: np.ndarray | jax.Array) -> np.ndarray | jax.Array:
    """Returns the share of codes that is unknown at `progress` from 0 to 1: arccos(progress) / (pi / 2)."""
    backend = np if isinstance(progress, np.ndarray) else jnp
    return backend.arccos(progress) / (math.pi / 2)


def masked_counts(tokens: int, steps: int) -> np.ndarray:
    """Returns how many of `tokens` are unknown after each step, int32 [S]: at least 1 before the last, then 0."""
    shares = np.asarray(masked_share(np.arange(1, steps + 1) / steps))
    counts = np.maximum(np.floor(tokens * shares), 1).astype(np.int32)
    counts[-1] = 0
    return counts


def guidance_weights(spec: MaskedSamplingSpec) -> np.ndarray:
    """Returns the w of each step, float32 [S], in c + w (c - u); see `MaskedSamplingSpec`."""
    t = np.arange(spec.steps) / spec.steps
    if spec.schedule == "power_cosine":
        weights = (spec.guidance - 1) * (1 - np.cos(math.pi * t**spec.power)) / 2
    else:
        weights = spec.guidance * (t if spec.schedule == "linear" else np.ones_like(t))
    return weights.astype(np.float32)


@flax.struct.dataclass
class SamplingPlan:
    """What a `MaskedSamplingSpec` says of each step; plans of as many steps share a program.

    Attributes:
      counts: int32 [S], codes unknown after the step.
      temperatures: float32 [S], of the noise.
      weights: float32 [S], w of the guidance.
      guided: whether predictions without a class are needed. Static.
      tokens: T. Static.
    """

    counts: jax.Array
    temperatures: jax.Array
    weights: jax.Array
    guided: bool = flax.struct.field(pytree_node=False)
    tokens: int = flax.struct.field(pytree_node=False)

    @classmethod
    def of(cls, spec: MaskedSamplingSpec, tokens: int) -> Self:
        """Returns the plan of drawing `tokens` codes."""
        falling = 1 - np.arange(1, spec.steps + 1, dtype=np.float32) / spec.steps
        return cls(
            counts=jnp.asarray(masked_counts(tokens, spec.steps)),
            temperatures=jnp.asarray(spec.temperature * falling),
            weights=jnp.asarray(guidance_weights(spec)),
            guided=spec.guided,
            tokens=tokens,
        )


def fill(predict: Predict, labels: jax.Array, key: jax.Array, plan: SamplingPlan, *, unknown: int) -> jax.Array:
    """Draws codes from nothing, in S steps.

    Each step draws every unknown code, and takes back the least certain: those of the smallest logit, noise added. A
    code that was not taken back never changes. The last step has no noise; where it is the only one, images of a class
    are all the same.

    Args:
      predict: (codes int32 [N, T], labels int32 [N]) -> float32 logits [N, T, V]; N is B, or 2 B where predictions
        without a class are needed.
      labels: int32 [B], index of the class; -1 for none.
      key: of the noise.
      plan: of the steps.
      unknown: the id that stands for a code not known yet; none of V.

    Returns:
      int32 [S, B, T], the codes after each step; nothing is unknown after the last.
    """
    B = len(labels)

    def guided(codes: jax.Array, weight: jax.Array) -> jax.Array:
        if not plan.guided:
            return predict(codes, labels)
        both = predict(jnp.concatenate([codes, codes]), jnp.concatenate([labels, jnp.full_like(labels, -1)]))
        return both[:B] + weight * (both[:B] - both[B:])

    def step(codes: jax.Array, inputs: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        count, temperature, weight, key = inputs
        of_code, of_certainty = jax.random.split(key)
        logits = guided(codes, weight)
        drawn = jnp.argmax(logits + temperature * jax.random.gumbel(of_code, logits.shape), axis=-1).astype(jnp.int32)
        certainty = jnp.take_along_axis(logits, drawn[..., None], axis=-1)[..., 0]
        certainty = certainty + temperature * jax.random.gumbel(of_certainty, certainty.shape)
        is_unknown = codes == unknown
        rank = jnp.argsort(jnp.argsort(jnp.where(is_unknown, certainty, jnp.inf), axis=-1), axis=-1)
        codes = jnp.where(rank < count, unknown, jnp.where(is_unknown, drawn, codes))
        return codes, codes

    start = jnp.full((B, plan.tokens), unknown, jnp.int32)
    keys = jax.random.split(key, len(plan.counts))
    return jax.lax.scan(step, start, (plan.counts, plan.temperatures, plan.weights, keys))[1]
