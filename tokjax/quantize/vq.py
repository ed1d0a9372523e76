"""Vector quantization with a codebook that averages or gradients move.

Letters: `N` vectors, `D` width, `K` codes.
"""

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp

from tokjax.core.keys import named
from tokjax.core.registry import Paper, quantizers
from tokjax.core.spec import check
from tokjax.core.types import Params, Quantized
from tokjax.kernels.nearest_code.api import largest_product, nearest
from tokjax.nn.param import Initializer, Param
from tokjax.quantize.base import Context, Quantizer, code_stats, count_codes, mean_square
from tokjax.quantize.codebook import anchor, kmeans, revive, smooth, split, sum_by_code
from tokjax.quantize.gradients import GRADIENTS, Gradient, directional, pass_gradient, unit

OORD = Paper(
    title="Neural Discrete Representation Learning",
    authors="van den Oord, Vinyals, Kavukcuoglu",
    year=2017,
    url="https://arxiv.org/abs/1711.00937",
)
FIFTY = Paper(
    title="Restructuring Vector Quantization with the Rotation Trick",
    authors="Fifty, Junkins, Duan, Iyengar, Liu, Amid, Thrun, Ré",
    year=2024,
    url="https://arxiv.org/abs/2410.06424",
)
ZHENG = Paper(
    title="Online Clustered Codebook",
    authors="Zheng, Vedaldi",
    year=2023,
    url="https://arxiv.org/abs/2307.15139",
)
VALI = Paper(
    title="DiVeQ: Differentiable Vector Quantization Using the Reparameterization Trick",
    authors="Vali, Bäckström, Solin",
    year=2025,
    url="https://arxiv.org/abs/2509.26469",
)
Revival = Literal["none", "batch", "split", "anchor"]
_GRADIENTS = (*GRADIENTS, "diveq")
_DEAD_BELOW = {"none": 0.0, "batch": 2.0, "split": 0.1, "anchor": 0.0}  # as published, where `dead_below` is None


def uniform(bound: float) -> Initializer:
    """Uniform between -bound and bound."""
    return lambda key, shape: jax.random.uniform(key, shape, minval=-bound, maxval=bound)


@quantizers.register("vq", papers=(OORD, FIFTY, ZHENG, VALI))
@dataclasses.dataclass(frozen=True, kw_only=True)
class VQ(Quantizer):
    """The nearest of K codes, which averages or gradients move.

    What is put in place of codes that gradients train, by k-means or a revival, is kept beside them in the state, as
    the difference: a code is the sum of its parameter and that.

    Attributes:
      codes: K.
      update: `ema`, codes are averages of the vectors that chose them (van den Oord et al. 2017, appendix A.1); or
        `gradient`, the loss has a term that pulls codes to their vectors (eq. 3).
      cosine: vectors and codes have unit length, so that the nearest is that of the largest cosine.
      gradient: what vectors pass back; or `diveq`, in training vectors are moved to near their codes, so that the loss
        of what is done with them trains both, and there is no other: `commitment` counts for nothing.
      noise: variance of each channel of the noise of `diveq`.
      commitment: weight of the loss that pulls vectors to their codes.
      decay: of the averages of codes and of how often each is chosen.
      init: `random`; or `kmeans`, the first batch of training is clustered.
      revival: what becomes of codes hardly chosen: `none`; `batch`, vectors of the batch replace them; `split`, they
        become copies of the most used; `anchor`, all codes move to the vector nearest them, the more the less they are
        chosen.
      dead_below: vectors of a batch, on average, that a code in use is chosen by; None is 2 of `batch`, 0.1 of `split`.
    """

    codes: int
    update: Literal["ema", "gradient"] = "gradient"
    cosine: bool = False
    gradient: Gradient | Literal["diveq"] = "straight_through"
    noise: float = 1e-3
    commitment: float = 0.25
    decay: float = 0.99
    init: Literal["random", "kmeans"] = "random"
    revival: Revival = "none"
    dead_below: float | None = None

    def __post_init__(self):
        super().__post_init__()
        check(self.codes >= 2, "codes", self.codes, "use at least 2.")
        check(self.update in ("ema", "gradient"), "update", self.update, "use 'ema' or 'gradient'.")
        check(self.gradient in _GRADIENTS, "gradient", self.gradient, f"use one of {', '.join(_GRADIENTS)}.")
        fix = "it trains codes by gradients; use update='gradient', and no cosine."
        check(not self._trains_codes or (self._learned and not self.cosine), "gradient", self.gradient, fix)
        check(self.noise >= 0, "noise", self.noise, "must not be negative.")
        check(self.commitment >= 0, "commitment", self.commitment, "must not be negative.")
        check(0 <= self.decay < 1, "decay", self.decay, "use a number from 0 to below 1.")
        check(self.init in ("random", "kmeans"), "init", self.init, "use 'random' or 'kmeans'.")
        check(self.revival in _DEAD_BELOW, "revival", self.revival, f"use one of {', '.join(_DEAD_BELOW)}.")
        fix = "it moves codes that gradients train; use update='gradient', or the revival 'batch' or 'split'."
        check(self.revival != "anchor" or self.update == "gradient", "revival", self.revival, fix)
        check(self._threshold >= 0, "dead_below", self.dead_below, "must not be negative.")

    @property
    def sizes(self) -> tuple[int, ...]:
        return (self.codes,)

    @property
    def additive(self) -> bool:
        return not self.cosine and not self._trains_codes

    @property
    def _trains_codes(self) -> bool:
        """Whether codes are trained through the vectors."""
        return self.gradient == "diveq"

    @property
    def _threshold(self) -> float:
        return _DEAD_BELOW[self.revival] if self.dead_below is None else self.dead_below

    @property
    def _learned(self) -> bool:
        return self.update == "gradient"

    @property
    def _moved(self) -> bool:
        """Whether codes that gradients train are also put elsewhere."""
        return self._learned and (self.init == "kmeans" or self.revival != "none")

    def _start(self) -> Initializer:
        if not self.cosine:
            return uniform(1.0 / self.codes)
        return lambda key, shape: unit(jax.random.normal(key, shape))

    def declare(self) -> Any:
        if not self._learned:
            return {}
        return {"codebook": Param((self.codes, self.width), (None, None), self._start(), decay=False)}

    def init_state(self, key: jax.Array) -> Params:
        K, shape = self.codes, (self.codes, self.width)
        state = {"steps": jnp.zeros((), jnp.int32), "counts": jnp.ones(K, jnp.float32)}
        if not self._learned:
            codebook = self._start()(named(key, "codebook"), shape)
            state |= {"codebook": codebook, "sums": jnp.copy(codebook)}
        if self._moved:
            state["offset"] = jnp.zeros(shape, jnp.float32)
        if self.revival == "anchor":
            state["usage"] = jnp.zeros(K, jnp.float32)
        return state

    def codebook(self, params: Params, state: Params) -> jax.Array:
        """Returns the codes, [K, D]."""
        codebook = params["codebook"] if self._learned else jax.lax.stop_gradient(state["codebook"])
        if self._moved:
            codebook = codebook + jax.lax.stop_gradient(state["offset"])
        return unit(codebook) if self.cosine else codebook

    def prepare(self, x: jax.Array) -> jax.Array:
        return unit(x) if self.cosine else x

    def initialise(self, params: Params, state: Params, z: jax.Array, key: jax.Array, mask: jax.Array) -> Params:
        """Returns a state whose codes are the means of clusters of `z`, float32 [N, D] and prepared.

        With `init='kmeans'` the first step of training does so with its batch. `mask` bool [N]: vectors that count.
        """
        means, counts = kmeans(z, mask, self.codes, key, cosine=self.cosine)
        return self._put(params, state, means, counts, jnp.ones_like(counts, bool))

    def _put(
        self, params: Params, state: Params, codebook: jax.Array, counts: jax.Array, replaced: jax.Array
    ) -> Params:
        """Returns a state in which the `replaced` codes, bool [K], are those of `codebook`, as are their sums."""
        where = replaced[:, None]
        if self._learned:
            return state | {
                "counts": counts, "offset": jnp.where(where, codebook - params["codebook"], state["offset"])
            }  # fmt: skip
        sums = jnp.where(where, codebook * counts[:, None], state["sums"])
        return state | {"counts": counts, "codebook": jnp.where(where, codebook, state["codebook"]), "sums": sums}

    def assign(self, params: Params, state: Params, z: jax.Array, context: Context) -> Quantized:
        fixed, mask = jax.lax.stop_gradient(params), context.mask
        if context.train and self.init == "kmeans":
            start, first = context.named("kmeans"), (state["steps"] == 0) & jnp.any(mask)
            state = jax.lax.cond(first, lambda s: self.initialise(fixed, s, z, start, mask), lambda s: s, state)
        codebook = self.codebook(params, state)
        # A code that lost all its vectors may have no direction: it is then near to all, but of no large cosine.
        codes = (largest_product if self.cosine else nearest)(z, codebook)
        chosen = codebook[codes]
        loss = jnp.zeros(()) if self._trains_codes else self._losses(z, chosen, mask)
        counts = count_codes(codes, mask, self.codes)
        if context.train:  # a batch without vectors, as a level that every sample drops has, is no step
            moved = self._update(fixed, state, jax.lax.stop_gradient(z), codes, counts, context)
            state = jax.tree.map(lambda new, old: jnp.where(jnp.any(mask), new, old), moved, state)
        stats = code_stats(codes, mask, self.codes, mean_square(z - chosen, mask))
        return Quantized(codes=codes, vectors=self._pass(z, chosen, context), loss=loss, state=state, stats=stats)

    def _losses(self, z: jax.Array, chosen: jax.Array, mask: jax.Array) -> jax.Array:
        loss = self.commitment * mean_square(z - jax.lax.stop_gradient(chosen), mask)
        return loss + mean_square(jax.lax.stop_gradient(z) - chosen, mask) if self._learned else loss

    def _pass(self, z: jax.Array, chosen: jax.Array, context: Context) -> jax.Array:
        if self.gradient != "diveq":
            return pass_gradient(self.gradient, z, chosen)
        if not context.train:
            return chosen
        return directional(z, chosen, math.sqrt(self.noise) * jax.random.normal(context.named("noise"), z.shape))

    def _update(
        self,
        params: Params,
        state: Params,
        z: jax.Array,
        codes: jax.Array,
        counts: jax.Array,
        context: Context,
    ) -> Params:
        """Returns the state after a batch: averages first, then what becomes of dead codes."""
        mask = context.mask

        def average(old: jax.Array, new: jax.Array) -> jax.Array:
            return self.decay * old + (1.0 - self.decay) * new

        state = state | {"steps": state["steps"] + 1, "counts": average(state["counts"], counts)}
        if not self._learned:
            sums = average(state["sums"], sum_by_code(z, codes, mask, self.codes))
            codebook = sums / smooth(state["counts"])[:, None]
            state |= {"sums": sums, "codebook": unit(codebook) if self.cosine else codebook}
        if self.revival == "none":
            return state
        codebook, before = self.codebook(params, state), state["counts"]
        if self.revival == "anchor":
            state["usage"] = average(state["usage"], counts / jnp.maximum(jnp.sum(counts), 1.0))
            codebook, alpha = anchor(codebook, state["usage"], z, mask, self.decay)
            return self._put(params, state, codebook, before, alpha > 0)
        key = context.named("revival")
        if self.revival == "batch":
            codebook, after = revive(codebook, before, z, mask, key, self._threshold)
        else:
            codebook, after = split(codebook, before, key, self._threshold)
        return self._put(params, state, codebook, after, after != before)

    def lookup(self, params: Params, state: Params, codes: jax.Array) -> jax.Array:
        return self.codebook(params, state)[codes]

    def flops(self, count: int) -> float:
        return 2.0 * count * self.codes * self.width
