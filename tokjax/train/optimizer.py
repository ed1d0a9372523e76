"""The optimizer from its spec: clipping and AdamW with a decay mask as one optax chain, and a schedule of rates."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tokjax.core.errors import SpecError
from tokjax.core.spec import check

Schedule = Literal["cosine", "linear", "constant", "rsqrt", "wsd"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerSpec:
    """AdamW (Loshchilov and Hutter, 2019) and what surrounds it.

    Attributes:
      learning_rate: the peak.
      schedule: after warm-up, 'cosine' and 'linear' fall over all remaining steps, 'wsd' stays and falls linearly over
        the last `decay_fraction` of all steps, 'rsqrt' falls with the inverse square root of the step.
      warmup_steps: steps of linear rise to the peak.
      final_fraction: of the peak, where 'cosine', 'linear' and 'wsd' end.
      decay_fraction: of all steps, the part in which 'wsd' falls.
      weight_decay: decoupled, multiplied by the learning rate; only where a parameter declares `decay`.
      b1: decay of the gradient average.
      b2: decay of the squared-gradient average.
      eps: added to the root of the squared-gradient average.
      clip_norm: largest global gradient norm; None leaves gradients as they are.
      accumulate_steps: micro-batches that one step is computed in, one after the other.
      ema_decay: of the average of the parameters that evaluation and inference use; None keeps no average.
    """

    learning_rate: float = 1e-3
    schedule: Schedule = "cosine"
    warmup_steps: int = 0
    final_fraction: float = 0.1
    decay_fraction: float = 0.2
    weight_decay: float = 0.1
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    clip_norm: float | None = 1.0
    accumulate_steps: int = 1
    ema_decay: float | None = None

    def __post_init__(self):
        check(self.learning_rate > 0, "optimizer.learning_rate", self.learning_rate, "give a positive number.")
        check(self.warmup_steps >= 0, "optimizer.warmup_steps", self.warmup_steps, "give 0 or more.")
        check(self.weight_decay >= 0, "optimizer.weight_decay", self.weight_decay, "give 0 or more.")
        check(self.eps > 0, "optimizer.eps", self.eps, "give a positive number.")
        check(self.accumulate_steps >= 1, "optimizer.accumulate_steps", self.accumulate_steps, "give 1 or more.")
        check(0 <= self.final_fraction <= 1, "optimizer.final_fraction", self.final_fraction, "give a part of one.")
        check(0 < self.decay_fraction <= 1, "optimizer.decay_fraction", self.decay_fraction, "give a part of one.")
        for name in ("b1", "b2", "ema_decay"):
            value = getattr(self, name)
            check(value is None or 0 <= value < 1, f"optimizer.{name}", value, "give a number in [0, 1).")
        check(
            self.clip_norm is None or self.clip_norm > 0,
            "optimizer.clip_norm",
            self.clip_norm,
            "give a positive number, or None.",
        )


def make_schedule(spec: OptimizerSpec, steps: int) -> optax.Schedule:
    """Returns the learning rate as a function of the number of updates already made, 0 to `steps - 1`.

    Warm-up gives `learning_rate * (t + 1) / (warmup_steps + 1)`, so that no update is wasted on a rate of zero.

    Raises:
      SpecError: no step is left after warm-up.
    """
    peak, warmup = spec.learning_rate, spec.warmup_steps
    if warmup >= steps:
        raise SpecError(
            f"optimizer.warmup_steps: got {warmup} with train.steps {steps}; warm up for fewer steps than you train."
        )
    rest = steps - warmup
    fall = min(rest, max(1, round(spec.decay_fraction * steps)))
    bodies = {
        "constant": optax.constant_schedule(peak),
        "cosine": optax.cosine_decay_schedule(peak, rest, alpha=spec.final_fraction),
        "linear": optax.linear_schedule(peak, spec.final_fraction * peak, rest),
        "wsd": optax.linear_schedule(peak, spec.final_fraction * peak, fall, transition_begin=rest - fall),
        "rsqrt": lambda t: peak * jnp.sqrt(max(warmup, 1) / (jnp.maximum(t, 0) + max(warmup, 1))),
    }
    rise = optax.linear_schedule(peak / (warmup + 1), peak, warmup)
    return optax.join_schedules([rise, bodies[spec.schedule]], [warmup])


def learning_rates(spec: OptimizerSpec, steps: int) -> np.ndarray:
    """Returns the learning rate of every update, float32 [steps].

    Raises:
      SpecError: as `make_schedule`.
    """
    return np.asarray(jax.vmap(make_schedule(spec, steps))(jnp.arange(steps)), np.float32)


def make_transform(spec: OptimizerSpec, decay_mask: Any) -> optax.GradientTransformation:
    """Returns the chain that turns gradients into a descent direction, to be scaled by the learning rate.

    The rate is not part of the chain: the step takes it as an argument, so that runs that differ in nothing but their
    rates share one compiled program.

    Args:
      spec: see `OptimizerSpec`; its learning rate and schedule do not matter here.
      decay_mask: tree of booleans, True where weight decay applies.
    """
    clip = optax.identity() if spec.clip_norm is None else optax.clip_by_global_norm(spec.clip_norm)
    return optax.chain(
        clip,
        optax.scale_by_adam(b1=spec.b1, b2=spec.b2, eps=spec.eps),
        optax.add_decayed_weights(spec.weight_decay, mask=decay_mask),
        optax.scale(-1.0),
    )
