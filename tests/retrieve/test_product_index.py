"""Product-quantized vectors: codes are the nearest, products those of what the codes stand for, and none is missed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokjax.core.errors import SpecError
from tokjax.data.images.base import load_images
from tokjax.retrieve import product
from tokjax.retrieve.product import build_index, decode, encode, search

KEY = jax.random.key(0)


def vectors(seed=0, count=300, width=12):
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


def by_hand(codebooks, x):
    """Codes and vectors, one part of one vector at a time."""
    parts, _, width = codebooks.shape
    codes = np.zeros((len(x), parts), int)
    for n, m in np.ndindex(codes.shape):
        distances = np.square(codebooks[m].astype(np.float64) - x[n, m * width : (m + 1) * width]).sum(axis=1)
        codes[n, m] = np.argmin(distances)
    return codes, np.concatenate([codebooks[m, codes[:, m]] for m in range(parts)], axis=1)


@pytest.mark.parametrize(("parts", "codes"), [(3, 16), (12, 2), (1, 40)])
def test_codes_are_the_nearest_and_stand_for_their_vectors(parts, codes):
    index = build_index(vectors(), parts=parts, codes=codes, key=KEY)
    expected, decoded = by_hand(np.asarray(index.codebooks), vectors())
    np.testing.assert_array_equal(index.codes, expected)
    np.testing.assert_array_equal(decode(index.codebooks, index.codes), decoded)
    np.testing.assert_array_equal(encode(index.codebooks, decode(index.codebooks, index.codes)), index.codes)
    assert index.codes.dtype == jnp.uint8 and index.nbytes == 300 * parts + 4 * codes * 12


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([1, 5, 47]), st.sampled_from([7, 16, 47, 48]))
def test_a_search_finds_what_a_sort_finds_whatever_its_chunks(seed, k, chunk):
    index = build_index(np.round(vectors(seed, 47, 4)), parts=2, codes=4, key=KEY)  # so few codes that products tie
    queries = vectors(seed + 1, 3, 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(product, "_CHUNK", chunk)
        product._search.clear_cache()
        products, ids = search(index, queries, k)
    exact = np.einsum("qd,nd->qn", queries.astype(np.float64), decode(index.codebooks, index.codes))
    for q in range(3):
        order = np.argsort(-np.round(exact[q], 4), kind="stable")[:k]
        np.testing.assert_allclose(products[q], exact[q][order], atol=1e-4)
        np.testing.assert_array_equal(np.round(exact[q], 4)[ids[q]], np.round(exact[q], 4)[order])
        same = np.asarray(products[q][1:] == products[q][:-1])
        assert (np.diff(ids[q])[same] > 0).all()  # of equal ones, those that stand first
        assert len(set(ids[q].tolist())) == k


def test_handwritten_digits_are_found_by_a_few_bytes():
    """The nearest of 1,500 digits shows the same one for nearly as many queries as with 64 floats each."""
    images = load_images("digits")
    pixels = np.stack([image.pixels.reshape(-1) for image in images]).astype(np.float32)
    labels, units = images.labels, pixels - pixels.mean(axis=0)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    known, asked = units[:1500], units[1500:]
    index = build_index(known, parts=8, codes=64, key=KEY)
    _, found = search(index, asked, 1)
    right = (labels[:1500][np.asarray(found[:, 0])] == labels[1500:]).mean()
    exact = (labels[:1500][np.argmax(asked @ known.T, axis=1)] == labels[1500:]).mean()
    assert exact > 0.93 and right > exact - 0.05
    assert index.codes.nbytes * 32 == known.nbytes


def test_more_codes_than_a_byte_holds():
    index = build_index(vectors(count=400), parts=2, codes=300, key=KEY, iterations=1)
    assert index.codes.dtype == jnp.uint16 and int(index.codes.max()) > 255
    assert search(index, vectors(1, 2), 3)[1].shape == (2, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build_index(vectors(), parts=5, key=KEY), "parts: got 5; must divide the width 12"),
        (lambda: build_index(vectors(), parts=2, codes=0, key=KEY), "codes: got 0; use 1 to 65536"),
        (lambda: build_index(vectors(count=0), parts=2, key=KEY), r"vectors: got the shape \(0, 12\)"),
        (lambda: build_index(vectors(width=0), parts=2, key=KEY), r"vectors: got the shape \(300, 0\)"),
        (lambda: build_index(vectors(), parts=2, key=KEY, iterations=0), "iterations: got 0; use at least 1"),
        (lambda: build_index(vectors()[0], parts=2, key=KEY), r"vectors: got the shape \(12,\)"),
        (
            lambda: search(small(), vectors(width=8), 1),
            r"queries: got the shape \(300, 8\); this index takes \[Q, 12\]",
        ),
        (lambda: search(small(), vectors(), 9), "k: got 9; the index has 8 vectors"),
        (lambda: search(small(), vectors(), 0), "k: got 0; the index has 8 vectors"),
    ],
)
def test_what_does_not_fit_is_an_error(call, message):
    with pytest.raises(SpecError, match=message):
        call()


def small():
    return build_index(vectors(count=8), parts=2, codes=4, key=KEY)
