"""A frozen autoencoder reads its weights, or says what is wrong with them, and learns nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokjax.core.errors import CheckpointError, SpecError
from tokjax.nn import conv
from tokjax.nn.autoencoder import AutoencoderSpec
from tokjax.nn.param import Param, decay_mask, materialize

BODY = conv.ConvSpec(widths=(2,), blocks=1)
SHAPE = AutoencoderSpec(body=BODY, channels=2, scale=0.5)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(spec, the arrays in its file)."""
    tree = {"encoder": conv.declare_encoder(BODY, 1, 2), "decoder": conv.declare_decoder(BODY, 2, 1)}
    draw, is_leaf = np.random.default_rng(0), lambda x: isinstance(x, Param)
    arrays = jax.tree.map(lambda p: draw.standard_normal(p.shape).astype(np.float32), tree, is_leaf=is_leaf)
    leaves = jax.tree_util.tree_leaves_with_path(arrays)
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in leaves}
    assert "encoder/in/kernel" in named
    path = tmp_path_factory.mktemp("latent") / "weights.npz"
    np.savez(path, **named)
    return dataclasses.replace(SHAPE, weights=str(path)), arrays


def test_the_file_is_what_is_drawn(trained):
    spec, arrays = trained
    found = jax.jit(lambda key: materialize(spec.declare(1), key))(jax.random.key(7))
    jax.tree.map(np.testing.assert_array_equal, found, arrays)
    assert not any(jax.tree.leaves(decay_mask(spec.declare(1))))


def test_latents_are_those_of_the_parts_scaled_and_nothing_is_learned(trained):
    """No gradient reaches the arrays; one passes the decoder to the latents."""
    spec, arrays = trained
    pixels = np.random.default_rng(1).standard_normal((1, 2, 2, 1)).astype(np.float32)

    def loss(arrays, extra):
        latents = spec.encode(arrays, pixels) + extra
        decoded = spec.decode(arrays, latents)
        return jnp.sum(jnp.square(decoded)), (latents, decoded)

    def parts(arrays):
        grid = conv.encode(BODY, arrays["encoder"], pixels)
        return grid * spec.scale, conv.decode(BODY, arrays["decoder"], grid)

    extra = jnp.zeros((1, 2, 2, 2))
    (_, found), (of_arrays, of_latents) = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(arrays, extra)
    for one, other in zip(found, jax.jit(parts)(arrays), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)  # other fusions
    assert not any(np.any(g) for g in jax.tree.leaves(of_arrays)) and np.any(of_latents)


def test_what_is_wrong_with_weights_is_said(trained):
    spec, _ = trained
    with pytest.raises(SpecError, match=r"weights.*trained autoencoder"):
        SHAPE.encode({}, jnp.zeros((1, 4, 4, 1)))
    with pytest.raises(CheckpointError, match="no such file"):
        materialize(dataclasses.replace(spec, weights="absent.npz").declare(1), jax.random.key(0))
    with pytest.raises(SpecError, match="another shape"):
        materialize(dataclasses.replace(spec, channels=3).declare(1), jax.random.key(0))
    with pytest.raises(SpecError, match="scale"):
        dataclasses.replace(SHAPE, scale=0.0)
