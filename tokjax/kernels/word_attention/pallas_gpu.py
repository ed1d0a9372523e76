"""Word attention on Hopper GPUs: Pallas kernels that keep the scores of a block on the chip.

Letters: `B` batch, `S` slots, `H` query heads, `G` key heads, `R` = H / G, `K` head width, `C` blocks.
A tile is one block of one head: its scores are 128 by 128, so no softmax is ever split and nothing but q, k and v has
to be kept for the gradient. A warpgroup (128 threads) holds the scores of HALF a tile's queries in its registers.
"""

import contextlib
import functools
import importlib
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from tokjax.kernels.word_attention.reference import BLOCK
from tokjax.nn.attention import FLOOR, MASKED

plgpu: Any = None  # not typed: it differs between versions of jax
with contextlib.suppress(ImportError):  # a jaxlib without the compiler of GPU kernels
    plgpu = importlib.import_module("jax.experimental.pallas.mosaic_gpu")

HALF = BLOCK // 2  # queries of a warpgroup: the rows of the chip's matrix instruction
WIDTHS = (64, 128)  # head widths: whole rows of a swizzled tile
CORES = 132  # multiprocessors of an H100 or H200: what the backward pass spreads its tiles over


def unsupported(shape_q: tuple[int, ...], shape_k: tuple[int, ...], dtype: Any) -> str | None:
    """Returns why the kernels cannot take q [B,S,H,K] and k [B,S,G,K] of a dtype, in plain words, or None."""
    _, S, H, K = shape_q
    if plgpu is None:
        return "this jaxlib has no compiler of GPU kernels"
    if jnp.dtype(dtype) not in (jnp.bfloat16, jnp.float16):
        return f"its numbers are {jnp.dtype(dtype).name}; the GPU kernel takes bfloat16 or float16"
    if K not in WIDTHS:
        return f"its heads are {K} wide; the GPU kernel takes {' or '.join(map(str, WIDTHS))}"
    if S % BLOCK:
        return f"it has {S} slots; the GPU kernel takes a multiple of {BLOCK}"
    if H % shape_k[2]:
        return f"its {H} query heads are no multiple of its {shape_k[2]} key heads"
    return None


def forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    query_ids: jax.Array,
    key_ids: jax.Array,
    *,
    causal: bool,
    interpret: bool = False,
) -> jax.Array:
    """Returns the attention [B,S,H,K] of q over k and v.

    A program a tile: several share a multiprocessor, so the copies of one run under the arithmetic of another, and the
    R programs of one key head run together and find its keys in the cache.

    Args:
      q: queries [B,S,H,K].
      k: keys [B,S,G,K].
      v: values [B,S,G,K].
      query_ids: the word each slot reads, int32 [B,S]; 0 reads nothing.
      key_ids: the word each slot is seen in, int32 [B,S].
      causal: whether a slot sees only itself and those before it.
      interpret: whether to simulate the GPU on a CPU.
    """
    B, S, H, K = q.shape
    R = H // k.shape[2]
    narrow = K < BLOCK

    def tile(q_ref, k_ref, v_ref, query_ids_ref, key_ids_ref, out_ref, scratch):
        q_tile, k_tile, v_tile, query_row, key_row, spare, ready, values_ready = scratch
        b, head = lax.axis_index("batch"), lax.axis_index("head")
        slots, key_head = pl.ds(lax.axis_index("block") * BLOCK, BLOCK), _divmod(head, R)[0]
        plgpu.copy_gmem_to_smem(query_ids_ref.at[b, slots], query_row, ready)
        plgpu.copy_gmem_to_smem(key_ids_ref.at[b, slots], key_row, ready)
        plgpu.copy_gmem_to_smem(q_ref.at[b, slots, head], q_tile, ready)
        plgpu.copy_gmem_to_smem(k_ref.at[b, slots, key_head], k_tile, ready)
        plgpu.copy_gmem_to_smem(v_ref.at[b, slots, key_head], v_tile, values_ready)
        plgpu.barrier_wait(ready)
        for start in (0, HALF):
            rows, N = pl.ds(start, HALF), start + HALF if causal else BLOCK  # no query of this half sees a later key
            order = (iota((HALF,), layout=by_query) + start, iota((N,), layout=by_key)) if causal else None
            weights, norm = _weights(q_tile.at[rows], k_tile.at[:N], query_row.at[rows], key_row.at[:N], order)
            weights_tile = spare if narrow else q_tile.at[rows]  # these queries are done with
            weights_tile[:, :N] = weights.astype(q.dtype)
            plgpu.commit_smem()
            if start == 0:
                plgpu.barrier_wait(values_ready)
            out = _matmul(weights_tile.at[:, :N], v_tile.at[:N])
            q_tile[rows] = (out * lax.broadcast_in_dim(norm, out.shape, [0])).astype(q.dtype)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(q_tile, out_ref.at[b, slots, head])
        plgpu.wait_smem_to_gmem(0)

    by_query, by_key = plgpu.Layout.WGMMA.reduce(1), plgpu.Layout.WGMMA.reduce(0)
    iota = functools.partial(plgpu.broadcasted_iota, jnp.int32, dimension=0)
    tiles, rows = (_tile(q.dtype, BLOCK, K),) * 3, (plgpu.SMEM((BLOCK,), jnp.int32),) * 2
    spare = _tile(q.dtype, HALF, BLOCK) if narrow else None
    return plgpu.kernel(
        tile,
        out_type=jax.ShapeDtypeStruct(q.shape, q.dtype),
        scratch_types=[(*tiles, *rows, spare, plgpu.Barrier(num_arrivals=4), plgpu.Barrier(num_arrivals=1))],
        grid=(B, S // BLOCK, H),
        grid_names=("batch", "block", "head"),
        **_options(interpret),
    )(q, k, v, query_ids, key_ids)


def backward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    query_ids: jax.Array,
    key_ids: jax.Array,
    d_out: jax.Array,
    *,
    causal: bool,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the gradients of q [B,S,H,K], k [B,S,G,K] and v [B,S,G,K], given that of the result, d_out [B,S,H,K].

    A program a multiprocessor walks over tiles, one query head a step, and sums d_k and d_v over the R query heads of a
    key head in registers. Its two warpgroups share a tile: each takes half the queries for the weights and d_q, then
    half the keys for d_k and d_v. Other args are those of `forward`.
    """
    B, S, H, K = q.shape
    C, G = S // BLOCK, k.shape[2]
    R, tiles = H // G, B * C * G
    programs = min(CORES, tiles)
    stages = 2 if K == 64 else 1  # a second tile to fetch ahead fits in shared memory only where heads are narrow

    def program(q_ref, k_ref, v_ref, query_ids_ref, key_ids_ref, d_out_ref, d_q_ref, d_k_ref, d_v_ref, scratch):
        *inputs, weights_tile, d_scores_tile, slots_row, ready, met = scratch
        mine, half = lax.axis_index("program"), lax.axis_index("half")
        turns = _divmod(tiles - mine + programs - 1, programs)[0]

        def place(step):
            """Returns where a step's arrays are: batch, this half's slots, query head, key head."""
            turn, r = _divmod(step, R)
            tile, key_head = _divmod(mine + turn * programs, G)
            b, block = _divmod(tile, C)
            return b, pl.ds(block * BLOCK + half * HALF, HALF), key_head * R + r, key_head

        def opened(step):
            """Returns this half's rows of a tile, and a step's buffers.

            The barrier hides that they repeat from step to step. Else the compiler computes every address before the
            loop, and runs out of registers to keep them in.
            """
            row, stage = lax.optimization_barrier((half, _divmod(step, stages)[1]))
            return pl.ds(pl.multiple_of(row * HALF, HALF), HALF), [buffer.at[stage] for buffer in inputs]

        def fetch(step):
            b, slots, head, key_head = place(step)
            rows, buffers = opened(step)
            refs = [ref.at[b, slots, head] for ref in (q_ref, d_out_ref)]
            refs += [ref.at[b, slots, key_head] for ref in (k_ref, v_ref)]
            refs += [ref.at[b, slots] for ref in (query_ids_ref, key_ids_ref)]
            for ref, buffer in zip(refs, buffers, strict=True):
                plgpu.copy_gmem_to_smem(ref, buffer.at[rows], ready.at[_divmod(step, stages)[1]])

        def meet():
            plgpu.barrier_arrive(met)
            plgpu.barrier_wait(met)

        def score(step):
            """Fills this half's rows of the weights and of the gradient of the scores, and sends d_q off."""
            plgpu.wait_smem_to_gmem(0, wait_read_only=True)  # what left from this half's rows is read: they are free
            ahead = step + stages - 1
            pl.when(ahead < turns * R)(lambda: fetch(ahead))
            rows, (q_tile, d_out_tile, k_tile, v_tile, query_row, key_row) = opened(step)
            plgpu.barrier_wait(ready.at[_divmod(step, stages)[1]])
            order = None
            if causal:
                order = plgpu.load(slots_row.at[rows], layout=by_query), plgpu.load(slots_row, layout=by_key)
            weights, norm = _weights(q_tile.at[rows], k_tile, query_row.at[rows], key_row, order)
            weights_tile[rows] = (weights * lax.broadcast_in_dim(norm, weights.shape, [0])).astype(q.dtype)
            d_weights = _matmul(d_out_tile.at[rows], v_tile.transpose((1, 0)))
            # Read back rather than kept: that spares registers.
            weights = plgpu.load(weights_tile.at[rows], layout=plgpu.Layout.WGMMA).astype(jnp.float32)
            mean = lax.broadcast_in_dim((weights * d_weights).sum(axis=1), weights.shape, [0])
            d_scores_tile[rows] = (weights * (d_weights - mean) * (1 / math.sqrt(K))).astype(q.dtype)
            plgpu.commit_smem()
            meet()  # both halves have filled their rows, and have read v
            v_tile[rows] = _matmul(d_scores_tile.at[rows], k_tile).astype(q.dtype)
            plgpu.commit_smem()
            b, slots, head, _ = place(step)
            plgpu.copy_smem_to_gmem(v_tile.at[rows], d_q_ref.at[b, slots, head])

        def gather(step, d_k, d_v):
            """Adds what the queries of both halves send to this half's keys."""
            rows, (q_tile, d_out_tile, *_) = opened(step)
            plgpu.wgmma(d_v, weights_tile.at[:, rows].transpose((1, 0)), d_out_tile)
            plgpu.wgmma(d_k, d_scores_tile.at[:, rows].transpose((1, 0)), q_tile)
            plgpu.wgmma_wait(0)
            meet()  # both halves have read every tile: they are free

        def turn(i, _):
            def key_head(d_k, d_v):
                def query_head(step, _):
                    score(step)
                    gather(step, d_k, d_v)

                lax.fori_loop(i * R, i * R + R, query_head, None)
                return d_k[...], d_v[...]

            d_k, d_v = pl.run_scoped(key_head, plgpu.ACC((HALF, K), jnp.float32), plgpu.ACC((HALF, K), jnp.float32))
            b, slots, _, g = place(i * R)
            rows, (q_tile, _, k_tile, *_) = opened(i * R + R - 1)
            k_tile[rows] = d_k.astype(q.dtype)
            q_tile[rows] = d_v.astype(q.dtype)
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(k_tile.at[rows], d_k_ref.at[b, slots, g])
            plgpu.copy_smem_to_gmem(q_tile.at[rows], d_v_ref.at[b, slots, g])

        @pl.when(half == 0)
        def _():  # read back every step: the compiler would keep an iota in registers throughout the loop
            slots_row[...] = plgpu.broadcasted_iota(jnp.int32, (BLOCK,), 0, layout=plgpu.Layout.WG_STRIDED((BLOCK,), 1))

        meet()
        for step in range(stages - 1):
            fetch(jnp.int32(step))
        lax.fori_loop(0, turns, turn, None)
        plgpu.wait_smem_to_gmem(0)

    by_query, by_key = plgpu.Layout.WGMMA.reduce(1), plgpu.Layout.WGMMA.reduce(0)
    inputs = (_tile(q.dtype, stages, BLOCK, K),) * 4 + (plgpu.SMEM((stages, BLOCK), jnp.int32),) * 2
    squares, slots_row = (_tile(q.dtype, BLOCK, BLOCK),) * 2, plgpu.SMEM((BLOCK,), jnp.int32)
    ready, met = plgpu.Barrier(num_arrivals=2 * len(inputs), num_barriers=stages), plgpu.Barrier(num_arrivals=2)
    d_q, d_k, d_v = plgpu.kernel(
        program,
        out_type=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (q, k, v)],
        scratch_types=[(*inputs, *squares, slots_row, ready, met)],
        grid=(programs,),
        grid_names=("program",),
        num_threads=2,
        thread_name="half",
        **_options(interpret),
    )(q, k, v, query_ids, key_ids, d_out)
    return d_q, d_k, d_v


def _weights(q, k, query_ids, key_ids, order):
    """Returns the weights before they are normalized, f32 [HALF,N], and what to multiply each row with, f32 [HALF].

    Args:
      q: HALF queries in shared memory [HALF,K].
      k: keys in shared memory [N,K].
      query_ids: [HALF], in shared memory as key_ids [N] is.
      order: the slots of the queries [HALF] and of the keys [N], where a slot sees only itself and those before it.
    """
    shape, layout = (HALF, k.shape[0]), plgpu.Layout.WGMMA
    scores = _matmul(q, k.transpose((1, 0)))
    queries, keys = plgpu.load(query_ids, layout=layout.reduce(1)), plgpu.load(key_ids, layout=layout.reduce(0))
    seen = lax.broadcast_in_dim(queries, shape, [0]) == lax.broadcast_in_dim(keys, shape, [1])
    if order is not None:
        seen &= lax.broadcast_in_dim(order[0], shape, [0]) >= lax.broadcast_in_dim(order[1], shape, [1])
    scores = jnp.where(seen, scores, MASKED)
    scale = math.log2(math.e) / math.sqrt(q.shape[1])  # 2^x is the chip's own exponential
    maxima = jnp.maximum(scores.max(axis=1) * scale, FLOOR)
    weights = jnp.exp2(scores * scale - lax.broadcast_in_dim(maxima, shape, [0]))
    sums = weights.sum(axis=1)
    return weights, jnp.where((sums > 0) & (queries != 0), 1 / sums, 0.0)  # slots of no word read each other until here


def _matmul(a, b):
    """Returns the product f32 [HALF,N] of two matrices in shared memory."""

    def multiply(product):
        plgpu.wgmma(product, a, b)
        return product[...]

    return pl.run_scoped(multiply, plgpu.ACC((a.shape[0], b.shape[1]), jnp.float32))


def _divmod(x, n):
    """Returns the quotient and the remainder of an index: `//` and `%` also handle signs, at a cost."""
    return lax.div(x, jnp.int32(n)), lax.rem(x, jnp.int32(n))


def _tile(dtype, *shape):
    """Returns shared memory in the order that the matrix units read without conflicts."""
    return plgpu.SMEM(shape, dtype, transforms=(plgpu.TilingTransform((8, 64)), plgpu.SwizzleTransform(128)))


def _options(interpret):
    return {
        "compiler_params": plgpu.CompilerParams(approx_math=True),
        "interpret": plgpu.InterpretGPUParams() if interpret else None,
    }
