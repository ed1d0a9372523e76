"""TiTok: codes that say all, latents without order, stages that leave alone what they should, and released weights."""

import dataclasses
import functools
import importlib
import json
import math
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import simulated
from published_titok import Layout, Reference, draw, vqgan_shapes
from quick import draw_params, quick

from tokjax.core.errors import SpecError
from tokjax.core.registry import systems
from tokjax.core.spec import build
from tokjax.data.images import ImageBatch, ProxyBatch
from tokjax.measure.networks import load_state
from tokjax.nn.conv import ConvSpec, declare_encoder, encoder_flops
from tokjax.nn.conv import encode as conv_encode
from tokjax.nn.param import Param, count, decay_mask, materialize
from tokjax.nn.titok_weights import titok_params, vqgan_params
from tokjax.nn.vit import ViTSpec
from tokjax.objectives.proxy import ProxySpec, decode_logits, proxy_params
from tokjax.objectives.reconstruction import ReconstructionSpec
from tokjax.systems.vision.titok import TiTok
from tokjax.systems.vision.vqgan import VqGan
from tokjax.train import OptimizerSpec
from tokjax.train.optimizer import make_transform
from tokjax.train.state import TrainState
from tokjax.train.step import make_step, parts

KEY = jax.random.key(0)
PIXELS = jax.random.uniform(KEY, (4, 8, 8, 3), minval=-1, maxval=1)
BATCH = ImageBatch(pixels=PIXELS, labels=jnp.full(4, -1), mask=jnp.array([1.0, 1.0, 1.0, 0.0]))
CODES = jax.random.randint(KEY, (4, 16), 0, 11)
STACK = ViTSpec(width=16, layers=2, heads=2, scan_layers=True)
SINGLE = TiTok(
    size=8, patch=2, latents=5, encoder=STACK, decoder=STACK, code_width=4, quantizer="vq:codes=32:cosine=True"
)
PROXY = ProxySpec(body=ConvSpec(widths=(8, 8), blocks=1), codes=11, code_width=3)
LOSSES = ReconstructionSpec(adversarial=0.1, discriminator_width=8, discriminator_levels=1)
FIRST = dataclasses.replace(SINGLE, stage="proxy", proxy=PROXY, reconstruction=LOSSES)
SECOND = dataclasses.replace(FIRST, stage="pixels")
HELD = {FIRST: ("proxy", "adversary"), SECOND: ("encoder", "latents", "quantizer")}


def data(system):
    return ProxyBatch.of(BATCH, CODES) if system.stage == "proxy" else BATCH


@functools.cache
def arrays(system):
    return draw_params(system.declare()), system.init_state(KEY)


@functools.cache
def step(system):
    """One update, with weight decay and an average."""
    spec = OptimizerSpec(learning_rate=0.01, weight_decay=0.5, ema_decay=0.9)
    transform = make_transform(spec, decay_mask(system.declare()))
    return transform, quick(make_step(system, transform, spec))


def trained(system, params, steps):
    """States after each step from `params` on, the first of them before any."""
    transform, one = step(system)
    average = jax.tree.map(jnp.zeros_like, params)
    states, metrics = [TrainState(jnp.int32(0), params, transform.init(params), system.init_state(KEY), average)], []
    for _ in range(steps):
        state, found = one(states[-1], data(system), KEY, jnp.float32(0.01))
        states, metrics = [*states, state], [*metrics, found]
    return states, metrics


@functools.cache
def encode(system):
    return quick(system.encode)


@pytest.mark.parametrize("system", [SINGLE, SECOND], ids=["single", "pixels"])
def test_codes_decode_to_what_quantized_vectors_draw(system):
    """What training compares is what anybody gets who has only the codes: the same vectors, to the last bit."""
    params, state = arrays(system)
    z = quick(system.vectors)(params, PIXELS)
    found = system.codes.quantize(params["quantizer"], state["quantizer"], z, KEY, train=True)
    codes = encode(system)(params, state, PIXELS)
    np.testing.assert_array_equal(codes, found.codes)
    vectors = system.codes.dequantize(params["quantizer"], state["quantizer"], codes)
    np.testing.assert_array_equal(vectors, found.vectors)
    images = quick(system.draw)(params, vectors)
    # One program looks the vectors up itself, and may round otherwise as it does.
    np.testing.assert_allclose(quick(system.decode)(params, state, codes, KEY), images, atol=1e-5)
    assert images.shape == PIXELS.shape and codes.shape == (4, system.tokens) and system.grid is None
    assert system.bits == 5 * math.log2(32)


def test_latent_tokens_and_their_positions_permuted_permute_the_codes():
    params, state = arrays(SINGLE)
    order = np.array([3, 0, 4, 1, 2])
    encoder = params["encoder"] | {"latent_positions": params["encoder"]["latent_positions"][order]}
    permuted = params | {"encoder": encoder, "latents": params["latents"][order]}
    vectors = quick(SINGLE.vectors)
    # Sums over keys in another order: a few units in the last place, through two blocks.
    np.testing.assert_allclose(vectors(permuted, PIXELS), vectors(params, PIXELS)[:, order], atol=2e-5)
    before, after = (encode(SINGLE)(p, state, PIXELS) for p in (params, permuted))
    np.testing.assert_array_equal(after, before[:, order])
    assert np.any(np.asarray(before) != np.asarray(before)[:, order])


def test_the_code_is_that_of_the_largest_cosine_and_the_lowest_of_equals():
    params, state = arrays(SINGLE)
    codebook = params["quantizer"]["codebook"].at[20:].set(params["quantizer"]["codebook"][:12])
    params = params | {"quantizer": {"codebook": codebook}}
    z = np.asarray(quick(SINGLE.vectors)(params, PIXELS), np.float64).reshape(-1, 4)
    e = np.asarray(codebook, np.float64)
    cosine = (z @ e.T) / np.linalg.norm(z, axis=-1)[:, None] / np.linalg.norm(e, axis=-1)
    unit = [v / np.linalg.norm(v, axis=-1, keepdims=True) for v in (z, e)]
    distance = np.square(unit[0][:, None] - unit[1]).sum(-1)
    best = cosine[:, :20].argmax(-1)
    np.testing.assert_array_equal(best, distance[:, :20].argmin(-1))
    np.testing.assert_array_equal(np.asarray(encode(SINGLE)(params, state, PIXELS)).reshape(-1), best)


def check_gradients(system, norms, held):
    """Exactly zero where held, and only there."""
    names = [part.block.split("/")[0] for part in parts(system.declare())]
    assert np.all(np.isfinite(norms))
    np.testing.assert_array_equal(np.asarray(norms) == 0, [name in held for name in names])


@pytest.mark.parametrize("system", [FIRST, SECOND], ids=["proxy", "pixels"])
def test_a_stage_leaves_alone_what_it_should(system):
    """Gradients are exactly 0; after steps with weight decay, parameters and their averages have the same bits."""
    (before, *_, after), (metrics, _) = trained(system, arrays(system)[0], 2)
    check_gradients(system, metrics.gradient_norms, HELD[system])
    for name in HELD[system]:
        for tree in (after.params, after.ema):
            chex.assert_trees_all_equal(tree[name], before.params[name])
    for name in before.params.keys() - set(HELD[system]):
        for old, new in zip(*(jax.tree.leaves(s.params[name]) for s in (before, after)), strict=True):
            assert jnp.any(old != new), name
    if system.stage == "pixels":
        chex.assert_trees_all_equal(after.system_state["quantizer"], before.system_state["quantizer"])


def test_the_second_stage_goes_on_with_the_codes_of_the_first():
    """Both have the same parameters, so that one starts from the other; what one encodes, the other still does."""
    first, second = (
        jax.tree.map(lambda p: (p.shape, p.axes), s.declare(), is_leaf=lambda x: isinstance(x, Param))
        for s in (FIRST, SECOND)
    )
    assert first == second
    one = trained(FIRST, arrays(FIRST)[0], 2)[0][-1]
    other = trained(SECOND, one.params, 2)[0][-1]
    codes = [encode(FIRST)(state.params, state.system_state, PIXELS) for state in (one, other)]
    np.testing.assert_array_equal(*codes)


@pytest.mark.parametrize("system", [SINGLE, FIRST, SECOND], ids=["single", "proxy", "pixels"])
def test_rows_that_pad_a_batch_count_for_nothing(system):
    params, state = arrays(system)
    loss = quick(system.loss)
    noise = jnp.where(BATCH.mask[:, None, None, None] > 0, PIXELS, 0.3)
    changed = data(system).replace(pixels=noise)
    if system.stage == "proxy":
        changed = changed.replace(codes=jnp.where(BATCH.mask[:, None] > 0, CODES, 0))
    one, other = (loss(params, state, batch, KEY) for batch in (data(system), changed))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, other)
    assert one[1][1]["loss"][1] == 3


def test_the_first_stage_is_cross_entropy_to_the_proxys_codes():
    params, state = arrays(FIRST)
    loss, (_, aux) = quick(FIRST.loss)(params, state, data(FIRST), KEY)
    vectors = FIRST.codes.dequantize(params["quantizer"], state["quantizer"], encode(FIRST)(params, state, PIXELS))
    logits = np.asarray(quick(FIRST.logits)(params, vectors), np.float64)[:3]
    chosen = np.take_along_axis(logits, np.asarray(CODES)[:3, :, None], -1)[..., 0]
    nll = np.mean(np.log(np.exp(logits).sum(-1)) - chosen)
    np.testing.assert_allclose(aux["proxy_nll"][0] / aux["proxy_nll"][1], nll, rtol=1e-5)
    hits = np.mean(logits.argmax(-1) == np.asarray(CODES)[:3])
    np.testing.assert_allclose(aux["proxy_accuracy"][0] / aux["proxy_accuracy"][1], hits, rtol=1e-6)
    assert loss > nll  # and the quantizer's
    with pytest.raises(SpecError, match="give batches that carry them"):
        FIRST.loss(params, state, BATCH, KEY)


@pytest.mark.parametrize("quantizer", ["vq:codes=11:update=ema", "fsq:levels=3,3,2"])
def test_certain_logits_draw_what_the_proxy_draws(quantizer):
    """The proxy's decoder and codebook, whatever its quantizer, are all that its drawings need."""
    width = 3
    proxy = VqGan(size=8, body=PROXY.body, code_width=width, quantizer=quantizer)
    params, state = arrays(proxy)
    codes = jax.random.randint(KEY, (2, 16), 0, proxy.vocab_size)
    found = proxy_params(proxy.codes, params, state)
    spec = ProxySpec(body=proxy.body, codes=proxy.vocab_size, code_width=width)
    images = quick(functools.partial(decode_logits, spec))(found, 1e4 * jax.nn.one_hot(codes, proxy.vocab_size))
    np.testing.assert_allclose(images, quick(proxy.decode)(params, state, codes, KEY), atol=1e-5)


def test_a_single_stage_learns_and_everything_of_it_is_trained():
    system = dataclasses.replace(SINGLE, quantizer="vq:codes=32:revival=anchor")
    _, metrics = trained(system, arrays(system)[0], 40)
    check_gradients(system, metrics[0].gradient_norms, ())
    errors = [np.divide(*m.aux["squared_error"]) for m in metrics]
    assert errors[-1] < 0.7 * errors[0]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"size": 9}, "size: got 9; must be a multiple of patch, 2"),
        ({"stage": "pixel"}, "stage: got 'pixel'; use one of single, proxy, pixels"),
        ({"stage": "proxy"}, "proxy: missing"),
        ({"proxy": PROXY}, "a single stage has none"),
        ({"legacy": True}, "legacy: got True; only the encoder of released weights"),
        ({"quantizer": "residual:depth=2/vq:codes=8"}, "gives a code per vector"),
        ({"stage": "proxy", "proxy": PROXY, "patch": 4}, "a code of the proxy stands for 2 rows"),
        ({"stage": "proxy", "proxy": PROXY, "quantizer": "vq:codes=8:update=ema"}, "keeps codes in the state"),
        ({"stage": "proxy", "proxy": PROXY, "quantizer": "vq:codes=8:revival=anchor"}, "keeps codes in the state"),
        ({"latents": 0}, "latents: got 0"),
    ],
)
def test_what_cannot_be_is_said(fields, says):
    with pytest.raises(SpecError, match=says):
        dataclasses.replace(SINGLE, **fields)


@pytest.mark.parametrize("stage", ["single", "proxy", "pixels"])
def test_flops_are_those_of_the_program(stage):
    wide = ViTSpec(width=128, layers=1, heads=2)
    proxy = ProxySpec(body=ConvSpec(widths=(16, 16, 32), layout="maskgit"), codes=64, code_width=16)
    system = TiTok(
        size=16, patch=4, latents=16, encoder=wide, decoder=wide, code_width=16, quantizer="vq:codes=64",
        stage=stage, proxy=None if stage == "single" else proxy,
    )  # fmt: skip
    shapes = jax.eval_shape(lambda: materialize(system.declare(), KEY))
    state = system.init_state(KEY)

    def program(params, pixels):
        codes = system.encode(params, state, pixels)
        if stage == "proxy":
            return system.logits(params, system.codes.dequantize(params["quantizer"], state["quantizer"], codes))
        return system.decode(params, state, codes, KEY)

    pixels = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
    counted = jax.jit(program).lower(shapes, pixels).compile().cost_analysis()["flops"] / 2
    # XLA also counts norms and activations, and leaves out what a convolution multiplies with padding.
    np.testing.assert_allclose(system.flops(1, 16), counted, rtol=0.15)


def test_flops_of_a_maskgit_encoder_are_those_of_the_program():
    body = ConvSpec(widths=(16, 32, 32), layout="maskgit")
    declared = declare_encoder(body, 3, 8)
    shapes = jax.eval_shape(lambda: materialize(declared, KEY))
    pixels = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    program = jax.jit(functools.partial(conv_encode, body)).lower(shapes, pixels).compile()
    # XLA also counts norms and activations, and leaves out what a convolution multiplies with padding.
    np.testing.assert_allclose(encoder_flops(body, 32, 3, 8), program.cost_analysis()["flops"] / 2, rtol=0.1)


TINY = {
    "size": 16,
    "patch": 8,
    "latents": 6,
    "encoder": (32, 2, 4),
    "decoder": (16, 1, 2),
    "codes": 40,
    "code_width": 4,
}
TWO = Layout(**TINY, two_stages=True, widths=(32, 32, 64, 32), proxy_codes=21, proxy_width=5)
ONE = Layout(**TINY, two_stages=False)


def program(system):
    def everything(params, state, pixels):
        codes = system.encode(params, state, pixels)
        vectors = system.vectors(params, pixels) if isinstance(system, TiTok) else None
        return vectors, codes, system.decode(params, state, codes, KEY)

    return quick(everything)


def loaded(layout, tmp_path, **fields):
    """(system, parameters read from a file of the layout, state, reference)."""
    weights = draw(layout.shapes())
    np.savez(tmp_path / "weights.npz", **weights)
    stacks = [
        ViTSpec(width=width, layers=layers, heads=heads, scan_layers=True)
        for width, layers, heads in (layout.encoder, layout.decoder)
    ]
    proxy = ProxySpec(
        body=ConvSpec(widths=layout.widths, layout="maskgit"), codes=layout.proxy_codes, code_width=layout.proxy_width
    )
    system = TiTok(
        size=layout.size, patch=layout.patch, latents=layout.latents, encoder=stacks[0], decoder=stacks[1],
        code_width=layout.code_width, quantizer=f"vq:codes={layout.codes}:cosine={layout.two_stages}",
        **({"stage": "pixels", "proxy": proxy} if layout.two_stages else {}), **fields,
    )  # fmt: skip
    params = titok_params(system.declare(), load_state(tmp_path / "weights.npz"))
    return system, params, system.init_state(KEY), Reference(layout, weights)


@pytest.mark.parametrize(("layout", "legacy"), [(TWO, True), (ONE, False)], ids=["two_stages", "single"])
def test_released_weights_encode_and_decode_as_published(layout, legacy, tmp_path):
    """Vectors, codes and images of a plain reading of the published layout, in float64, from 0 to 1."""
    system, params, state, reference = loaded(layout, tmp_path, **({"legacy": True} if legacy else {}))
    pixels = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32)
    images = (pixels.transpose(0, 3, 1, 2).astype(np.float64) + 1) / 2
    expected = np.stack([reference.encode(image, legacy) for image in images])
    vectors, codes, found = program(system)(params, state, pixels)
    np.testing.assert_allclose(vectors, expected, atol=2e-4)  # float32 against float64 through three blocks
    quantized = [reference.quantize(z, layout.two_stages) for z in expected]
    np.testing.assert_array_equal(codes, [found for found, _ in quantized])
    expected_images = np.stack([reference.decode(vectors).transpose(1, 2, 0) for _, vectors in quantized])
    scale = np.abs(expected_images).max()
    np.testing.assert_allclose((found + 1) / 2 / scale, expected_images / scale, atol=2e-5)
    if legacy:
        assert np.abs(expected - [reference.encode(image, False) for image in images]).max() > 0.1


def test_weights_of_a_maskgit_vqgan_encode_and_decode_as_published():
    widths, codes, ends = (32, 64, 32), 30, 6
    weights = draw(vqgan_shapes(widths, codes, ends), seed=1)
    system = VqGan(
        size=8, body=ConvSpec(widths=widths, layout="maskgit"), code_width=ends, quantizer=f"vq:codes={codes}"
    )
    params, state = vqgan_params(system.declare(), weights), system.init_state(KEY)
    reference = Reference(None, weights)
    expected = [
        reference.vqgan_encode("encoder", np.asarray(x.T, np.float64) / 2 + 0.5, 3) for x in PIXELS.swapaxes(1, 2)
    ]
    found = [reference.quantize(z.reshape(ends, -1).T, False) for z in expected]
    _, chosen, images = program(system)(params, state, PIXELS)
    np.testing.assert_array_equal(chosen, [codes for codes, _ in found])
    expected_images = np.stack([reference.vqgan_decode("decoder", v.T.reshape(ends, 2, 2), 3) for _, v in found])
    scale = np.abs(expected_images).max()
    images = (np.asarray(images).transpose(0, 3, 1, 2) + 1) / 2
    np.testing.assert_allclose(images / scale, expected_images / scale, atol=2e-5)


def test_weights_that_do_not_fit_are_refused(tmp_path):
    system, *_ = loaded(TWO, tmp_path)
    weights = draw(TWO.shapes())
    with pytest.raises(SpecError, match=r"lack 1 of 1 arrays, 'decoder.ffn.2.bias'"):
        titok_params(system.declare(), {k: v for k, v in weights.items() if k != "decoder.ffn.2.bias"})
    with pytest.raises(SpecError, match=r"\['latents'\].*\(7, 32\) in the weights, \(6, 32\) in the system"):
        titok_params(system.declare(), weights | {"latent_tokens": np.zeros((7, 32))})


# Millions of parameters of the released tokenizers, decoder to pixels included.
PUBLISHED = {
    "titok_l32": (Layout(256, 16, 32, (1024, 24, 16), (1024, 24, 16), 4096, 12, True), 641),
    "titok_b64": (Layout(256, 16, 64, (768, 12, 12), (768, 12, 12), 4096, 12, True), 205),
    "titok_s128": (Layout(256, 16, 128, (512, 8, 8), (512, 8, 8), 4096, 12, True), 84),
    "titok": (Layout(256, 16, 128, (768, 12, 12), (1024, 24, 16), 8192, 64, False), 390),
}


def recipe(name, variant):
    fields = importlib.import_module(f"tokjax.configs.vision.{name}").get_config(variant).to_dict()["system"]
    return build(systems[fields.pop("name")], fields, where="system")


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipes_hold_what_the_published_layout_holds(name):
    layout, millions = PUBLISHED[name]
    declared = recipe(name, "paper").declare()
    of_layout = sum(math.prod(shape) for shape in layout.shapes().values())
    assert count(declared) - count(declared["adversary"]) == of_layout
    assert round(of_layout / 1e6) == millions


def test_the_proxys_recipe_holds_what_maskgits_vqgan_holds():
    declared = recipe("vqgan", "paper").declare()
    shapes = vqgan_shapes((128, 128, 256, 256, 512), 1024, 256)
    assert count(declared) - count(declared["adversary"]) == sum(math.prod(shape) for shape in shapes.values())


@pytest.mark.parametrize("variant", ["smoke", "small", "paper"])
def test_two_stage_recipes_learn_from_the_proxys_recipe(variant):
    """What `vqgan` trains at a scale fits where the two-stage recipes of that scale want it."""
    proxy = recipe("vqgan", variant)
    params = jax.eval_shape(lambda: proxy_params(proxy.codes, materialize(proxy.declare(), KEY), proxy.init_state(KEY)))
    for name in ("titok_l32", "titok_b64", "titok_s128"):
        system = recipe(name, variant)
        assert system.patches == proxy.tokens and (system.size, system.channels) == (proxy.size, proxy.channels)
        wanted = jax.eval_shape(lambda system=system: materialize(system.declare()["proxy"], KEY))
        chex.assert_trees_all_equal_shapes(params, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vqgan", "titok", "titok_l32", "maskgit", "code_lm"])
def test_the_step_lowers_for_sixteen_devices(name):
    script = Path(__file__).parent / "lower_images.py"
    assert all(found > 10 for found in json.loads(simulated.run(16, script, name)[-1]).values())
