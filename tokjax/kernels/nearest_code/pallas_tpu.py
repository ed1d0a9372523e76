"""The cheapest code on a TPU: a running minimum over tiles of codes, with the codes of a tile along the sublanes.

XLA fuses the same computation by itself on TPUs, without a matrix of costs either, so nothing chooses this kernel: it
is the twin that is kept compiling for the day a profile asks for it.

Letters: `N` vectors, `K` codes, `D` width.
"""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

_ROWS, _CODES = 512, 512


def least(
    x: jax.Array, codebook: jax.Array, offset: jax.Array, *, interpret: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Args and result are those of `reference.least_xla`, but for NaN: a vector that holds one gets any code."""
    (N, D), K = x.shape, len(codebook)
    x = jnp.pad(x, ((0, -N % _ROWS), (0, 0)))
    codebook = jnp.pad(codebook, ((0, -K % _CODES), (0, 0)))
    offset = jnp.pad(offset, (0, -K % _CODES), constant_values=jnp.inf)
    rows = jax.ShapeDtypeStruct((1, len(x)), jnp.float32)
    row = pl.BlockSpec((1, _ROWS), lambda n, k: (0, n))
    index, cost = pl.pallas_call(
        _kernel,
        grid=(len(x) // _ROWS, len(codebook) // _CODES),
        in_specs=[
            pl.BlockSpec((_ROWS, D), lambda n, k: (n, 0)),
            pl.BlockSpec((_CODES, D), lambda n, k: (k, 0)),
            pl.BlockSpec((1, _CODES), lambda n, k: (0, k)),
        ],
        out_specs=[row, row],
        out_shape=[jax.ShapeDtypeStruct(rows.shape, jnp.int32), rows],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        interpret=interpret,
        name="nearest_code",
    )(x, codebook, offset[None])
    return index[0, :N], cost[0, :N]


def _kernel(x, codebook, offset, index, cost):
    @pl.when(pl.program_id(1) == 0)
    def _() -> None:
        index[...] = jnp.zeros_like(index)
        cost[...] = jnp.full_like(cost, jnp.inf)

    exact = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    products = jax.lax.dot_general(
        codebook[...], x[...], (((1,), (1,)), ((), ())), precision=exact, preferred_element_type=jnp.float32
    )
    costs = jnp.broadcast_to(offset[...], (_ROWS, _CODES)).T - products
    lowest = jnp.min(costs, axis=0, keepdims=True)
    places = jax.lax.broadcasted_iota(jnp.int32, costs.shape, 0)
    place = jnp.min(jnp.where(costs == lowest, places, _CODES), axis=0, keepdims=True)
    nearer = lowest < cost[...]
    index[...] = jnp.where(nearer, pl.program_id(1) * _CODES + place, index[...])
    cost[...] = jnp.where(nearer, lowest, cost[...])
