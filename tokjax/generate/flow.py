"""From noise to data along the velocity of a flow, and the guidance that turns it towards its condition.

Letters: `B` batch.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from tokjax.core.spec import check

Velocity = Callable[[jax.Array, jax.Array, Any], tuple[jax.Array, Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GuidanceSpec:
    """How far a velocity moves away from that without a condition.

    Attributes:
      scale: s; 1 is the velocity under the condition.
      kind: `cfg`, classifier-free guidance (Ho & Salimans 2022), or `apg`, adaptive projected guidance (Sadat et al.
        2024), where the other fields apply.
      momentum: of the difference of both velocities, over steps; below 0, it is told apart from the last.
      threshold: longest difference of an image, L2; longer ones are shortened.
      eta: what is kept of the part of the difference along the velocity, which saturates images.
    """

    scale: float = 1.0
    kind: Literal["cfg", "apg"] = "apg"
    momentum: float = -0.5
    threshold: float = 2.5
    eta: float = 0.0

    def __post_init__(self):
        check(self.kind in ("cfg", "apg"), "kind", self.kind, "use 'cfg' or 'apg'.")
        check(self.scale >= 0, "scale", self.scale, "must not be negative; 1 is no guidance.")
        check(-1 < self.momentum < 1, "momentum", self.momentum, "use a number between -1 and 1.")
        check(self.threshold > 0, "threshold", self.threshold, "must be positive.")


def guide(
    spec: GuidanceSpec, conditional: jax.Array, unconditional: jax.Array, memory: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns (velocity under guidance, what the next step remembers).

    Args:
      spec: kind and strength.
      conditional: velocity under the condition, [B, ...].
      unconditional: velocity without one, [B, ...].
      memory: [B, ...], as returned by the last step; zeros at first. `cfg` does not read it.
    """
    difference = conditional - unconditional
    if spec.kind == "cfg":
        return conditional + (spec.scale - 1.0) * difference, memory
    memory = difference + spec.momentum * memory
    difference = memory * jnp.minimum(1.0, spec.threshold / jnp.sqrt(jnp.maximum(_inner(memory, memory), _TINY)))
    along = _inner(difference, conditional) / jnp.maximum(_inner(conditional, conditional), _TINY) * conditional
    return conditional + (spec.scale - 1.0) * (difference - (1.0 - spec.eta) * along), memory


_TINY = 1e-20  # instead of the square of a length of 0


def _inner(x: jax.Array, y: jax.Array) -> jax.Array:
    """Inner product of each row of [B, ...], with dimensions of 1 in place of the others."""
    return jnp.sum(x * y, axis=tuple(range(1, x.ndim)), keepdims=True)


def euler(velocity: Velocity, noise: jax.Array, *, steps: int, memory: Any = None) -> jax.Array:
    """Returns where a flow leads from `noise`, in equal steps from time 1 to 0: x - v / S each.

    Args:
      velocity: (x [B, ...], t scalar, memory) -> (v [B, ...], memory).
      noise: [B, ...], standard normal.
      steps: S.
      memory: what `velocity` is given at first.
    """

    def step(carry: tuple[jax.Array, Any], index: jax.Array) -> tuple[tuple[jax.Array, Any], None]:
        x, memory = carry
        v, memory = velocity(x, 1.0 - index / steps, memory)
        return (x - v / steps, memory), None

    return jax.lax.scan(step, (noise, memory), jnp.arange(steps))[0][0]
