"""Nearest codes: equal to brute force, ties and all, in memory that does not grow with both sides."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokjax.quantize.search import largest_product, nearest

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
