"""Word attention: every implementation against a softmax over one word at a time, and gradients against one another."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokjax.core.errors import SpecError
from tokjax.kernels.word_attention import pallas_gpu
from tokjax.kernels.word_attention.api import word_attention

B, S, H, G, K = 2, 256, 4, 2, 32
mosaic_gpu = pytest.mark.skipif(
    jax.version.__version_info__ < (0, 11), reason="kernels for GPUs need jax 0.11 or newer, which needs Python 3.12"
)


def draw(heads, seed, width=K, dtype="float32", slots=S):
    return jax.random.normal(jax.random.key(seed), (B, slots, heads, width), dtype)


@functools.cache
def words(slots=S):
    """Words of one to sixteen slots that straddle no block, some padding between, and another row of only padding."""
    rng = np.random.default_rng(0)
    ids = np.zeros((B, slots), np.int32)
    at, number = 0, 0
    while at < slots:
        length = min(rng.integers(1, 17), 128 - at % 128)
        number += 1
        ids[0, at : at + length] = number if rng.random() < 0.9 else 0
        at += length
    ids[1, :60] = np.arange(60) // 5 + 1
    return ids


@functools.cache
def seen(slots=S):
    """The same words, in which every fourth slot reads and is not seen."""
    ids = words(slots).copy()
    ids[:, ::4] = 0
    return ids


def one_word_at_a_time(q, k, v, query_ids, key_ids, causal):
    """The definition: each slot alone, in double precision."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros(q.shape)
    share = q.shape[2] // k.shape[2]
    for b, s in np.argwhere(query_ids):
        start = s // 128 * 128
        block = np.arange(start, s + 1 if causal else start + 128)
        keys = block[key_ids[b, block] == query_ids[b, s]]
        for h in range(q.shape[2]) if len(keys) else ():
            scores = k[b, keys, h // share] @ q[b, s, h] / np.sqrt(q.shape[3])
            weights = np.exp(scores - scores.max())
            out[b, s, h] = weights / weights.sum() @ v[b, keys, h // share]
    return out


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("implementation", ["xla", "pallas"])
@pytest.mark.parametrize("ids", [words, seen])
def test_is_a_softmax_over_the_word(implementation, causal, ids):
    q, k, v = draw(H, 0), draw(G, 1), draw(G, 2)
    found = word_attention(
        q, k, v, query_ids=jnp.asarray(words()), key_ids=jnp.asarray(ids()), causal=causal,
        implementation=implementation,
    )  # fmt: skip
    np.testing.assert_allclose(found, one_word_at_a_time(q, k, v, words(), ids(), causal), atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("heads", "groups", "width"), [(4, 2, 32), (3, 3, 64), (4, 4, 64), (2, 1, 128)])
def test_gradients_of_the_kernel_are_those_of_xla(heads, groups, width, causal):
    arrays = draw(heads, 0, width), draw(groups, 1, width), draw(groups, 2, width)
    weights = draw(heads, 3, width)

    @functools.partial(jax.jit, static_argnums=0)
    def gradients(implementation, q, k, v):
        def loss(q, k, v):
            out = word_attention(
                q, k, v, query_ids=jnp.asarray(words()), key_ids=jnp.asarray(seen()), causal=causal,
                implementation=implementation,
            )  # fmt: skip
            return jnp.sum(out * weights)

        return jax.grad(loss, argnums=(0, 1, 2))(q, k, v)

    for found, expected in zip(gradients("pallas", *arrays), gradients("xla", *arrays), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)  # float32 sums of at most 128 terms, in other orders
        assert np.abs(expected).max() > 0.1


def test_bfloat16_is_rounded_where_it_leaves_and_where_weights_meet_values():
    arrays = [draw(heads, seed, dtype="bfloat16") for seed, heads in enumerate((H, G, G))]
    run = functools.partial(word_attention, *arrays, query_ids=jnp.asarray(words()), causal=True)
    exact = one_word_at_a_time(*arrays, words(), words(), causal=True)
    for implementation in ("xla", "pallas"):
        found = run(implementation=implementation)
        assert found.dtype == jnp.bfloat16
        # Weights and result are rounded to 8 bits each: 2^-8 of a weighted mean of values up to 4.
        np.testing.assert_allclose(found.astype(jnp.float32), exact, atol=4 * 2**-7)


@pytest.mark.parametrize("implementation", ["xla", "pallas"])
def test_padding_gives_zeros_and_no_gradient(implementation):
    q, k, v = draw(H, 0), draw(G, 1), draw(G, 2)
    ids = jnp.asarray(words())

    def loss(q, k, v):
        out = word_attention(q, k, v, query_ids=ids, causal=False, implementation=implementation)
        return jnp.sum(out**2), out

    gradients, out = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(q, k, v)
    padding = np.asarray(ids == 0)
    for array in (out, *gradients):
        assert np.isfinite(array).all()
        assert (np.asarray(array)[padding] == 0).all()


@mosaic_gpu
@pytest.mark.slow
@pytest.mark.parametrize("causal", [False, True])
def test_the_gpu_kernel_interpreted_is_the_reference(causal):
    """One simulated GPU block after another: tiny shapes only."""
    slots, width = 128, 64
    arrays = [draw(heads, seed, width, "bfloat16", slots) for seed, heads in enumerate((2, 1, 1))]
    d_out = draw(2, 3, width, "bfloat16", slots)
    ids = jnp.asarray(words(slots)), jnp.asarray(seen(slots))
    reference = functools.partial(word_attention, query_ids=ids[0], key_ids=ids[1], causal=causal, implementation="xla")
    expected, pull = jax.vjp(reference, *arrays)
    found = pallas_gpu.forward(*arrays, *ids, causal=causal, interpret=True)
    gradients = pallas_gpu.backward(*arrays, *ids, d_out, causal=causal, interpret=True)
    # Weights, gradients of scores and results are rounded to bfloat16 in both, not always at the same place.
    for one, other in zip((found, *gradients), (expected, *pull(d_out)), strict=True):
        np.testing.assert_allclose(one.astype(jnp.float32), other.astype(jnp.float32), atol=0.03, rtol=0.03)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slots": 200}, "slots: 200 is no multiple of 128; lay rows out by nn.packing.align_words"),
        ({"groups": 3}, "heads: 4 query heads cannot share 3 key heads"),
        ({"ids": (2, 128)}, r"query_ids \(2, 128\), key_ids \(2, 128\): expected \(2, 256\)"),
        ({"implementation": "palas"}, "implementation: got 'palas'. Did you mean 'pallas'?"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    slots, groups = change.get("slots", S), change.get("groups", G)
    q, k = draw(H, 0, slots=slots), draw(groups, 1, slots=slots)
    ids = jnp.zeros(change.get("ids", (B, slots)), jnp.int32)
    with pytest.raises(SpecError, match=message):
        word_attention(q, k, k, query_ids=ids, causal=True, implementation=change.get("implementation"))
