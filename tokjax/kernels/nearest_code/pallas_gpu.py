"""Nearest-code search on Hopper GPUs: costs live in registers and never reach memory.

A block of threads holds up to 128 vectors in shared memory and reads the codebook past them, tile by tile. Tensor cores
multiply, and each thread keeps, for every place of the tile that is its own, the least cost so far and the tile it came
from. That is a subtraction, a comparison and two selections for each vector and code, and that arithmetic, not the
products, is what the time goes to at small widths; rows are reduced once, at the end. To take each tile's row minimum
and then look for its place would need one operation more, and exchanges between threads at every tile.

Letters: `N` vectors, `K` codes, `D` width.
"""

import contextlib
import dataclasses
import functools
import importlib
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

plgpu: Any = None  # not typed: it differs between versions of jax
with contextlib.suppress(ImportError):  # a jaxlib without the compiler of GPU kernels
    plgpu = importlib.import_module("jax.experimental.pallas.mosaic_gpu")

_ROWS = 64  # vectors of a warpgroup: the rows of one tensor-core instruction
_SHARED = 222 * 1024  # bytes of tiles in a block; the other 5 KB are for results, barriers and what the compiler takes
_STAGES = 4  # codebook tiles in shared memory at most: one in use by each warpgroup, the others on their way
# Warpgroups of a block and codes of a tile, best first. Two warpgroups, since one computes costs while the other's
# products run; 128 codes is what three values a cost leave room for in 255 registers.
_SHAPES = ((2, 128), (2, 64), (1, 64), (1, 32))
# Which pieces of a vector and of a code are multiplied, least products first.
_PRODUCTS = {1: ((0, 0),), 3: ((1, 1), (2, 0), (0, 2), (1, 0), (0, 1), (0, 0))}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Plan:
    """How shared memory is used; all of it follows from the width and the number type."""

    pieces: int  # bfloat16 numbers that sum to one channel
    width: int  # D padded to whole swizzles
    groups: int  # warpgroups of a block, each with vectors of its own
    codes: int  # codes of a tile
    stages: int  # codebook tiles in shared memory


def unsupported(shape_x: tuple[int, ...], shape_codebook: tuple[int, ...], dtype: Any) -> str | None:
    """Returns why `least` cannot take arrays of shapes [N, D] and [K, D] and this type, or None where it can."""
    if plgpu is None:
        return "this jaxlib has no compiler of GPU kernels"
    if jnp.dtype(dtype) not in (jnp.bfloat16, jnp.float32):
        return f"it takes bfloat16 or float32, not {jnp.dtype(dtype).name}"
    if not (all(shape_x) and all(shape_codebook)):
        return f"it takes no empty arrays, and the shapes are {shape_x} and {shape_codebook}"
    if _plan(shape_x[1], dtype) is None:
        return f"vectors of {shape_x[1]} {jnp.dtype(dtype).name} channels are too wide for shared memory"
    return None


def least(
    x: jax.Array, codebook: jax.Array, offset: jax.Array, *, interpret: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Returns argmin over e of offset(e) - x.e, int32 [N], and that least cost, float32 [N].

    The lowest index of equal costs. Index 0 and cost +inf where no cost is a number below +inf.

    Products are of bfloat16 numbers, summed in float32. A float32 channel is the exact sum of three bfloat16 numbers
    of 8 bits each; of the nine products of two such sums the six largest are taken. So a product x.e is within about
    (D + 1) 2^-23 sum over d of |x_d e_d| of the exact one: the bound of a float32 sum that truncates. An infinite
    float32 channel has no such pieces and counts as no number.

    Args:
      x: [N, D], bfloat16 or float32.
      codebook: [K, D], of the same type.
      offset: float32 [K]; a code of offset +inf is never chosen.
      interpret: whether to emulate the kernel, slowly, on the CPU.

    Raises:
      ValueError: `unsupported` says why.
    """
    reason = unsupported(x.shape, codebook.shape, x.dtype)
    plan = _plan(x.shape[1], x.dtype)
    if reason or plan is None:
        raise ValueError(f"nearest code: {reason}.")
    N = len(x)
    x, codebook = _pieces(x, plan.groups * _ROWS, plan), _pieces(codebook, plan.codes, plan)
    offset = jnp.pad(offset, (0, len(codebook) - len(offset)), constant_values=jnp.inf)
    tiling = _tiling(plan)
    index, cost = plgpu.kernel(
        functools.partial(_kernel, plan),
        out_type=(jax.ShapeDtypeStruct(x.shape[:1], jnp.int32), jax.ShapeDtypeStruct(x.shape[:1], jnp.float32)),
        scratch_types=(
            plgpu.SMEM((plan.groups, _ROWS, x.shape[1]), jnp.bfloat16, transforms=tiling),
            plgpu.SMEM((plan.stages, plan.codes, x.shape[1]), jnp.bfloat16, transforms=tiling),
            plgpu.SMEM((plan.groups, _ROWS), jnp.int32),
            plgpu.SMEM((plan.groups, _ROWS), jnp.float32),
            plgpu.Barrier(num_barriers=plan.groups),
            plgpu.Barrier(num_barriers=plan.stages),
            plgpu.Barrier(num_arrivals=plan.groups, num_barriers=plan.stages),
        ),
        grid=(len(x) // (plan.groups * _ROWS),),
        grid_names=("block",),
        num_threads=plan.groups,
        thread_name="group",
        interpret=plgpu.InterpretGPUParams() if interpret else None,
    )(x, codebook, offset)
    return index[:N], cost[:N]


def _kernel(plan, x, codebook, offset, index, cost, x_tile, code_tiles, indices, costs, x_loaded, loaded, free):
    """One block: arguments up to `cost` lie in global memory, tiles and results in shared memory.

    Barriers: one a warpgroup, that its vectors have come; two a stage, that its codes have come and that all are
    through with them.
    """
    tiles, shape = codebook.shape[0] // plan.codes, (_ROWS, plan.codes)
    group = jax.lax.axis_index("group")
    rows = pl.ds((jax.lax.axis_index("block") * plan.groups + group) * _ROWS, _ROWS)

    def stage(tile):
        return jax.lax.rem(tile, jnp.int32(plan.stages))

    def fetch(tile):
        slot = stage(tile)
        part = codebook.at[pl.ds(tile * plan.codes, plan.codes)]
        plgpu.copy_gmem_to_smem(part, code_tiles.at[slot], loaded.at[slot])

    def against(tile, best):
        slot = stage(tile)
        # Straight to registers: reads of shared memory would have to be fenced off from the next copy that lands there.
        offsets = plgpu.load(
            offset.at[pl.ds(tile * plan.codes, plan.codes)], layout=plgpu.Layout.WGMMA.reduce(0), optimized=False
        )
        plgpu.barrier_wait(loaded.at[slot])

        def multiply(products):
            for i, j in _PRODUCTS[plan.pieces]:
                left, right = (pl.ds(piece * plan.width, plan.width) for piece in (i, j))
                plgpu.wgmma(products, x_tile.at[group, :, left], code_tiles.at[slot, :, right].transpose((1, 0)))

            # While these products run, refill the stage of the tile before, once both warpgroups are through with it.
            @pl.when((group == 0) & (tile > 0) & (tile - 1 + plan.stages < tiles))
            def _():
                plgpu.barrier_wait(free.at[stage(tile - 1)])
                fetch(tile - 1 + plan.stages)

            return products[...]

        products = pl.run_scoped(multiply, plgpu.ACC(shape, jnp.float32))
        plgpu.barrier_arrive(free.at[slot])
        found = jax.lax.broadcast_in_dim(offsets, shape, (1,)) - products
        nearer = found < best[0]  # strictly, so that the first of equal tiles stays; never where a cost is no number
        return jnp.where(nearer, found, best[0]), jnp.where(nearer, tile, best[1])

    plgpu.copy_gmem_to_smem(x.at[rows], x_tile.at[group], x_loaded.at[group])

    @pl.when(group == 0)
    def _():
        for tile in range(min(plan.stages, tiles)):
            fetch(jnp.int32(tile))

    plgpu.barrier_wait(x_loaded.at[group])
    start = (jnp.full(shape, jnp.inf, jnp.float32), jnp.full(shape, 0, jnp.int32))
    start = tuple(plgpu.layout_cast(value, plgpu.Layout.WGMMA) for value in start)
    lowest, tile = jax.lax.fori_loop(0, tiles, against, start)
    code = tile * plan.codes + plgpu.broadcasted_iota(jnp.int32, shape, 1, layout=plgpu.Layout.WGMMA)
    least_cost = lowest.min(axis=1)
    is_least = lowest == jax.lax.broadcast_in_dim(least_cost, shape, (0,))
    costs.at[group][...] = least_cost
    indices.at[group][...] = jnp.where(is_least, code, jnp.iinfo(jnp.int32).max).min(axis=1)
    plgpu.commit_smem()
    plgpu.copy_smem_to_gmem(indices.at[group], index.at[rows])
    plgpu.copy_smem_to_gmem(costs.at[group], cost.at[rows])
    plgpu.wait_smem_to_gmem(0)

    @pl.when(group == 0)
    def _():  # The signals of the last stages, which nothing was fetched for: none may be pending when a block ends.
        for tile in range(max(0, tiles - plan.stages), tiles):
            plgpu.barrier_wait(free.at[tile % plan.stages])


def _plan(channels: int, dtype: Any) -> _Plan | None:
    """Returns the best use of shared memory for vectors of so many channels, or None where nothing fits."""
    pieces = 1 if jnp.dtype(dtype) == jnp.bfloat16 else 3
    width = next((width for width in (16, 32) if channels <= width), -(-channels // 64) * 64)
    row = pieces * width * 2
    for groups, codes in _SHAPES:
        stages = min(_STAGES, (_SHARED - groups * _ROWS * row) // (codes * row))
        if stages >= 2:
            return _Plan(pieces=pieces, width=width, groups=groups, codes=codes, stages=stages)
    return None


def _tiling(plan: _Plan) -> tuple:
    """Returns how tiles lie in shared memory: in swizzles of 32, 64 or 128 bytes, as tensor cores read them."""
    channels = min(plan.width, 64)
    return plgpu.TilingTransform((8, channels)), plgpu.SwizzleTransform(2 * channels)


def _pieces(vectors: jax.Array, multiple: int, plan: _Plan) -> jax.Array:
    """Returns vectors [N, D] as bfloat16 pieces side by side, [N', pieces * width]: rows and channels padded with 0."""
    N, D = vectors.shape
    vectors = jnp.pad(vectors, ((0, -N % multiple), (0, plan.width - D)))
    if plan.pieces == 1:
        return vectors
    pieces = []
    for _ in range(plan.pieces):
        # Not a cast there and back, which XLA takes for excess precision and drops.
        piece = jax.lax.reduce_precision(vectors, exponent_bits=8, mantissa_bits=7)
        pieces.append(piece.astype(jnp.bfloat16))
        vectors = vectors - piece
    return jnp.concatenate(pieces, axis=1)
