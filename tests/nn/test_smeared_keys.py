"""Smeared keys: what one head can then do, and what stays as it was."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from tokjax.nn.attention import attention
from tokjax.nn.param import materialize
from tokjax.nn.transformer import TransformerSpec, declare_transformer, smear, transformer

PLAIN = TransformerSpec(width=32, layers=2, heads=4, kv_heads=2)
SMEARED = dataclasses.replace(PLAIN, smeared_keys=True)
X = jax.random.normal(jax.random.key(1), (2, 12, 32))
POSITIONS = jnp.arange(12)[None]


def with_shares(params, logit):
    blocks = params["blocks"]
    return {**params, "blocks": {**blocks, "own_share": jnp.full_like(blocks["own_share"], logit)}}


def test_a_share_of_one_is_the_plain_stack():
    params = materialize(declare_transformer(SMEARED), jax.random.key(0))
    plain = {**params, "blocks": {name: x for name, x in params["blocks"].items() if name != "own_share"}}
    np.testing.assert_array_equal(
        transformer(SMEARED, with_shares(params, 1e9), X, POSITIONS, attention),
        transformer(PLAIN, plain, X, POSITIONS, attention),
    )


def test_a_share_of_nothing_is_the_key_before_but_at_the_start_of_a_document():
    params = {"own_share": jnp.array([-1e9, 1e9])}
    key = jax.random.normal(jax.random.key(2), (1, 6, 2, 4))
    positions = jnp.array([[0, 1, 2, 0, 1, 2]])
    found = smear(params, key, jnp.roll(key, 1, axis=1), positions)
    np.testing.assert_array_equal(found[:, :, 1], key[:, :, 1])
    np.testing.assert_array_equal(found[0, :, 0], key[0, [0, 0, 1, 3, 3, 4], 0])


def test_heads_start_with_shares_from_few_to_nearly_all():
    shares = jax.nn.sigmoid(materialize(declare_transformer(SMEARED), jax.random.key(0))["blocks"]["own_share"])
    np.testing.assert_allclose(shares, [[0.05, 0.95]] * 2, atol=0.01)


def test_one_head_finds_what_came_after_a_symbol():
    """Of random vectors, with no layer before it: the key that matches is that of the place behind, the successor's."""
    symbols = np.array([3, 1, 4, 0, 5, 2, 4])
    vectors = np.linalg.qr(np.random.default_rng(0).standard_normal((16, 16)))[0][:6]
    x = jnp.asarray(vectors[symbols], jnp.float32)[None, :, None]  # query, key and value at once
    key = smear({"own_share": jnp.array([-1e9])}, x, jnp.roll(x, 1, axis=1), jnp.arange(7))
    found = attention(100 * x, key, x)[0, -1, 0]
    np.testing.assert_allclose(found, vectors[0], atol=1e-4)  # 0 came after the first 4
