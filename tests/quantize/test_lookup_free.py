"""Quantizers without nearest codes, and those made of others: bijections, exact entropies, exact gradients."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokjax.nn.param import materialize
from tokjax.quantize import NO_CODE, quantizer
from tokjax.quantize.attention import codebook_attention, mean_attention
from tokjax.quantize.base import entropy
from tokjax.quantize.binary import bit_entropy, code_distribution
from tokjax.quantize.multiscale import cubic_matrix, pool_matrix, resize

KEY = jax.random.key(0)


class Compiled:
    """A quantizer whose two functions are compiled whole, which takes less time than all their parts."""

    def __init__(self, spec):
        self.spec = spec
        self.quantize = jax.jit(spec.quantize, static_argnames="train")
        self.dequantize = jax.jit(spec.dequantize)

    def __getattr__(self, name):
        return getattr(self.spec, name)


def made(text, width):
    spec = quantizer(text, width=width)
    params, state = jax.jit(lambda key: (materialize(spec.declare(), key), spec.init_state(key)))(jax.random.key(1))
    return Compiled(spec), params, state


@pytest.mark.parametrize("levels", [(8, 8, 8, 5, 5, 5), (8, 5, 5, 5), (2, 3, 4)])
def test_fsq_has_a_vector_for_every_code_and_a_code_for_every_vector(levels):
    spec = quantizer({"name": "fsq", "levels": levels}, width=len(levels))
    codes = jnp.arange(np.prod(levels))
    vectors = spec.dequantize({}, {}, codes)
    assert len(np.unique(np.asarray(vectors), axis=0)) == len(codes)
    basis = np.cumprod([1, *levels[:-1]])
    np.testing.assert_array_equal(jnp.sum(spec.round(vectors) * basis, axis=-1), codes)  # rounding is idempotent
    assert jnp.abs(vectors).max() <= 1


def test_fsq_reaches_every_level_and_none_beyond():
    levels = (8, 5, 4)
    spec = quantizer({"name": "fsq", "levels": levels}, width=3)
    x = jnp.linspace(-30, 30, 20_001)[:, None] * jnp.ones(3)
    numbers = np.asarray(spec.round(spec.prepare(x)))
    for channel, L in enumerate(levels):
        np.testing.assert_array_equal(np.unique(numbers[:, channel]), np.arange(L))
        assert (np.diff(numbers[:, channel]) >= 0).all()


def test_fsq_noise_is_of_whole_samples_and_of_the_share_asked_for():
    spec, params, state = made("fsq:levels=5,5:skip_rounding=0.5:corrupt=0.25", 2)
    x = jax.random.normal(KEY, (200, 10, 2))
    found = spec.quantize(params, state, x, KEY, train=True)
    rounded = jnp.all(found.vectors == spec.dequantize(params, state, found.codes), axis=-1)
    assert set(rounded.sum(axis=1).tolist()) == {0, 10}
    clean = spec.quantize(params, state, x).codes
    # A drawn code is the right one once in 25 times. Three standard deviations of 2000 draws are 0.03.
    assert abs(jnp.mean(found.codes != clean) - 0.25 * 24 / 25) < 0.03
    assert abs(jnp.mean(rounded[:, 0]) - 0.5) < 0.11


def all_signs(bits):
    return np.array(list(itertools.product([-1, 1], repeat=bits)))


@pytest.mark.parametrize("name", ["lfq", "bsq"])
def test_entropies_are_those_of_the_softmax_over_all_codes(name):
    bits, N, heat = 6, 30, 3.0
    spec, params, state = made(f"{name}:inverse_temperature={heat}", bits)
    x = jax.random.normal(KEY, (N, bits))
    z = x / jnp.linalg.norm(x, axis=-1, keepdims=True) if name == "bsq" else x
    codes = all_signs(bits) / (np.sqrt(bits) if name == "bsq" else 1)
    p = jax.nn.softmax(2 * heat * z @ codes.T, axis=-1)
    stats = spec.quantize(params, state, x, KEY, train=True).stats
    np.testing.assert_allclose(stats["code_entropy"][0], jnp.mean(entropy(p)), rtol=1e-5)
    np.testing.assert_allclose(stats["batch_entropy"][0], entropy(jnp.mean(p, axis=0)), rtol=1e-5)
    np.testing.assert_array_equal(spec.quantize(params, state, x).codes, jnp.argmax(p, axis=-1))
    np.testing.assert_allclose(spec.dequantize(params, state, jnp.arange(64)), codes, rtol=1e-6)


def test_a_bound_is_called_one_and_is_one():
    bits, x = 8, jax.random.normal(KEY, (40, 8)) * jnp.sign(jax.random.normal(KEY, (40, 1)))
    values = []
    for group in (8, 4, 1):
        spec, params, state = made(f"lfq:group_bits={group}:inverse_temperature=1", bits)
        stats = spec.quantize(params, state, x, KEY, train=True).stats
        name = "batch_entropy" if group == 8 else "batch_entropy_bound"
        assert {"batch_entropy", "batch_entropy_bound"} & stats.keys() == {name}
        values.append(float(stats[name][0]))
    assert values[0] < values[1] < values[2]


def test_the_mean_distribution_over_codes_counts_only_what_exists():
    logits, mask = jax.random.normal(KEY, (10, 3)), jnp.arange(10) < 7
    p = jax.nn.sigmoid(logits)
    expected = [jnp.prod(jnp.where(bits > 0, p, 1 - p), axis=-1)[:7].mean() for bits in all_signs(3)]
    np.testing.assert_allclose(code_distribution(logits, mask), jnp.stack(expected), rtol=1e-5)
    np.testing.assert_allclose(bit_entropy(jnp.zeros(())), np.log(2), rtol=1e-6)


def dense_ibq(codebook, z, weight, temperature):
    """Index backpropagation as it is written down, with all N x K matrices."""
    logits = z @ codebook.T
    soft = jax.nn.softmax(logits)
    hard = jax.nn.one_hot(jnp.argmax(logits, axis=-1), len(codebook))
    index = hard - jax.lax.stop_gradient(soft) + soft
    vectors = index @ codebook
    chosen = hard @ codebook
    p = jax.nn.softmax(logits / temperature)
    loss = jnp.mean((vectors - z) ** 2) + jnp.mean((jax.lax.stop_gradient(chosen) - z) ** 2)
    loss = loss + 0.25 * jnp.mean((chosen - jax.lax.stop_gradient(z)) ** 2)
    return vectors, loss + weight * (jnp.mean(entropy(p)) - entropy(jnp.mean(p, axis=0)))


def test_index_backpropagation_as_attention_has_the_values_and_gradients_of_the_matrices():
    spec, _, state = made("ibq:codes=50:temperature=0.5:entropy_weight=0.3", 4)
    codebook, z, pull = (jax.random.normal(jax.random.key(i), (n, 4)) for i, n in enumerate((50, 33, 33)))

    def ours(codebook, z):
        found = spec.quantize({"codebook": codebook}, state, z, KEY, train=True)
        return jnp.sum(found.vectors * pull) + found.loss

    def dense(codebook, z):
        vectors, loss = dense_ibq(codebook, z, 0.3, 0.5)
        return jnp.sum(vectors * pull) + loss

    value, found = jax.value_and_grad(ours, argnums=(0, 1))(codebook, z)
    expected, wanted = jax.value_and_grad(dense, argnums=(0, 1))(codebook, z)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, wanted)


def test_attention_over_many_tiles_is_attention(monkeypatch):
    monkeypatch.setattr("tokjax.quantize.attention._TILE", 64)
    monkeypatch.setattr("tokjax.quantize.attention._sizes", lambda z, keys: (5, 7))
    z, keys, values, pull = (jax.random.normal(jax.random.key(i), (n, 4)) for i, n in enumerate((13, 24, 24, 13)))

    def tiled(z, keys, values):
        out, normaliser = codebook_attention(z, keys, values, 0.7)
        mean = mean_attention(z, keys, normaliser, jnp.arange(13) < 9, 0.7)
        return jnp.sum(out * pull) + jnp.sum(jnp.sin(normaliser)) + entropy(mean)

    def dense(z, keys, values):
        p = jax.nn.softmax(0.7 * z @ keys.T)
        normaliser = jax.nn.logsumexp(0.7 * z @ keys.T, axis=-1)
        return jnp.sum(p @ values * pull) + jnp.sum(jnp.sin(normaliser)) + entropy(jnp.mean(p[:9], axis=0))

    found, expected = (jax.value_and_grad(f, argnums=(0, 1, 2))(z, keys, values) for f in (tiled, dense))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)


def test_attention_to_a_large_codebook_has_no_matrix_of_scores():
    z, codebook = jax.ShapeDtypeStruct((4096, 16), jnp.float32), jax.ShapeDtypeStruct((32768, 16), jnp.float32)
    spec = quantizer("ibq:codes=32768", width=16)

    def loss(codebook, z):
        found = spec.quantize({"codebook": codebook}, {}, z, KEY, train=True)
        return jnp.sum(found.vectors) + found.loss

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(codebook, z).compile()
    # The scores alone would be 512 MiB.
    assert compiled.memory_analysis().temp_size_in_bytes < 150 * 2**20


def test_gumbel_draws_codes_as_often_as_the_softmax_says_and_cools():
    spec, params, state = made("gumbel:codes=5:cooling=0.5:coolest=0.2", 3)
    x = jnp.broadcast_to(jax.random.normal(KEY, (3,)), (20_000, 3))
    found = spec.quantize(params, state, x, KEY, train=True)
    share = jnp.bincount(found.codes, length=5) / len(x)
    expected = jax.nn.softmax(x[0] @ params["scores"])
    np.testing.assert_allclose(share, expected, atol=4 * np.sqrt(0.25 / len(x)))  # four standard deviations
    assert found.state["steps"] == 1
    assert (spec.quantize(params, state, x[:2]).codes == jnp.argmax(expected)).all()


def test_simvq_trains_the_matrix_and_never_the_vectors():
    spec, params, state = made("simvq:codes=16", 4)
    x = jax.random.normal(KEY, (50, 4))
    found = spec.quantize(params, state, x, KEY, train=True)
    np.testing.assert_array_equal(found.state["fixed"], state["fixed"])
    gradient = jax.grad(lambda p, s: spec.quantize(p, s, x).loss, argnums=(0, 1))(params, state)
    assert jnp.abs(gradient[0]["matrix"]).min() > 0
    assert not gradient[1]["fixed"].any()


def test_labels_of_random_projections_ignore_scale_and_shift_and_pass_no_gradient():
    spec, params, state = made("random_projection:codes=32:projected=3", 8)
    x = jax.random.normal(KEY, (100, 8))
    codes = spec.quantize(params, state, x).codes
    # The variance has 1e-5 added, so the scale is not ignored to the last bit.
    assert jnp.mean(codes == spec.quantize(params, state, 3 * x + 7).codes) > 0.97
    assert not jax.grad(lambda x: jnp.sum(spec.quantize(params, state, x).vectors))(x).any()
    assert spec.quantize(params, state, x).vectors.shape == (100, 3)


@pytest.mark.parametrize(
    ("base", "better"), [("fsq:levels=5,5,5", 4.9), ("lfq", 1.5), ("fsq:levels=8,8,8", 7.8), ("fsq:levels=2,3,4", 2.0)]
)
def test_every_level_of_fixed_range_is_finer(base, better):
    errors = []
    for depth in (1, 2, 3):
        spec, params, state = made(f"residual:depth={depth}/{base}", 3)
        x = 0.5 * jax.random.normal(KEY, (500, 3))
        z = spec.prepare(x)
        errors.append(float(jnp.sqrt(jnp.mean((z - spec.quantize(params, state, x).vectors) ** 2))))
    # A level of fixed range cuts each cell of the one before into as many parts as it has codes.
    assert errors[1] < errors[0] / better and errors[2] < errors[1] / better


def test_first_codes_are_codes_and_the_gradient_passes_once():
    spec, params, state = made("residual:depth=3:dropout=1.0/vq:codes=16:update=ema:init=kmeans", 4)
    x = jax.random.normal(KEY, (60, 5, 4))
    trained = spec.quantize(params, state, x, KEY, train=True)
    kept = jnp.sum(trained.codes != NO_CODE, axis=-1)
    assert (kept == kept[:, :1]).all(), "a sample keeps as many codes of every vector"
    assert set(kept[:, 0].tolist()) == {1, 2, 3}
    state = trained.state
    codes = spec.quantize(params, state, x).codes
    sums = [spec.dequantize(params, state, codes.at[..., k:].set(NO_CODE)) for k in range(4)]
    assert not sums[0].any()
    level = jax.tree.map(lambda leaf: leaf[1], state)
    np.testing.assert_allclose(sums[2] - sums[1], spec.level.dequantize({}, level, codes[..., 1]), atol=1e-6)
    errors = [float(jnp.mean((x - s) ** 2)) for s in sums]
    assert errors == sorted(errors, reverse=True)
    jacobian = jax.jacobian(lambda v: spec.quantize(params, state, v).vectors)(x[0, 0])
    np.testing.assert_allclose(jacobian, np.eye(4), atol=1e-6)


def test_groups_do_not_see_each_other():
    spec, params, state = made("grouped:groups=2/vq:codes=16", 6)
    x = jax.random.normal(KEY, (50, 6))
    codes = spec.quantize(params, state, x).codes
    other = spec.quantize(params, state, x.at[:, 3:].set(1.0)).codes
    np.testing.assert_array_equal(codes[:, 0], other[:, 0])
    assert (codes[:, 1] != other[:, 1]).any()


def test_heads_share_a_codebook():
    spec, params, state = made("grouped:groups=2:shared=True/vq:codes=16", 6)
    part = jax.random.normal(KEY, (50, 3))
    codes = spec.quantize(params, state, jnp.concatenate([part, part], axis=-1)).codes
    np.testing.assert_array_equal(codes[:, 0], codes[:, 1])


def test_resizing_keeps_constants_and_means():
    for small, large in ((1, 4), (3, 8), (5, 16)):
        np.testing.assert_allclose(pool_matrix(large, small).sum(axis=1), 1, rtol=1e-6)
        np.testing.assert_allclose(cubic_matrix(small, large).sum(axis=1), 1, rtol=1e-5)
    x = jax.random.normal(KEY, (2, 8, 8, 3))
    np.testing.assert_allclose(resize(x, pool_matrix(8, 1))[:, 0, 0], x.mean(axis=(1, 2)), atol=1e-6)
    # Away from the edges, where the other side takes fewer points and scales them up.
    ours, theirs = resize(x, cubic_matrix(8, 16)), jax.image.resize(x, (2, 16, 16, 3), "cubic")
    np.testing.assert_allclose(ours[:, 4:-4, 4:-4], theirs[:, 4:-4, 4:-4], atol=1e-5)


@pytest.mark.slow
def test_every_scale_adds_detail():
    spec, params, state = made("multiscale:scales=1,2,4:smoothing=0/vq:codes=32:update=ema:init=kmeans:decay=0.5", 2)
    x = jax.random.normal(KEY, (40, 4, 4, 2)) + 3 * jax.random.normal(jax.random.key(9), (40, 1, 1, 2))
    for step in range(20):
        state = spec.quantize(params, state, x, jax.random.key(step), train=True).state
    codes = spec.quantize(params, state, x).codes
    ends = np.cumsum([0, 1, 4, 16])
    sums = [spec.dequantize(params, state, codes.at[:, end:].set(NO_CODE)) for end in ends]
    errors = [float(jnp.mean((x - s) ** 2)) for s in sums]
    assert errors == sorted(errors, reverse=True)
    assert jnp.std(sums[1], axis=(1, 2)).max() < 1e-5, "the first scale is one colour"


def test_smoothing_is_part_of_what_codes_stand_for():
    spec, params, state = made("multiscale:scales=1,4:convolutions=2/vq:codes=8", 2)
    x = jax.random.normal(KEY, (2, 4, 4, 2))
    changed = params | {"kernel": params["kernel"].at[0].multiply(2.0)}
    codes = spec.quantize(params, state, x).codes
    assert jnp.abs(spec.dequantize(params, state, codes) - spec.dequantize(changed, state, codes)).max() > 0
    gradient = jax.grad(lambda p: spec.quantize(p, state, x).loss)(params)
    assert all(jnp.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))
