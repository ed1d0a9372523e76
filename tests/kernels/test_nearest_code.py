"""Nearest codes: equal to brute force, ties and all, in memory that does not grow with both sides."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokjax.core.errors import SpecError
from tokjax.kernels.nearest_code import pallas_gpu, pallas_tpu
from tokjax.kernels.nearest_code.api import largest_product, nearest
from tokjax.kernels.nearest_code.reference import least_xla
from tokjax.quantize.codebook import sum_by_code

small = st.integers(1, 9)


@hypothesis.given(small, small, st.integers(1, 4), st.tuples(small, small), st.randoms(use_true_random=False))
def test_equals_brute_force_with_ties_to_the_lowest(rows, codes, width, tile, random):
    # Small whole numbers: every product is exact, and many codes are equally near.
    draw = lambda count: np.array([[random.randint(-1, 1) for _ in range(width)] for _ in range(count)])  # noqa: E731
    x, codebook = draw(rows), draw(codes)
    distances = np.sum((x[:, None] - codebook) ** 2, axis=-1)
    found = nearest(jnp.asarray(x), jnp.asarray(codebook), tile=tile)
    np.testing.assert_array_equal(found, np.argmin(distances, axis=1))
    np.testing.assert_array_equal(
        largest_product(x, jnp.asarray(codebook), tile=tile), np.argmax(x @ codebook.T, axis=1)
    )


def test_the_chosen_code_is_nearest_in_double_precision():
    x, codebook = (np.asarray(jax.random.normal(jax.random.key(i), (n, 64))) for i, n in enumerate((500, 300)))
    distances = np.sum((x[:, None].astype(np.float64) - codebook) ** 2, axis=-1)
    chosen = np.take_along_axis(distances, np.asarray(nearest(x, codebook))[:, None], axis=1)[:, 0]
    # Sums of 64 products of about unit size, in float32: a code may be preferred that is farther by a few roundings.
    assert (chosen - distances.min(axis=1)).max() < 64 * 2**-23 * 64


def test_codes_that_may_not_be_chosen_are_not():
    codebook = jnp.arange(5.0)[:, None]
    valid = jnp.array([False, True, False, False, True])
    np.testing.assert_array_equal(nearest(jnp.array([[0.0], [2.0], [3.0]]), codebook, valid=valid), [1, 1, 4])
    assert nearest(jnp.ones((2, 1)), codebook, valid=jnp.zeros(5, bool)).tolist() == [0, 0]


def test_vectors_that_are_no_numbers_get_code_0():
    x = jnp.array([[jnp.nan, 0.0], [1.0, 1.0], [jnp.inf, -jnp.inf]])
    assert nearest(x, jnp.array([[5.0, 5.0], [1.0, 1.0]])).tolist() == [0, 1, 0]


@pytest.mark.parametrize("function", [nearest, largest_product])
def test_memory_is_that_of_tiles(function):
    N = K = 8192
    compiled = jax.jit(function).lower(jnp.zeros((N, 8)), jnp.zeros((K, 8))).compile()
    # All distances would be 256 MiB; a tile is 4 MiB, and there are its products, its mask and its places.
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * 4 * 2**20


def interpreted(kernel):
    """The kernel as `least_xla` is called, run step by step on a CPU."""
    return lambda *arrays: kernel.least(*arrays, interpret=True)


mosaic_gpu = pytest.mark.skipif(
    jax.version.__version_info__ < (0, 11), reason="kernels for GPUs need jax 0.11 or newer, which needs Python 3.12"
)
KERNELS = [
    pytest.param(interpreted(pallas_tpu), id="tpu"),
    pytest.param(interpreted(pallas_gpu), id="gpu", marks=mosaic_gpu),
]


@pytest.mark.parametrize("least", KERNELS)
@pytest.mark.parametrize(("rows", "codes", "width"), [(70, 130, 8), (130, 600, 20), (5, 3, 64)])
def test_kernels_find_the_lowest_of_the_cheapest(least, rows, codes, width):
    # Small whole numbers, exact in any precision, with every code twice and some that may not be chosen.
    rng = np.random.default_rng(0)
    x, half = (rng.integers(-3, 4, (n, width)).astype(np.float32) for n in (rows, -(-codes // 2)))
    codebook = np.concatenate([half, half])[:codes]
    offset = np.where(rng.random(codes) < 0.2, np.inf, 0.5 * np.sum(codebook**2, axis=1)).astype(np.float32)
    cost = offset - x @ codebook.T
    for dtype in ("float32", "bfloat16"):
        index, least_cost = least(jnp.asarray(x, dtype), jnp.asarray(codebook, dtype), jnp.asarray(offset))
        np.testing.assert_array_equal(index, np.argmin(cost, axis=1))
        np.testing.assert_array_equal(least_cost, np.min(cost, axis=1))


@pytest.mark.parametrize("least", KERNELS)
def test_kernels_are_as_exact_as_xla(least):
    x, codebook = (jax.random.normal(jax.random.key(i), (n, 64)) for i, n in enumerate((100, 200)))
    cost = -np.asarray(x, np.float64) @ np.asarray(codebook, np.float64).T
    for function in (least, least_xla):
        index, least_cost = function(x, codebook, jnp.zeros(200))
        np.testing.assert_allclose(least_cost, cost.min(axis=1), atol=64 * 2**-23)  # 64 products of about unit size
        assert (np.take_along_axis(cost, np.asarray(index)[:, None], 1)[:, 0] - cost.min(axis=1)).max() < 64 * 2**-23


@pytest.mark.parametrize("implementation", ["xla", "pallas"])
def test_in_bfloat16_the_chosen_code_is_within_the_stated_bound(implementation):
    x, codebook = (np.asarray(jax.random.normal(jax.random.key(i), (n, 16))) for i, n in enumerate((300, 500)))
    found = np.asarray(nearest(x, jnp.asarray(codebook), precision="bfloat16", implementation=implementation))
    cost = 0.5 * np.sum(codebook.astype(np.float64) ** 2, axis=1) - x.astype(np.float64) @ codebook.T
    best = cost.argmin(axis=1)
    off = 2**-7 * np.einsum("nd,kd->nk", np.abs(x), np.abs(codebook))
    rows = np.arange(len(x))
    # The code chosen may seem nearer by its own error, and the nearest one farther by its.
    assert (cost[rows, found] - cost[rows, best] <= off[rows, found] + off[rows, best]).all()
    assert (found != best).any()  # rounding is felt, or this test would say nothing


def test_sums_by_code_are_the_same_in_both_forms_whatever_masked_vectors_hold(monkeypatch):
    z = jax.random.normal(jax.random.key(0), (50, 3)).at[7].set(jnp.nan)
    codes = jax.random.randint(jax.random.key(1), (50,), 0, 6).at[7].set(-1)
    mask = (jnp.arange(50) % 5 > 0) & (jnp.arange(50) != 7)
    added = sum_by_code(z, codes, mask, 6)
    monkeypatch.setattr("tokjax.core.platform.target", lambda: "tpu")
    np.testing.assert_allclose(sum_by_code(z, codes, mask, 6), added, atol=1e-5)


def test_an_axis_of_codes_that_splits_the_vectors_too_is_refused():
    mesh = jax.sharding.AbstractMesh((2, 2), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    x, codebook = jnp.ones((16, 8)), jnp.ones((32, 8))
    with (
        jax.sharding.use_abstract_mesh(mesh),
        pytest.raises(SpecError, match="'embed' splits codes over fsdp, which splits"),
    ):
        jax.eval_shape(lambda x, codebook: nearest(x, codebook, codes_axis="embed"), x, codebook)
    with pytest.raises(SpecError, match="no sharding rule for the axis 'vocabulary'"):
        nearest(x, codebook, codes_axis="vocabulary")
