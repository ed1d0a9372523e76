"""Heads that start by matching: what each of them attends to before anything is learned."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokjax.core.errors import SpecError
from tokjax.nn.param import materialize
from tokjax.nn.transformer import TransformerSpec, declare_transformer, project_heads

SPEC = TransformerSpec(width=96, layers=2, heads=4, kv_heads=2, head_dim=32, init="matching")


def test_every_head_attends_to_its_own_symbol():
    """Symbols are random vectors in the first channels; the rest is the same for all."""
    draw, symbols = np.random.default_rng(0).standard_normal((6, 32)), np.array([3, 1, 4, 1, 5, 3, 2, 4, 1])
    common = np.random.default_rng(1).standard_normal(64)
    x = jnp.asarray(np.concatenate([draw[symbols], np.tile(common, (9, 1))], axis=1), jnp.float32)[None]
    blocks = materialize(declare_transformer(SPEC), jax.random.key(0))["blocks"]
    alike = symbols[:, None] == symbols
    for layer in range(SPEC.layers):
        query, key, _ = project_heads(SPEC, jax.tree.map(lambda p, layer=layer: p[layer], blocks), x)
        scores = jnp.einsum("bthk,bshk->hts", query, jnp.repeat(key, 2, axis=2)) / np.sqrt(32)
        weights = np.asarray(jax.nn.softmax(scores))
        assert ((weights * alike).sum(axis=-1) > 0.9).all()


def test_an_unknown_start_is_named():
    with pytest.raises(SpecError, match=r"init: got .alike.*random, copying, matching"):
        TransformerSpec(width=8, layers=1, heads=1, init="alike")
