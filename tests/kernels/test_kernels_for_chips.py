"""Kernels compiled for chips that are not here: they compile, take no memory of their own, and spill no register."""

import functools
import re

import jax
import jax.numpy as jnp
import pytest

from tokjax.core.errors import SpecError
from tokjax.core.platform import compiling_for
from tokjax.kernels.nearest_code import pallas_gpu, pallas_tpu
from tokjax.kernels.nearest_code.api import nearest
from tokjax.kernels.word_attention.api import word_attention
from tokjax.quantize.codebook import sum_by_code
from tokjax.sharding import MeshSpec, make_mesh, sharding_of, use_mesh
from tokjax.sharding.topologies import chips, why_not

TPUS = ["v5e:2x2", "v6e:2x2", "v5p:2x2x1"]
GPU = "h100:4"
ALL = [*TPUS, GPU]
B, S, H = 8, 8192, 8  # of word attention; K is 64 unless said
MIB = 2**20


@pytest.fixture
def devices(request, compiled):
    """The devices of a topology, or a skip that says why there are none."""
    reason = why_not(request.param)
    if reason is None and request.param == GPU and jax.version.__version_info__ < (0, 11):
        reason = f"{GPU}: kernels for GPUs need jax 0.11 or newer."
    if reason:
        compiled(f"not compiled for {reason}")
        pytest.skip(reason)
    return chips(request.param)


def platform_of(devices):
    return "gpu" if "NVIDIA" in devices[0].device_kind else "tpu"


def build(devices, function, *shapes):
    """Compiles `function` for the first of `devices`, for arrays of (shape, dtype)."""
    where = jax.sharding.SingleDeviceSharding(devices[0])
    arrays = [jax.ShapeDtypeStruct(shape, dtype, sharding=where) for shape, dtype in shapes]
    with compiling_for(platform_of(devices)):
        return jax.jit(function).lower(*arrays).compile()


def mebibytes(built):
    return built.memory_analysis().temp_size_in_bytes / MIB


def attention_of(groups, width, causal, implementation="pallas"):
    """Word attention of arrays as projections write them, [B, S, heads K], and its gradient."""

    def forward(q, k, v, ids):
        q, k, v = (x.reshape(B, S, -1, width) for x in (q, k, v))
        out = word_attention(q, k, v, query_ids=ids, causal=causal, implementation=implementation)
        return out.reshape(B, S, -1)

    def backward(q, k, v, ids, d_out):
        return jax.vjp(lambda *x: forward(*x, ids), q, k, v)[1](d_out)

    shapes = [((B, S, heads * width), jnp.bfloat16) for heads in (H, groups, groups)]
    return forward, backward, (*shapes, ((B, S), jnp.int32), shapes[0])


@pytest.mark.slow
@pytest.mark.parametrize("devices", ALL, indirect=True)
@pytest.mark.parametrize(("groups", "width", "causal"), [(8, 64, False), (8, 64, True), (2, 128, True)])
def test_word_attention_takes_no_memory_but_its_arrays(devices, groups, width, causal, compiled, spills):
    forward, backward, shapes = attention_of(groups, width, causal)
    built = [build(devices, forward, *shapes[:-1]), build(devices, backward, *shapes)]
    sizes = [mebibytes(one) for one in built]
    assert max(sizes) < 1, sizes  # the scores of one head alone are 256 MiB
    assert spills() == ([0, 0] if platform_of(devices) == "gpu" else [])
    compiled(
        f"word attention, K={width}{', causal' if causal else ''}: {devices[0].device_kind}, forward and backward, "
        f"{max(sizes):.2f} MiB of temporary memory{', no spills' if platform_of(devices) == 'gpu' else ''}"
    )


@pytest.mark.slow
@pytest.mark.parametrize("devices", [TPUS[0], GPU], indirect=True)
def test_xla_takes_hundreds_of_mebibytes_for_it(devices, compiled):
    forward, _, shapes = attention_of(8, 64, True, "xla")
    size = mebibytes(build(devices, forward, *shapes[:-1]))
    assert size > 256
    compiled(f"word attention in XLA: {devices[0].device_kind}, {size:.0f} MiB of temporary memory")


@pytest.mark.slow
@pytest.mark.parametrize("devices", ALL, indirect=True)
@pytest.mark.parametrize(
    ("codes", "width", "precision"),
    [(8192, 64, "bfloat16"), (8192, 64, "float32"), (65_536, 8, "bfloat16"), (1024, 128, "float32")],
)
def test_nearest_codes_take_no_memory_but_pieces_of_vectors(devices, codes, width, precision, compiled, spills):
    N = 65_536
    find = functools.partial(nearest, precision=precision)
    size = mebibytes(build(devices, find, ((N, width), jnp.dtype(precision)), ((codes, width), jnp.dtype(precision))))
    # Vectors and codes in three pieces of 16 bits, of at least 16 channels: all distances would be gigabytes.
    assert size < 1 + 3 * 2 * (N + codes) * max(width, 16) / MIB
    assert spills() == ([0] if platform_of(devices) == "gpu" else [])
    form = "kernel, no spills" if platform_of(devices) == "gpu" else "XLA"
    compiled(f"nearest of {codes} codes, D={width}, {precision}: {devices[0].device_kind}, {form}, {size:.1f} MiB")


@pytest.mark.slow
@pytest.mark.parametrize("devices", TPUS, indirect=True)
def test_the_twin_for_tpus_compiles(devices, compiled):
    for dtype in (jnp.float32, jnp.bfloat16):
        shapes = ((65_536, 64), dtype), ((8192, 64), dtype), ((8192,), jnp.float32)
        # Where chips keep narrow rows close together, a copy of each array in rows of 128 lanes; distances are 2 GiB.
        assert mebibytes(build(devices, pallas_tpu.least, *shapes)) < 1 + (65_536 + 8192) * 128 * 4 / MIB
    compiled(f"nearest code, twin of XLA's: {devices[0].device_kind}")


@pytest.mark.slow
@pytest.mark.parametrize("devices", [TPUS[0], GPU], indirect=True)
def test_sums_by_code_hold_no_one_hot_matrix(devices):
    N, K = 65_536, 8192
    shapes = ((N, 64), jnp.float32), ((N,), jnp.int32), ((N,), jnp.bool_)
    size = mebibytes(build(devices, lambda z, codes, mask: sum_by_code(z, codes, mask, K), *shapes))
    assert size < 4 * N * 64 / MIB * 2.1  # the one-hot matrix would be 2 GiB; masked vectors and padding are two copies


@pytest.mark.slow
@pytest.mark.parametrize("devices", [TPUS[0], GPU], indirect=True)
def test_on_a_mesh_each_device_does_its_own_part(devices, compiled):
    """A kernel that is not wrapped gathers its inputs: TPUs refuse it, GPUs do it silently."""
    mesh = make_mesh(MeshSpec(data=2, tensor=2), devices)
    heads, ids = ("batch", "length", "kv_heads", None), ("batch", "length")
    with compiling_for(platform_of(devices)), use_mesh(mesh):
        arrays = [
            jax.ShapeDtypeStruct(shape, dtype, sharding=sharding_of(axes, shape, mesh, name="array"))
            for shape, dtype, axes in [((B, S, H, 64), jnp.bfloat16, heads)] * 3 + [((B, S), jnp.int32, ids)]
        ]
        attend = lambda q, k, v, ids: word_attention(q, k, v, query_ids=ids, causal=True, implementation="pallas")  # noqa: E731
        built = jax.jit(attend).lower(*arrays).compile()
        x = jax.ShapeDtypeStruct(
            (65_536, 64), jnp.bfloat16, sharding=sharding_of(("batch", None), (65_536, 64), mesh, name="x")
        )
        codebook = jax.ShapeDtypeStruct(
            (8192, 64), jnp.bfloat16, sharding=sharding_of(("vocab", None), (8192, 64), mesh, name="c")
        )
        found = (
            jax.jit(functools.partial(nearest, codes_axis="vocab", precision="bfloat16")).lower(x, codebook).compile()
        )
    assert built.output_shardings.spec == sharding_of(heads, (B, S, H, 64), mesh, name="out").spec
    assert "all-gather" not in built.as_text()
    assert found.output_shardings.spec == sharding_of(("batch",), (65_536,), mesh, name="out").spec
    gathered = re.findall(r"= \(?(\w+\[[\d,]*\])[^=]* all-gather(?:-start)?\(", found.as_text())
    assert not [shape for shape in gathered if shape.endswith(",64]")], gathered
    compiled(f"both on a mesh of 2 x 2: {devices[0].device_kind}, each device its own part")


@pytest.fixture
def spills(capfd, monkeypatch):
    """Returns the bytes that each GPU kernel compiled so far in this test spills to memory."""
    monkeypatch.setenv("MOSAIC_GPU_DUMP_PTXAS", "1")  # the compiler then says so, and only where it compiles anew
    return lambda: [int(stores) for stores in re.findall(r"(\d+) bytes spill stores", capfd.readouterr().out)]


def test_what_cannot_be_compiled_for_is_named():
    with pytest.raises(SpecError, match="topology: got 'v7:2x2'; use a chip of v5e, v5p, v6e, h100 and a shape"):
        chips("v7:2x2")
    for name, example in (("v5e", "v5e:4x4"), ("v5p:4x4", "v5p:4x4x4"), ("h100:two", "h100:8")):
        with pytest.raises(
            SpecError, match=f"topology: got '{name}'; give {name[:4].rstrip(':')} a shape as in '{example}'"
        ):
            chips(name)


@pytest.mark.parametrize("name", ["v5e:2x2", "h100:1"])
def test_a_compiler_that_is_not_installed_is_named(name, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    with pytest.raises(
        SpecError, match=f"{name}: the .PU compiler is not installed; pip install 'tokjax\\[compile\\]'"
    ):
        chips(name)


def test_shapes_that_the_gpu_kernel_cannot_take_are_named():
    assert "too wide for shared memory" in pallas_gpu.unsupported((10, 4096), (10, 4096), "float32")
    assert "not float16" in pallas_gpu.unsupported((10, 64), (10, 64), "float16")
    assert "no empty arrays" in pallas_gpu.unsupported((0, 64), (10, 64), "float32")
