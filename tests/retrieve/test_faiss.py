"""The product-quantized index against faiss: same codebooks, same codes, products and vectors found."""

import jax
import numpy as np
import pytest

from tokjax.retrieve.product import ProductIndex, build_index, decode, encode, search

faiss = pytest.importorskip("faiss")

N, D, M = 2000, 32, 8


@pytest.fixture(scope="module")
def trained():
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(50, D))
    vectors = (centres[generator.integers(50, size=N)] + 0.3 * generator.normal(size=(N, D))).astype(np.float32)
    theirs = faiss.IndexPQ(D, M, 8, faiss.METRIC_INNER_PRODUCT)
    theirs.train(vectors)
    theirs.add(vectors)
    return vectors, theirs, faiss.vector_to_array(theirs.pq.centroids).reshape(M, 256, D // M)


def test_codes_and_searches_are_those_of_faiss(trained):
    vectors, theirs, codebooks = trained
    codes = encode(codebooks, vectors)
    expected = faiss.vector_to_array(theirs.codes).reshape(N, M)
    assert (np.asarray(codes) == expected).mean() > 0.9999  # distances may tie in float32
    products, ids = search(ProductIndex(codebooks, jax.numpy.asarray(expected)), vectors[:20] + 0.1, 10)
    their_products, their_ids = theirs.search(vectors[:20] + 0.1, 10)
    np.testing.assert_allclose(products, their_products, rtol=1e-4, atol=1e-4)
    same = np.asarray(ids) == their_ids
    ties = np.isclose(their_products[:, 1:], their_products[:, :-1], rtol=1e-5)
    assert same.all() or (ties.any() and same.mean() > 0.9)


def test_clusters_are_as_good(trained):
    """Our own codebooks leave no more error than those of faiss, give or take what the start of k-means does."""
    vectors, theirs, _ = trained
    ours = build_index(vectors, parts=M, key=jax.random.key(0), iterations=25)
    decoded = (decode(ours.codebooks, ours.codes), theirs.reconstruct_n(0, N))
    errors = [np.square(vectors - x).sum() for x in decoded]
    assert errors[0] < 1.1 * errors[1]
