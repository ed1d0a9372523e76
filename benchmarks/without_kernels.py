"""Loops that got no kernel, compiled for chips that are not here: what XLA needs of memory beyond their arrays.

    python -m benchmarks.without_kernels        (needs the extra `compile`, on Python 3.12)

`array_mib` is what goes in and out, `temporary_mib` what XLA keeps besides, `naive_mib` what the intermediate that one
would fear takes if it existed.
"""

import argparse
import os
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks import common

CHIPS = {"v5e:2x2": "tpu", "h100:1": "gpu"}
Shape = tuple[tuple[int, ...], str]


def loops() -> Iterator[tuple[str, str, float, Callable, list[Shape]]]:
    """Yields (loop, shape, bytes of the intermediate to fear, function, shapes of its arrays)."""
    import jax
    import jax.numpy as jnp

    from tokjax.core.types import Batch
    from tokjax.embed.lexinvariant import draw
    from tokjax.nn.attention import masked_attention
    from tokjax.objectives.chunked import score_in_chunks
    from tokjax.objectives.language import score_logits

    queries, slots, heads, width = 81, 8192, 32, 128
    cache: Shape = ((1, slots, heads, width), "bfloat16")
    yield (
        "tree attention", f"{queries} queries, {slots} slots, {heads} heads of {width}", 4.0 * queries * slots * heads,
        lambda q, k, v, mask: masked_attention(q, k, v, mask=mask),
        [((1, queries, heads, width), "bfloat16"), cache, cache, ((1, queries, slots), "bool")],
    )  # fmt: skip

    rows, length, D, V = 64, 2048, 512, 32_768

    def drawn(ids: jax.Array) -> jax.Array:
        keys = jax.random.split(jax.random.key(0), rows)
        return jax.vmap(lambda key, row: draw(key, row, D))(keys, ids)

    ids: Shape = ((rows, length), "int32")
    yield "drawn embedding", f"{rows} x {length} ids, width {D}", 4.0 * rows * V * D, drawn, [ids]

    tokens, D, V = 16_384, 1024, 65_536

    def loss(hidden: jax.Array, table: jax.Array, targets: jax.Array, chunk: int | None) -> jax.Array:
        ones = jnp.ones_like(targets)
        batch = Batch(
            ids=targets,
            targets=targets,
            loss_mask=ones.astype(jnp.float32),
            segment_ids=ones,
            positions=ones,
            units=ones,
        )
        if chunk is None:
            return jnp.sum(score_logits(hidden @ table.T, batch).nll)
        return jnp.sum(score_in_chunks(hidden, batch, table.__getitem__, V, chunk).nll)

    arrays: list[Shape] = [((8, tokens // 8, D), "bfloat16"), ((V, D), "bfloat16"), ((8, tokens // 8), "int32")]
    for chunk in (None, 4096):
        name = "cross entropy, gradient" + (f", {chunk} ids at a time" if chunk else "")
        gradient = jax.grad(lambda h, t, y, chunk=chunk: loss(h, t, y, chunk), argnums=(0, 1))
        yield name, f"{tokens} targets of {V}, width {D}", 4.0 * tokens * V, gradient, arrays

    def sinkhorn(scores: jax.Array) -> jax.Array:
        def step(_: int, logs: jax.Array) -> jax.Array:
            logs = logs - jax.nn.logsumexp(logs, axis=0, keepdims=True)
            return logs - jax.nn.logsumexp(logs, axis=1, keepdims=True)

        return jax.lax.fori_loop(0, 50, step, scores)

    yield "Sinkhorn, 50 steps", "4096 x 1024", 4.0 * 4096 * 1024, sinkhorn, [((4096, 1024), "float32")]

    def weights_only(x: jax.Array, codes: jax.Array, scale: jax.Array) -> jax.Array:
        return x @ (codes.astype(jnp.bfloat16) * scale)

    shapes: list[Shape] = [((4096, 4096), "bfloat16"), ((4096, 4096), "int8"), ((1, 4096), "bfloat16")]
    yield "int8 weights times activations", "4096 x 4096 x 4096", 2.0 * 4096**2, weights_only, shapes


def rows() -> Iterator[dict[str, Any]]:
    import jax
    import jax.numpy as jnp

    from tokjax.core.platform import compiling_for
    from tokjax.sharding.topologies import chips

    for topology, platform in CHIPS.items():
        where = jax.sharding.SingleDeviceSharding(chips(topology)[0])
        for loop, shape, feared, function, shapes in loops():
            arrays = [jax.ShapeDtypeStruct(size, jnp.dtype(dtype), sharding=where) for size, dtype in shapes]
            with compiling_for(platform):
                memory = jax.jit(function).lower(*arrays).compile().memory_analysis()
            yield {
                "loop": loop,
                "shape": shape,
                "chip": topology.partition(":")[0],
                "array_mib": round((memory.argument_size_in_bytes + memory.output_size_in_bytes) / 2**20, 1),
                "temporary_mib": round(memory.temp_size_in_bytes / 2**20, 1),
                "naive_mib": round(feared / 2**20, 1),
            }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("XLA_FLAGS", "--xla_gpu_autotune_level=0")
    common.write("without_kernels", list(rows()))


if __name__ == "__main__":
    main()
