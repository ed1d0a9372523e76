"""A vector's channels in groups, each with a code of its own: product quantization.

Letters: `N` vectors, `D` width, `G` groups, `S` codes of a group.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from tokjax.core.registry import Paper, quantizers
from tokjax.core.spec import check
from tokjax.core.types import Params, Quantized
from tokjax.nn.param import stack
from tokjax.quantize.base import Context, Quantizer, quantizer


@quantizers.register(
    "grouped",
    papers=(
        Paper(
            title="Product Quantization for Nearest Neighbor Search",
            authors="Jégou, Douze, Schmid",
            year=2011,
            url="https://doi.org/10.1109/TPAMI.2010.57",
        ),
    ),
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class Grouped(Quantizer):
    """Channels in G groups, each quantized alone, as in `grouped:groups=4/vq:codes=256`.

    With a codebook per group this is product quantization, with a `shared` one the heads of multi-head quantization,
    and of `residual` quantizers it is grouped residual quantization. Codes of a group are next to each other.

    Attributes:
      base: the quantizer of every group, of width D / G.
      groups: G, a divisor of D.
      shared: all groups have one codebook.
    """

    base: str
    groups: int
    shared: bool = False

    def __post_init__(self):
        super().__post_init__()
        fits = self.groups >= 1 and self.width % self.groups == 0
        check(fits, "groups", self.groups, f"must divide the width {self.width}.")
        fix = "its codes stand for vectors of another width; use a quantizer that reconstructs."
        check(self.group.code_width == self.group.width, "base", self.base, fix)

    @functools.cached_property
    def group(self) -> Quantizer:
        """The quantizer of every group."""
        return quantizer(self.base, width=self.width // self.groups)

    @property
    def sizes(self) -> tuple[int, ...]:
        return self.group.sizes * self.groups

    @property
    def additive(self) -> bool:
        return False  # a level of a residual has one code

    def declare(self) -> Any:
        declared = self.group.declare()
        return declared if self.shared else stack(declared, self.groups)

    def init_state(self, key: jax.Array) -> Params:
        if self.shared:
            return self.group.init_state(key)
        return jax.vmap(self.group.init_state)(jax.random.split(key, self.groups))

    def _cut(self, x: jax.Array) -> jax.Array:
        """Returns the channels of each group, [..., G, D / G]."""
        return x.reshape(*x.shape[:-1], self.groups, -1)

    def prepare(self, x: jax.Array) -> jax.Array:
        return self.group.prepare(self._cut(x)).reshape(x.shape)

    def assign(self, params: Params, state: Params, z: jax.Array, context: Context) -> Quantized:
        parts, N = self._cut(z), len(z)
        if self.shared:
            every = dataclasses.replace(context, mask=jnp.repeat(context.mask, self.groups))
            found = self.group.assign(params, state, parts.reshape(N * self.groups, -1), every)
            return dataclasses.replace(found, codes=found.codes.reshape(N, -1), vectors=found.vectors.reshape(N, -1))

        # One after another: side by side, every branch of a group's conditions would run at every step.
        def quantize(_: None, inputs: tuple) -> tuple[None, Quantized]:
            index, part, own_params, own_state = inputs
            key = None if context.key is None else jax.random.fold_in(context.key, index)
            return None, self.group.assign(own_params, own_state, part, dataclasses.replace(context, key=key))

        groups = (jnp.arange(self.groups), parts.swapaxes(0, 1), params, state)
        found = jax.lax.scan(quantize, None, groups)[1]
        return Quantized(
            codes=jnp.moveaxis(found.codes, 0, 1).reshape(N, -1),
            vectors=jnp.moveaxis(found.vectors, 0, 1).reshape(N, -1),
            loss=jnp.mean(found.loss),
            state=found.state,
            stats=jax.tree.map(jnp.sum, found.stats),
        )

    def lookup(self, params: Params, state: Params, codes: jax.Array) -> jax.Array:
        N, S = len(codes), len(self.group.sizes)
        of_groups = codes.reshape(N, self.groups, *(() if S == 1 else (S,)))
        if self.shared:
            return self.group.dequantize(params, state, of_groups).reshape(N, self.width)
        each = jax.vmap(self.group.dequantize, in_axes=(0, 0, 1), out_axes=1)
        return each(params, state, of_groups).reshape(N, self.width)

    def flops(self, count: int) -> float:
        return self.group.flops(count * self.groups)
