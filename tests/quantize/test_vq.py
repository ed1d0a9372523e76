"""Codebooks: averages that are those of the vectors, health that keeps its books, gradients that rotate."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokjax.core.keys import named
from tokjax.kernels.nearest_code.api import nearest
from tokjax.nn.param import materialize
from tokjax.quantize import codebook, gradients, quantizer
from tokjax.quantize.base import code_stats, count_codes

KEY = jax.random.key(0)
D, K = 3, 8


def made(text, width=D):
    spec = quantizer(text, width=width)
    return spec, materialize(spec.declare(), jax.random.key(1)), spec.init_state(jax.random.key(2))


def vectors(count=64, seed=3):
    return jax.random.normal(jax.random.key(seed), (count, D))


def test_averages_are_those_of_the_vectors_that_chose_each_code():
    spec, params, state = made(f"vq:codes={K}:update=ema:decay=0.7")
    start, weights, chosen = state, [], []
    for step in range(4):
        x = vectors(seed=step)
        found = spec.quantize(params, state, x, KEY, train=True)
        np.testing.assert_array_equal(found.codes, nearest(x, state["codebook"]))
        one_hot = jax.nn.one_hot(found.codes, K)
        weights.append(one_hot.sum(axis=0))
        chosen.append(one_hot.T @ x)
        state = found.state
    decays = 0.3 * 0.7 ** np.arange(4)[::-1]
    counts = 0.7**4 * start["counts"] + sum(d * w for d, w in zip(decays, weights, strict=True))
    sums = 0.7**4 * start["sums"] + sum(d * c for d, c in zip(decays, chosen, strict=True))
    np.testing.assert_allclose(state["counts"], counts, rtol=1e-5)
    np.testing.assert_allclose(state["sums"], sums, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state["codebook"], sums / counts[:, None], rtol=1e-3)  # but for Laplace's smoothing
    assert state["steps"] == 4


def test_smoothing_keeps_the_total_and_leaves_no_zero():
    counts = jnp.array([0.0, 5.0, 10.0])
    smooth = codebook.smooth(counts)
    assert smooth.min() > 0
    np.testing.assert_allclose(smooth.sum(), 15.0, rtol=1e-6)
    np.testing.assert_allclose(smooth, counts, atol=1e-4)


def test_sampled_vectors_are_distinct_until_all_are_taken():
    x, mask = jnp.arange(10.0)[:, None], jnp.arange(10) % 2 == 0
    drawn = np.asarray(codebook.sample_vectors(x, mask, 7, KEY))[:, 0]
    assert sorted(drawn[:5]) == [0, 2, 4, 6, 8]
    np.testing.assert_array_equal(drawn[5:], drawn[:2])


def test_every_iteration_of_kmeans_lowers_the_error():
    x, mask = vectors(200), jnp.arange(200) > 20

    def error(iterations):
        means, counts = codebook.kmeans(x, mask, K, KEY, iterations=iterations)
        if iterations:
            assert counts.sum() == mask.sum()
        return float(jnp.sum(jnp.square(x - means[nearest(x, means)]) * mask[:, None]))

    errors = [error(iterations) for iterations in range(6)]
    assert all(after <= before * (1 + 1e-6) for before, after in itertools.pairwise(errors))
    assert errors[-1] < 0.8 * errors[0]


def test_means_of_cosine_clusters_have_unit_length():
    x = gradients.unit(vectors(100))
    means, _ = codebook.kmeans(x, jnp.ones(100, bool), K, KEY, cosine=True)
    np.testing.assert_allclose(jnp.linalg.norm(means, axis=-1), 1.0, rtol=1e-6)


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_the_first_batch_and_no_other_is_clustered(update):
    spec, params, state = made(f"vq:codes={K}:init=kmeans:decay=0.999:update={update}")
    first = spec.quantize(params, state, vectors(), KEY, train=True)
    means, _ = codebook.kmeans(vectors(), jnp.ones(64, bool), K, named(KEY, "kmeans"))
    np.testing.assert_array_equal(first.codes, nearest(vectors(), means))
    np.testing.assert_allclose(
        spec.codebook(params, first.state), means, atol=2e-3
    )  # a thousandth of a step of averages
    second = spec.quantize(params, first.state, 5 + vectors(), KEY, train=True)
    assert jnp.abs(spec.codebook(params, second.state) - means).max() < 0.1


def test_revival_replaces_code_count_and_sum_and_the_code_survives_the_next_step():
    spec, params, state = made(f"vq:codes={K}:update=ema:revival=batch:dead_below=2.0:decay=0.5")
    far = jnp.full((K - 1, D), 1e3)
    state |= {"codebook": jnp.concatenate([jnp.zeros((1, D)), far]), "counts": jnp.ones(K).at[0].set(50.0)}
    state |= {"sums": state["codebook"] * state["counts"][:, None]}
    x = vectors()
    after = spec.quantize(params, state, x, KEY, train=True).state
    revived = np.asarray(after["codebook"][1:])
    assert all((row == np.asarray(x)).all(axis=1).any() for row in revived), "a revived code is a vector of the batch"
    assert len(np.unique(revived, axis=0)) == K - 1
    np.testing.assert_array_equal(after["counts"][1:], 2.0)
    np.testing.assert_allclose(after["sums"][1:], 2.0 * revived, rtol=1e-6)
    # Without their own sums, the next average would put them back where they were.
    later = spec.quantize(params, after, x, KEY, train=True)
    assert jnp.abs(later.state["codebook"]).max() < 10
    assert later.stats["codes_used"][0] > 0.9


def test_splitting_leaves_no_dead_code_and_keeps_the_total():
    book, counts = vectors(K), jnp.array([100.0, 0, 0, 5, 0, 0.05, 1, 0])
    after, new = codebook.split(book, counts, KEY, 0.1)
    assert new.min() >= 0.1
    np.testing.assert_allclose(new.sum(), counts.at[jnp.array([1, 2, 4, 5, 7])].set(0).sum(), rtol=1e-6)
    np.testing.assert_array_equal(after[jnp.array([0, 3, 6])], book[jnp.array([0, 3, 6])])
    copies = np.asarray(after[jnp.array([1, 2, 4, 5, 7])] / book[0])
    # At most a tenth off the code that was split, or off such a copy of it.
    assert (np.abs(copies - 1) < 1.1**2 - 1 + 1e-6).all() and (np.abs(copies - 1) > 0).all()


def test_splitting_ends_where_every_code_is_rare():
    _, counts = codebook.split(vectors(K), jnp.full(K, 0.05).at[0].set(0.15), KEY, 0.1)
    np.testing.assert_allclose(counts.sum(), 0.05 * 7 + 0.15, rtol=1e-6)


def test_anchors_take_over_codes_never_used_and_leave_those_in_use():
    usage = jnp.array([0.5, 0.5, 0, 0, 0, 0, 0, 1e-6])
    x = vectors(20)
    book = vectors(K, seed=8)
    moved, alpha = codebook.anchor(book, usage, x, jnp.arange(20) > 2, 0.99)
    np.testing.assert_allclose(alpha[:2], 0.0, atol=1e-30)
    np.testing.assert_allclose(alpha[2:7], np.exp(-1e-3), rtol=1e-6)
    np.testing.assert_allclose(alpha[7], np.exp(-10 * K * 1e-6 / 0.01 - 1e-3), rtol=1e-5)
    closest = x[3:][nearest(book, x[3:])]
    np.testing.assert_allclose(moved[2:7] - closest[2:7], (book - closest)[2:7] * (1 - alpha[2:7, None]), atol=1e-5)


@pytest.mark.parametrize("revival", ["batch", "split", "anchor"])
def test_codes_that_gradients_train_are_moved_without_touching_the_parameters(revival):
    spec, params, state = made(f"vq:codes={K}:revival={revival}:decay=0.5")
    x = 10 + vectors()
    for step in range(6):
        state = spec.quantize(params, state, x, jax.random.key(step), train=True).state
    assert jnp.abs(spec.codebook(params, state) - params["codebook"]).max() > 0.01
    gradient = jax.grad(lambda p: spec.quantize(p, state, x).loss)(params)["codebook"]
    # The gradient of a code is that of the sum of parameter and offset: twice the mean over vectors and channels.
    book, codes = spec.codebook(params, state), spec.quantize(params, state, x).codes
    expected = -2 * (jax.nn.one_hot(codes, K).T @ (x - book[codes])) / x.size
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


def test_cosine_chooses_the_largest_cosine_and_works_on_unit_vectors():
    spec, params, state = made(f"vq:codes={K}:cosine=True")
    x = 5 * vectors()
    found = spec.quantize(params, state, x)
    cosines = gradients.unit(x) @ gradients.unit(params["codebook"]).T
    np.testing.assert_array_equal(found.codes, jnp.argmax(cosines, axis=-1))
    np.testing.assert_allclose(jnp.linalg.norm(found.vectors, axis=-1), 1.0, rtol=1e-6)


def test_the_loss_pulls_vectors_and_codes_by_their_weights():
    spec, params, state = made(f"vq:codes={K}:commitment=0.5")
    x = vectors()
    error = jnp.mean(jnp.square(x - spec.quantize(params, state, x).vectors))
    np.testing.assert_allclose(spec.quantize(params, state, x).loss, 1.5 * error, rtol=1e-6)
    pull = jax.grad(lambda x: spec.quantize(params, state, x).loss)(x)
    np.testing.assert_allclose(pull, 0.5 * 2 * (x - spec.quantize(params, state, x).vectors) / x.size, atol=1e-7)


def test_straight_through_is_the_code_bit_for_bit_and_passes_the_gradient_on():
    x, q = vectors(), 1e6 + vectors(seed=7)
    value, pull = jax.vjp(gradients.straight_through, x, q)
    np.testing.assert_array_equal(value, q)
    np.testing.assert_array_equal(pull(x)[0], x)
    np.testing.assert_array_equal(pull(x)[1], 0)


def test_rotation_turns_and_scales_the_vector_onto_its_code():
    for seed in range(5):
        x, q = vectors(2, seed)
        np.testing.assert_array_equal(gradients.rotation(x, q), q)
        jacobian = jax.jacobian(gradients.rotation)(x, q)
        scale = jnp.linalg.norm(q) / jnp.linalg.norm(x)
        np.testing.assert_allclose(jacobian @ x, q, atol=1e-5)
        np.testing.assert_allclose(jacobian @ jacobian.T, scale**2 * jnp.eye(D), atol=1e-4)
        np.testing.assert_allclose(jnp.linalg.det(jacobian), scale**3, rtol=1e-3)  # a rotation, no reflection
        np.testing.assert_array_equal(jax.jacobian(gradients.rotation, argnums=1)(x, q), 0)
    np.testing.assert_allclose(jax.jacobian(gradients.rotation)(x, x), jnp.eye(D), atol=1e-6)


def test_statistics_of_many_codes_are_those_of_few():
    codes, mask = jax.random.randint(KEY, (50,), 0, 20), jnp.arange(50) % 3 > 0
    few = code_stats(codes, mask, 20, jnp.zeros(()))
    many = code_stats(codes * 10**8, mask, 2**31 - 1, jnp.zeros(()))
    np.testing.assert_allclose(few["perplexity"][0], many["perplexity"][0], rtol=1e-6)
    np.testing.assert_allclose(few["codes_used"][0] * 20, many["codes_used"][0] * (2**31 - 1), rtol=1e-6)
    counts = count_codes(codes, mask, 20)
    assert counts.sum() == mask.sum() and counts[codes[1]] >= 1
