"""Sampling from logits, with noise keyed by absolute position: any decoder that visits a position draws alike.

Letters: `B` batch, `V` vocabulary.
"""

import dataclasses

import jax
import jax.numpy as jnp

from tokjax.core.spec import check


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingSpec:
    """How the next id is chosen.

    Attributes:
      temperature: logits are divided by it; 0 takes the most likely id.
      top_k: keep the k most likely ids; None keeps all.
      top_p: keep the smallest set of most likely ids whose probability reaches p (Holtzman et al. 2020).
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self):
        check(self.temperature >= 0, "temperature", self.temperature, "must be 0 (greedy) or more.")
        check(self.top_k is None or self.top_k >= 1, "top_k", self.top_k, "must be at least 1.")
        check(self.top_p is None or 0 < self.top_p <= 1, "top_p", self.top_p, "must be in (0, 1].")


def restrict(spec: SamplingSpec, logits: jax.Array) -> jax.Array:
    """Returns `logits` [..., V] with every id outside top-k or top-p at -inf. The most likely id always stays."""
    if spec.top_k is not None and spec.top_k < logits.shape[-1]:
        kth = jax.lax.top_k(logits, spec.top_k)[0][..., -1:]
        logits = jnp.where(logits >= kth, logits, -jnp.inf)
    if spec.top_p is not None and spec.top_p < 1:
        ordered = jnp.sort(logits, axis=-1, descending=True)
        mass_before = jnp.cumsum(jax.nn.softmax(ordered, axis=-1), axis=-1) - jax.nn.softmax(ordered, axis=-1)
        smallest = jnp.min(jnp.where(mass_before < spec.top_p, ordered, jnp.inf), axis=-1, keepdims=True)
        logits = jnp.where(logits >= smallest, logits, -jnp.inf)
    return logits


def choose(spec: SamplingSpec, logits: jax.Array, key: jax.Array, position: jax.Array) -> jax.Array:
    """Returns the id at `position` of every row, int32 [B], from float32 logits [B, V] (the Gumbel-max trick)."""
    if spec.temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    noise = jax.random.gumbel(jax.random.fold_in(key, position), logits.shape)
    return jnp.argmax(restrict(spec, logits / spec.temperature) + noise, axis=-1).astype(jnp.int32)
