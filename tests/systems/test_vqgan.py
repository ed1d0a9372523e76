"""The convolutional tokenizer, its losses and its discriminator."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokjax.data.images import ImageBatch
from tokjax.experiment.images import build_image_tokenizer
from tokjax.nn.conv import conv_flops
from tokjax.nn.discriminator import declare_discriminator, discriminate
from tokjax.nn.param import materialize
from tokjax.objectives.reconstruction import (
    ReconstructionSpec,
    declare_adversary,
    feature_distance,
    init_adversary,
    reconstruction_loss,
)

KEY = jax.random.key(0)
PIXELS = jax.random.uniform(KEY, (6, 16, 16, 3), minval=-1, maxval=1)
SYSTEM = {
    "name": "vqgan", "size": 16, "body": {"widths": [8, 16], "blocks": 1}, "code_width": 4,
}  # fmt: skip


def batch(pixels=PIXELS, mask=None):
    mask = jnp.ones(len(pixels)) if mask is None else mask
    return ImageBatch(pixels=pixels, labels=jnp.zeros(len(pixels), jnp.int32), mask=mask)


@pytest.mark.parametrize(
    "quantizer",
    [
        "fsq:levels=5,5,4,3",
        pytest.param("vq:codes=32", marks=pytest.mark.slow),
        pytest.param("multiscale:scales=1,2,4,8/vq:codes=32", marks=pytest.mark.slow),
    ],
)
def test_codes_decode_to_what_training_saw_and_padding_counts_for_nothing(quantizer):
    system = build_image_tokenizer(SYSTEM | {"quantizer": quantizer})
    params, state = materialize(system.declare(), KEY), system.init_state(KEY)
    codes = system.encode(params, state, PIXELS)
    assert codes.shape == (6, system.tokens) and system.tokens == (85 if "multi" in quantizer else 64)
    assert (system.grid is None) == ("multi" in quantizer)
    decoded = system.decode(params, state, codes, KEY)
    assert decoded.shape == PIXELS.shape
    # An encoder's vectors quantized and decoded are its codes decoded.
    loss = jax.jit(lambda b: system.loss(params, state, b, KEY))
    _, (_, aux) = loss(batch())
    np.testing.assert_allclose(
        aux["squared_error"][0] / aux["squared_error"][1], jnp.mean((decoded - PIXELS) ** 2), rtol=1e-5
    )
    mask = jnp.array([1.0, 1, 1, 0, 1, 0])
    first = loss(batch(PIXELS, mask))
    second = loss(batch(jnp.where(mask[:, None, None, None] > 0, PIXELS, 1.0), mask))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), first, second)


def test_flops_are_those_of_the_program():
    system = build_image_tokenizer(SYSTEM | {"quantizer": "fsq:levels=5,5,4,3"})
    params, state = materialize(system.declare(), KEY), system.init_state(KEY)
    program = jax.jit(lambda p, x: system.decode(p, state, system.encode(p, state, x), KEY))
    counted = program.lower(params, PIXELS).compile().cost_analysis()["flops"] / len(PIXELS)
    # XLA leaves out what a convolution multiplies with padding, and counts norms and activations.
    assert 0.8 < system.flops(1, system.tokens) / counted < 1.25
    assert conv_flops(system.body, 16, 3, 4) == system.flops(1, system.tokens)


def test_the_discriminator_and_the_decoder_train_against_each_other_alone():
    spec = ReconstructionSpec(squared=0.0, adversarial=0.5, discriminator_width=8, discriminator_levels=2, lecam=0.0)
    params = materialize(declare_adversary(spec, 3), KEY)
    fake = 0.5 * PIXELS

    def loss(params, fake):
        return reconstruction_loss(spec, params, init_adversary(spec), fake, PIXELS, jnp.ones(6), jnp.int32(0))[0]

    of_params, of_fake = jax.grad(loss, argnums=(0, 1))(params, fake)

    def hinge(params):
        real, seen = discriminate(params, PIXELS), discriminate(params, fake)
        return jnp.mean(jax.nn.relu(1 - real) + jax.nn.relu(1 + seen)) / 2

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), of_params, jax.grad(hinge)(params)
    )
    opinion = jax.grad(lambda x: -0.5 * jnp.mean(discriminate(params, x)))(fake)
    np.testing.assert_allclose(of_fake, opinion, rtol=1e-4, atol=1e-8)


def test_before_its_step_the_discriminator_does_nothing():
    spec = ReconstructionSpec(squared=0.0, adversarial=0.5, adversarial_from=3, discriminator_width=8)
    params, state = materialize(declare_adversary(spec, 3), KEY), init_adversary(spec)

    def run(step):
        return jax.value_and_grad(
            lambda p: reconstruction_loss(spec, p, state, 0.5 * PIXELS, PIXELS, jnp.ones(6), jnp.int32(step)),
            has_aux=True,
        )(params)

    (loss, (kept, _)), gradient = run(2)
    assert loss == 0 and not any(leaf.any() for leaf in jax.tree.leaves(gradient)) and kept == state
    (loss, (moved, aux)), gradient = run(3)
    assert loss != 0 and any(leaf.any() for leaf in jax.tree.leaves(gradient))
    np.testing.assert_allclose(moved["real"], 0.001 * aux["real_logit"][0] / 6, rtol=1e-4)


def test_an_image_is_judged_alone():
    params = materialize(declare_discriminator(8, 2, 3), KEY)
    np.testing.assert_allclose(discriminate(params, PIXELS)[:2], discriminate(params, PIXELS[:2]), atol=1e-5)


def test_features_see_blur_and_ignore_nothing():
    spec = ReconstructionSpec(perceptual=1.0)
    blurred = (PIXELS + jnp.roll(PIXELS, 1, axis=1) + jnp.roll(PIXELS, 1, axis=2)) / 3
    assert not feature_distance(spec, PIXELS, PIXELS).any()
    near, far = feature_distance(spec, 0.9 * PIXELS + 0.1 * blurred, PIXELS), feature_distance(spec, blurred, PIXELS)
    assert (near > 0).all() and (far > near).all()
