"""Nearest-code search in bounded memory: the matrix of distances never exists.

Letters: `N` vectors, `K` codes, `D` width.
"""

from types import ModuleType
from typing import Literal

import jax
import jax.numpy as jnp

from tokjax.core import platform
from tokjax.core.errors import SpecError
from tokjax.kernels import dispatch
from tokjax.kernels.nearest_code import pallas_gpu, pallas_tpu
from tokjax.kernels.nearest_code.reference import least_xla
from tokjax.sharding import mesh_axes, over_mesh

Precision = Literal["float32", "bfloat16"]


def nearest(
    x: jax.Array,
    codebook: jax.Array,
    *,
    valid: jax.Array | None = None,
    codes_axis: str | None = None,
    precision: Precision = "float32",
    implementation: str | None = None,
    tile: tuple[int, int] | None = None,
) -> jax.Array:
    """Returns the index of the code nearest to each vector, int32 [N]; the lowest of those equally near.

    Computed as argmin over e of |e|^2 / 2 - x.e, with |e|^2 in float32. In `float32` products are those of float32
    numbers, whatever the platform's default. In `bfloat16` vectors and codes are rounded first: a product x.e is then
    off by at most 2^-7 sum_i |x_i e_i|, and the chosen code is no nearest one only where two are closer than twice
    that. A vector of which a channel is no number gets code 0; a code of which one is may be chosen
    or hide others.

    Args:
      x: [N, D].
      codebook: [K, D].
      valid: bool [K], codes that may be chosen; all by default. Code 0 where none may.
      codes_axis: logical axis that the codes are split over on a mesh; every device has all of them by default.
      precision: of the products.
      implementation: `xla`, in tiles; or `pallas`, a kernel for GPUs of the Hopper generation (on a TPU, where XLA does
        as well by itself, and on a CPU, where it is interpreted, only if asked for). None takes the kernel where it
        compiles.
      tile: rows and codes whose distances exist at once in XLA; chosen by platform by default.

    Raises:
      SpecError: an implementation that is unknown or cannot run here.
    """
    offset = 0.5 * jnp.sum(jnp.square(codebook.astype(jnp.float32)), axis=-1)
    if valid is not None:
        offset = jnp.where(valid, offset, jnp.inf)
    return _least(x, codebook, offset, codes_axis, precision, implementation, tile)


def largest_product(
    x: jax.Array,
    codebook: jax.Array,
    *,
    codes_axis: str | None = None,
    precision: Precision = "float32",
    implementation: str | None = None,
    tile: tuple[int, int] | None = None,
) -> jax.Array:
    """Returns the index of the code of the largest dot product with each vector; otherwise as `nearest`."""
    return _least(x, codebook, jnp.zeros(len(codebook)), codes_axis, precision, implementation, tile)


def _least(
    x: jax.Array,
    codebook: jax.Array,
    offset: jax.Array,
    codes_axis: str | None,
    precision: Precision,
    implementation: str | None,
    tile: tuple[int, int] | None,
) -> jax.Array:
    """Returns argmin over e of offset(e) - x.e, int32 [N]."""
    x, codebook, offset = jax.lax.stop_gradient((x.astype(precision), codebook.astype(precision), offset))
    chosen = _choose(x, codebook, implementation)
    split = mesh_axes(codes_axis, len(codebook)) if codes_axis else ()
    shared = set(split) & set(mesh_axes("batch", len(x)))
    if shared:
        raise SpecError(
            f"codes_axis: {codes_axis!r} splits codes over {', '.join(sorted(shared))}, which splits the vectors too; "
            "use an axis of its own, such as 'vocab', or None."
        )

    def of_part(x: jax.Array, codebook: jax.Array, offset: jax.Array) -> jax.Array:
        if chosen == "xla":
            index, cost = least_xla(x, codebook, offset, tile=tile)
        else:
            index, cost = _kernel_module().least(x, codebook, offset, interpret=platform.target() == "cpu")
        if not split:
            return index
        index += jax.lax.axis_index(split) * len(codebook)
        costs, indices = jax.lax.all_gather((cost, index), split)
        # Parts are in the order of their codes, so that the first of the cheapest parts has the lowest index.
        return jnp.take_along_axis(indices, jnp.argmin(costs, axis=0)[None], axis=0)[0]

    return over_mesh(of_part, (("batch", None), (codes_axis, None), (codes_axis,)), ("batch",))(x, codebook, offset)


def _kernel_module() -> ModuleType:
    return pallas_gpu if platform.target() == "gpu" else pallas_tpu


def _choose(x: jax.Array, codebook: jax.Array, implementation: str | None) -> str:
    if implementation is None and platform.target() == "tpu":
        return "xla"
    # Of few vectors and codes: the kernel is the same for more of them, which may be a whole pod's.
    shapes = tuple(jax.ShapeDtypeStruct((min(len(y), 1024), y.shape[1]), y.dtype) for y in (x, codebook))

    def trial() -> object:
        offset = jax.ShapeDtypeStruct(shapes[1].shape[:1], jnp.float32)
        return jax.jit(_kernel_module().least).lower(*shapes, offset).compile()

    return dispatch.choose(
        "nearest_code",
        implementation,
        unsupported=lambda where: pallas_gpu.unsupported(x.shape, codebook.shape, x.dtype) if where == "gpu" else None,
        trial=trial,
        shapes=tuple((shape.shape, str(shape.dtype)) for shape in shapes),
    )
