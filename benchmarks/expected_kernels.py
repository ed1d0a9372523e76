"""What the kernels should take on an H100, by counting: nothing here is measured on one.

    python -m benchmarks.expected_kernels        (needs the extra `compile`, on Python 3.12)

`least_ms` is the time in which what an operation has to read and write passes at `BYTES`, or its products at
`PRODUCTS`, whichever is longer. `kernel_ms` counts the products that the kernel really does, and its other arithmetic
at `OTHER`.
`xla_ms` adds to the bytes those of XLA's intermediates, written and read once each: their size is that of the program
compiled for the chip, `temporary_mib`. Starting a kernel, caches and all that does not overlap are in none of them.
"""

import argparse
import os
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks import common

BYTES, PRODUCTS, PRODUCTS_FLOAT32, OTHER = 3.0e12, 800e12, 60e12, 30e12  # a second
B, S, H, K = 8, 8192, 8, 64
PER_SCORE, PER_DISTANCE = 8.0, 4.0  # operations beside products: mask, maximum, power, sum; difference, two choices
Shape = tuple[tuple[int, ...], str]


def operations() -> Iterator[tuple[dict[str, Any], dict[str, float], Callable, list[Shape]]]:
    """Yields (names, counts and the rate of XLA's products, XLA's form, shapes of its arrays)."""
    import jax

    from benchmarks.kernels import full_matrix
    from tokjax.kernels.word_attention.api import word_attention

    def attend(q: jax.Array, k: jax.Array, v: jax.Array, ids: jax.Array) -> jax.Array:
        return word_attention(q, k, v, query_ids=ids, causal=True, implementation="xla")

    def pull(q: jax.Array, k: jax.Array, v: jax.Array, ids: jax.Array, d_out: jax.Array) -> Any:
        return jax.vjp(lambda *x: attend(*x, ids), q, k, v)[1](d_out)

    one: Shape = ((B, S, H, K), "bfloat16")
    arrays = [one, one, one, ((B, S), "int32")]
    size, scores = 2.0 * B * S * H * K, 1.0 * B * S * H * 128
    shape = f"B{B} T{S} H{H} D{K}"
    for name, tensors, products, form, shapes in (
        ("word attention", 4, 2, attend, arrays),
        ("its gradient", 7, 5, pull, [*arrays, one]),
    ):
        flops = 2.0 * products * scores * K
        counts = {"bytes": tensors * size, "flops": flops, "kernel_flops": flops, "other": PER_SCORE * scores}
        yield {"operation": name, "shape": shape}, counts | {"rate": PRODUCTS}, form, shapes
    for N, codes, D, dtype in (
        (65_536, 8192, 64, "bfloat16"),
        (65_536, 8192, 64, "float32"),
        (65_536, 65_536, 8, "bfloat16"),
    ):
        exact = dtype == "float32"
        flops = 2.0 * N * codes * D
        counts = {
            "bytes": (N + codes) * D * (4.0 if exact else 2.0) + 4.0 * N,
            "flops": flops,
            "kernel_flops": 2.0 * N * codes * max(D, 16) * (6 if exact else 1),  # of six pieces, 16 channels at least
            "other": PER_DISTANCE * N * codes,
            "rate": PRODUCTS_FLOAT32 if exact else PRODUCTS,
        }
        names = {"operation": f"nearest code, {dtype}", "shape": f"N{N} K{codes} D{D}"}
        yield names, counts, full_matrix, [((N, D), dtype), ((codes, D), dtype)]


def rows() -> Iterator[dict[str, Any]]:
    import jax
    import jax.numpy as jnp

    from tokjax.core.platform import compiling_for
    from tokjax.sharding.topologies import chips

    where = jax.sharding.SingleDeviceSharding(chips("h100:1")[0])
    for names, count, form, shapes in operations():
        arrays = [jax.ShapeDtypeStruct(size, jnp.dtype(dtype), sharding=where) for size, dtype in shapes]
        with compiling_for("gpu"):
            temporary = jax.jit(form).lower(*arrays).compile().memory_analysis().temp_size_in_bytes
        least = max(count["bytes"] / BYTES, count["flops"] / PRODUCTS)
        kernel = max(count["bytes"] / BYTES, count["kernel_flops"] / PRODUCTS, count["other"] / OTHER)
        xla = max((count["bytes"] + 2 * temporary) / BYTES, count["flops"] / count["rate"])
        yield names | {
            "least_ms": round(1e3 * least, 2),
            "kernel_ms": round(1e3 * kernel, 2),
            "xla_ms": round(1e3 * xla, 2),
            "temporary_mib": round(temporary / 2**20),
            "measured": "not measured",
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("XLA_FLAGS", "--xla_gpu_autotune_level=0")
    common.write("expected_kernels", list(rows()))


if __name__ == "__main__":
    main()
