"""FlexTok: codes are ordered, any prefix of them decodes as in training, and the model is as large as said."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tokjax.configs.vision.flextok import get_config
from tokjax.core.errors import SpecError
from tokjax.core.keys import named
from tokjax.core.spec import build
from tokjax.data.images import ImageBatch
from tokjax.generate.flow import GuidanceSpec, euler
from tokjax.nn.autoencoder import AutoencoderSpec
from tokjax.nn.conv import ConvSpec
from tokjax.nn.flow_transformer import FlowTransformerSpec
from tokjax.nn.param import Param, count, materialize
from tokjax.quantize import NO_CODE, quantizer
from tokjax.sharding.rules import partition
from tokjax.systems.vision.flextok import FlexTok

BODY = FlowTransformerSpec(layers=2, width=16, head_dim=8, hidden=32, scan_layers=True)
FLOW = FlexTok(
    size=4, channels=1, patch=2, registers=4, encoder_body=BODY, decoder_body=BODY, code_width=2,
    quantizer="fsq:levels=5,4", steps=3,
)  # fmt: skip
PIXELS = dataclasses.replace(FLOW, decoder="pixels")
GUIDED = dataclasses.replace(FLOW, guidance=GuidanceSpec(scale=3.0))
KEY, B, N = jax.random.key(0), 8, 4
IMAGES = np.clip(np.random.default_rng(0).standard_normal((B, 4, 4, 1)), -1, 1).astype(np.float32)


def is_param(x):
    return isinstance(x, Param)


@functools.cache
def drawn(system):
    """Parameters as wide as at birth, and none of them zero."""
    generator = np.random.default_rng(1)
    return jax.tree.map(
        lambda p: (generator.standard_normal(p.shape) / max(p.shape[-2:][0], 4) ** 0.5).astype(np.float32),
        system.declare(),
        is_leaf=is_param,
    )


def at_birth(path, array):
    """The array, or zeros where those are what training starts with."""
    name = jax.tree_util.keystr(path)
    return np.zeros_like(array) if "modulation" in name or "head" in name else array


def state(system):
    return system.init_state(KEY)


@functools.partial(jax.jit, static_argnums=0)
def encode(system, params, pixels):
    return system.encode(params, state(system), pixels)


@functools.partial(jax.jit, static_argnums=0)
def decode(system, params, codes, key):
    return system.decode(params, state(system), codes, key)


@functools.partial(jax.jit, static_argnums=0)
def gradient(system, params, batch, key):
    return jax.value_and_grad(system.loss, has_aux=True)(params, state(system), batch, key)


def batch(pixels=IMAGES, mask=None):
    mask = np.ones(len(pixels), np.float32) if mask is None else mask
    return ImageBatch(pixels=pixels, labels=np.zeros(len(pixels), np.int32), mask=mask)


def prefix(codes, k):
    return jnp.where(jnp.arange(N) < k, codes, NO_CODE)


@functools.cache
def codes():
    return encode(FLOW, drawn(FLOW), IMAGES)


def test_all_64000_codes_and_their_levels_are_one_to_one():
    """Rounding what a code stands for gives it back; `quantize` does not, whose tanh bounds a vector once more."""
    spec = quantizer(FlexTok.quantizer, width=FlexTok.code_width)
    every = jnp.arange(64_000)
    levels = spec.dequantize({}, {}, every)
    assert spec.sizes == (64_000,) and len(np.unique(levels, axis=0)) == 64_000
    numbers = spec.round(levels)
    np.testing.assert_array_equal(numbers @ np.cumprod([1, *spec.levels[:-1]]), every)


def test_codes_do_not_depend_on_later_registers():
    params = drawn(FLOW)
    registers = params["encoder"]["registers"]
    for i in range(N - 1):
        changed = params | {
            "encoder": params["encoder"] | {"registers": registers * np.where(np.arange(N) > i, -1, 1)[:, None]}
        }
        found = encode(FLOW, changed, IMAGES)
        np.testing.assert_array_equal(found[:, : i + 1], codes()[:, : i + 1])
        assert np.any(found[:, i + 1 :] != codes()[:, i + 1 :])


@pytest.mark.parametrize("k", [1, 3, N])
def test_decoding_a_prefix_is_decoding_all_codes_with_the_rest_dropped(k):
    """The first k codes alone against the network as training calls it: all vectors, and k of them kept."""
    params = drawn(FLOW)
    vectors = FLOW.codes.dequantize({}, {}, codes())
    kept = jnp.broadcast_to(jnp.arange(N) < k, (B, N))

    @jax.jit
    def by_hand(key):
        def velocity(x, t, memory):
            return FLOW._predict(params, vectors, kept, jnp.full(B, t), x), memory

        x = euler(velocity, jax.random.normal(key, (B, 4, 4)), steps=3)
        return x.reshape(B, 2, 2, 2, 2).swapaxes(2, 3).reshape(B, 4, 4, 1)

    found = decode(FLOW, params, prefix(codes(), k), KEY)
    np.testing.assert_allclose(found, by_hand(KEY), rtol=1e-3, atol=1e-3)  # other fusions, through steps of a wild flow


def test_what_is_drawn_follows_the_key_and_codes_matter():
    params = drawn(FLOW)
    found = decode(FLOW, params, codes(), KEY)
    np.testing.assert_array_equal(found, decode(FLOW, params, codes(), KEY))
    assert np.any(found != decode(FLOW, params, codes(), jax.random.key(1)))
    assert np.any(found != decode(FLOW, params, prefix(codes(), 2), KEY))
    images = [decode(PIXELS, drawn(PIXELS), codes(), jax.random.key(seed)) for seed in (0, 1)]
    np.testing.assert_array_equal(*images)


def test_guidance_does_nothing_without_codes_and_something_with_them():
    none = prefix(codes(), 0)
    plain, guided = (decode(system, drawn(FLOW), none, KEY) for system in (FLOW, GUIDED))
    np.testing.assert_allclose(guided, plain, rtol=1e-3, atol=1e-3)  # the rows of two batches in one
    plain, guided = (decode(system, drawn(FLOW), codes(), KEY) for system in (FLOW, GUIDED))
    assert np.abs(guided - plain).max() > 0.01


def test_at_birth_the_loss_is_the_power_of_the_velocity_of_images_that_count():
    """The head starts at zero, so what is missed is noise - x; rows of padding do not count."""
    params = jax.tree_util.tree_map_with_path(at_birth, drawn(FLOW))
    mask = np.array([1, 1, 1, 0, 1, 0, 1, 1], np.float32)
    (loss, (_, aux)), _ = gradient(FLOW, params, batch(mask=mask), KEY)
    patches = IMAGES.reshape(B, 2, 2, 2, 2).swapaxes(2, 3).reshape(B, 4, 4)
    missed = jax.random.normal(named(KEY, "noise"), patches.shape) - patches
    np.testing.assert_allclose(loss, np.mean(np.square(missed)[mask > 0]), rtol=1e-5)
    assert aux["loss"][1] == 6
    other = np.where(mask[:, None, None, None] > 0, IMAGES, 0.5)
    np.testing.assert_allclose(gradient(FLOW, drawn(FLOW), batch(other, mask), KEY)[0][0],
                               gradient(FLOW, drawn(FLOW), batch(mask=mask), KEY)[0][0], rtol=1e-5)  # fmt: skip


@pytest.mark.parametrize("system", [FLOW, PIXELS], ids=["flow", "pixels"])
def test_every_array_is_trained(system):
    (loss, (new, aux)), gradients = gradient(system, drawn(system), batch(), KEY)
    assert np.isfinite(loss) and new["step"] == 1 and {"loss", "perplexity"} <= set(aux)
    for path, found in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.any(found != 0) and np.all(np.isfinite(found)), f"{jax.tree_util.keystr(path)} gets no gradient"


def test_it_learns_to_tell_images_by_their_codes():
    """Two images, from the closed gates of birth: the loss falls, and one code tells which image it is."""
    pixels = np.where(np.arange(B)[:, None, None, None] % 2, -1.0, 1.0) * np.sign(IMAGES[:1])
    images, optimizer, losses = batch(pixels.astype(np.float32)), optax.adam(3e-3), []

    @jax.jit
    def update(params, moments, gradients):
        updates, moments = optimizer.update(gradients, moments)
        return optax.apply_updates(params, updates), moments

    params = jax.tree_util.tree_map_with_path(at_birth, drawn(FLOW))
    moments = optimizer.init(params)
    for number in range(400):
        (loss, _), gradients = gradient(FLOW, params, images, jax.random.fold_in(KEY, number))
        params, moments = update(params, moments, gradients)
        losses.append(float(loss))
    assert np.mean(losses[-50:]) < 0.3 * losses[0]
    found = decode(FLOW, params, prefix(encode(FLOW, params, images.pixels), 1), KEY)
    assert np.mean(np.sign(found) == pixels) > 0.95


def test_flops_match_xla():
    """XLA also counts the elementwise work, which is little at this width."""
    body = dataclasses.replace(BODY, width=128, head_dim=32, hidden=256, scan_layers=False)
    system = dataclasses.replace(FLOW, size=8, registers=16, encoder_body=body, decoder_body=body)
    shapes = jax.eval_shape(lambda key: materialize(system.declare(), key), KEY)
    pixels = jax.ShapeDtypeStruct((4, 8, 8, 1), jnp.float32)

    def forward(params, pixels):
        x = system._input(params, pixels)
        z = system._registers(params, x)
        return system._predict(params, z, jnp.ones(z.shape[:2], bool), jnp.ones(4), x)

    counted = jax.jit(forward).lower(shapes, pixels).compile().cost_analysis()["flops"]
    np.testing.assert_allclose(system.flops(4, 16), counted, rtol=0.15)


def recipe(variant):
    fields = get_config(variant).system.to_dict()
    assert fields.pop("name") == "flextok"
    return build(FlexTok, fields)


def matrices(blocks):
    return count({name: tree for name, tree in blocks.items() if name != "modulation"})


def test_the_paper_recipe_has_the_published_size_but_for_the_modulation():
    """12 D^2 a block: d18-d18 is 573M, d18-d28 1.4B. Widths of SwiGLU are multiples of 32: within half a percent."""
    system = recipe("paper")
    tree = system.declare()
    d18, d28 = (tree[part]["body"] for part in ("encoder", "decoder"))
    assert 2 * matrices(d18) == pytest.approx(573e6, rel=0.005)
    assert matrices(d18) + matrices(d28) == pytest.approx(18 * 12 * 1152**2 + 28 * 12 * 1792**2, rel=0.005)
    assert round((matrices(d18) + matrices(d28)) / 1e9, 1) == 1.4
    assert count(d28) - matrices(d28) == 28 * 12 * 1792**2  # what the published size leaves out
    assert (system.tokens, system.vocab_size, system._patches) == (256, 64_000, (256, 64))


@pytest.mark.parametrize("variant", ["smoke", "small", "paper"])
def test_recipes_build_abstractly_and_can_be_sharded(variant):
    system = recipe(variant)
    tree = system.declare()
    shapes = jax.eval_shape(lambda key: materialize(tree, key), KEY)
    assert sum(x.size for x in jax.tree.leaves(shapes)) == count(tree)
    mesh = {"data": 2, "fsdp": 2, "tensor": 2}
    jax.tree.map(lambda p: partition(p.axes, mesh, name=str(p.shape)), tree, is_leaf=is_param)


def test_latents_lie_between_pixels_and_patches():
    """Shapes alone: nothing reads the file before arrays are drawn. Without one the system is counted, not run."""
    latent = AutoencoderSpec(body=ConvSpec(widths=(4, 8), blocks=1), channels=3, weights="absent.npz")
    for decoder in ("flow", "pixels"):
        system = dataclasses.replace(FLOW, size=8, decoder=decoder, latent=latent)
        assert system._patches == (4, 12)
        params = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, jnp.float32), system.declare(), is_leaf=is_param)
        pixels = jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32)
        code = jax.eval_shape(functools.partial(system.encode, state=state(system)), params, pixels=pixels)
        found = jax.eval_shape(functools.partial(system.decode, state=state(system)), params, codes=code, key=KEY)
        assert code.shape == (2, N) and found.shape == (2, 8, 8, 1)
        images = jax.eval_shape(lambda: batch(jnp.zeros((2, 8, 8, 1))))
        loss, _ = jax.eval_shape(functools.partial(system.loss, state=state(system)), params, batch=images, key=KEY)
        assert loss.shape == ()
    empty = dataclasses.replace(system, latent=dataclasses.replace(latent, weights=""))
    with pytest.raises(SpecError, match=r"latent\.weights"):
        jax.eval_shape(functools.partial(empty.encode, state=state(empty)), params, pixels=pixels)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", 5),
        ("patch", 0),
        ("registers", 0),
        ("steps", 0),
        ("mask", "casual"),
        ("dropout", "half"),
        ("decoder", "gan"),
        ("condition_drop", 1.0),
        ("quantizer", "residual:depth=2/vq:codes=4"),
    ],
)
def test_impossible_fields_are_refused(field, value):
    with pytest.raises(SpecError, match=field):
        dataclasses.replace(FLOW, **{field: value})


def test_guidance_needs_a_decoder_that_can_go_without_codes():
    with pytest.raises(SpecError, match="condition_drop"):
        dataclasses.replace(GUIDED, condition_drop=0.0)
