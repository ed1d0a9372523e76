"""What every registered quantizer promises, whatever it is made of."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokjax.core.errors import SpecError, UnknownNameError
from tokjax.core.registry import quantizers
from tokjax.nn.param import materialize
from tokjax.quantize import NO_CODE, quantizer
from tokjax.quantize.binary import LFQ

D = 4
KEY = jax.random.key(5)
# Values of required fields, by name: a new quantizer whose fields are named as usual is tested without being listed.
FIELDS = {"codes": "16", "levels": "5,5,4,3", "depth": "3", "groups": "2", "scales": "1,2,4"}


def example(name):
    missing = dataclasses.MISSING
    fields = dataclasses.fields(quantizers[name])
    needed = [f.name for f in fields if f.default is missing and f.name not in ("width", "base")]
    depth = FIELDS | ({"depth": "3"} if name == "residual" else {})
    text = ":".join([name, *(f"{field}={depth[field]}" for field in needed)])
    return f"{text}/vq:codes=16" if "base" in {f.name for f in fields} else text


VARIANTS = [
    "vq:codes=16:update=ema",
    "vq:codes=16:update=ema:init=kmeans:revival=batch",
    "vq:codes=16:update=ema:revival=split:cosine=True",
    "vq:codes=16:init=kmeans:gradient=rotation",
    "vq:codes=16:cosine=True:revival=anchor",
    "vq:codes=16:gradient=diveq:revival=batch",
    "fsp:levels=5,5,4,3:rounded=0.5:distribution=laplace",
    "residual:depth=2/latent:levels=5,5,4,3",
    "fsq:levels=8,5,2,7:skip_rounding=0.5:corrupt=0.5",
    "residual:depth=3:dropout=0.5/vq:codes=16:update=ema:init=kmeans:revival=batch",
    "residual:depth=3:shared=True/vq:codes=16:update=ema",
    "residual:depth=3/fsq:levels=8,5,4,7",
    "residual:depth=3/lfq",
    "residual:depth=2:gradient=rotation/simvq:codes=16",
    "grouped:groups=2/vq:codes=16:update=ema:init=kmeans",
    "grouped:groups=2:shared=True/vq:codes=16",
    "grouped:groups=2/residual:depth=3/vq:codes=16",
    "multiscale:scales=1,2,4:smoothing=0/vq:codes=16:update=ema:init=kmeans",
]
EVERY = [*map(example, quantizers), *VARIANTS]
every_quantizer = pytest.mark.parametrize("text", EVERY)


@functools.cache
def made(text):
    spec = quantizer(text, width=D)
    params = materialize(spec.declare(), jax.random.key(1))
    quantize = jax.jit(spec.quantize, static_argnames="train")
    every = jnp.ones(3 if of_images(text) else (3, 4, 4), bool)

    def run(params, state, x, mask=every, train=False):  # two programs for all tests
        return quantize(params, state, x, KEY, mask=mask, train=train)

    return spec, params, spec.init_state(jax.random.key(2)), run, jax.jit(spec.dequantize)


def vectors(seed=0):
    return jax.random.normal(jax.random.key(seed), (3, 4, 4, D))


def of_images(text):
    """Whether a mask is of whole images."""
    return text.startswith("multiscale")


@every_quantizer
def test_codes_are_in_range_and_stand_for_the_vectors(text):
    spec, params, state, run, dequantize = made(text)
    found = run(params, state, vectors())
    assert found.codes.dtype == jnp.int32 and found.codes.shape == spec.codes_shape((3, 4, 4))
    codes = np.asarray(found.codes)
    size = spec.sizes[0] if of_images(text) or len(spec.sizes) == 1 else np.asarray(spec.sizes)
    assert (codes >= 0).all() and (codes < size).all()
    # Bit for bit, but where levels are scaled: one of two programs may fuse the product with the sum.
    rounding = 1e-6 if text.startswith("residual") and "fsq" in text else 0.0
    np.testing.assert_allclose(dequantize(params, state, found.codes), found.vectors, rtol=0, atol=rounding)


@every_quantizer
def test_evaluation_changes_no_state_and_a_vector_is_quantized_alone(text):
    _, params, state, run, _ = made(text)
    found = run(params, state, vectors())
    jax.tree.map(np.testing.assert_array_equal, found.state, state)
    among_others = run(params, state, vectors(seed=9).at[1].set(vectors()[1]))
    np.testing.assert_array_equal(among_others.codes[1], found.codes[1])


@every_quantizer
def test_same_key_same_step(text):
    _, params, state, run, _ = made(text)
    first, second = (run(params, state, vectors(), train=True) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert jax.tree.structure(first.state) == jax.tree.structure(state)


@every_quantizer
@pytest.mark.parametrize("train", [False, True])
def test_vectors_that_do_not_exist_count_for_nothing(text, train):
    _, params, state, run, _ = made(text)
    exists = jnp.array([True, False, True])
    if not of_images(text):
        exists = jnp.arange(48).reshape(3, 4, 4) % 3 > 0
    hidden = (exists[:, None, None] if of_images(text) else exists)[..., None]
    x, other = vectors(), vectors(seed=9) * 100
    first = run(params, state, x, exists, train)
    second = run(params, state, jnp.where(hidden, x, other), exists, train)
    jax.tree.map(np.testing.assert_array_equal, first, second)
    missing = ~(exists[:, None] if of_images(text) else exists)
    codes = first.codes if first.codes.ndim == missing.ndim else first.codes[..., 0]
    np.testing.assert_array_equal(codes == NO_CODE, jnp.broadcast_to(missing, codes.shape))
    assert not jnp.any(jnp.where(hidden, 0.0, first.vectors))


@every_quantizer
def test_nothing_to_quantize_changes_no_codebook_and_is_finite(text):
    _, params, state, run, _ = made(text)
    none = jnp.zeros(3 if of_images(text) else (3, 4, 4), bool)
    found = run(params, state, vectors(), none, train=True)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


@pytest.mark.parametrize("text", [example(name) for name in quantizers])
def test_half_precision_gives_codes_of_the_same_values(text):
    _, params, state, run, _ = made(text)
    half = vectors().astype(jnp.bfloat16)
    found = run(params, state, half)
    np.testing.assert_array_equal(found.codes, run(params, state, half.astype(jnp.float32)).codes)
    assert found.vectors.dtype == jnp.bfloat16 and found.loss.dtype == jnp.float32


@every_quantizer
def test_gradients_are_finite_even_of_zero_vectors(text):
    spec, params, state, _, _ = made(text)

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1))
    def gradient(params, x):
        found = spec.quantize(params, state, x, KEY, train=True)
        return jnp.sum(jnp.square(found.vectors)) + found.loss

    for x in (vectors(), jnp.zeros((3, 4, 4, D))):
        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient(params, x)))


@every_quantizer
def test_bits_are_those_of_the_codes(text):
    spec = made(text)[0]
    codes = np.prod(spec.codes_shape((3, 4, 4)))
    assert spec.bits((3, 4, 4)) == pytest.approx(codes * np.mean(np.log2(spec.sizes)))
    assert spec.flops(48) >= 0


@every_quantizer
def test_misuse_says_what_to_do(text):
    spec, params, state, _, _ = made(text)
    with pytest.raises(SpecError, match="width: got 4"):
        spec.quantize(params, state, jnp.zeros((3, 4, 4, D + 1)))
    with pytest.raises(SpecError, match="give a key"):
        spec.quantize(params, state, vectors(), train=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vq:codes=1", "codes: got 1"),
        ("vq", "codes: missing"),
        ("vq:codes=16:update=sgd", "update"),
        ("vq:codes=16:revival=anchor:update=ema", "revival: got 'anchor'; it moves codes that gradients train"),
        ("vq:codes=16:dead_below=-1.0", "dead_below"),
        ("fsq:levels=5,5", "one number of levels per channel; the width is 4"),
        ("fsq:levels=5,5,5,1", "levels"),
        ("fsq:levels=2000,2000,2000,2000", "codes are int32"),
        ("latent:levels=5,5,5", "one number of levels per channel; the width is 4"),
        ("latent:levels=5,5,5,5:quantization=-1.0", "quantization"),
        ("fsp:levels=5,5,5,5:distribution=cauchy", "expected one of .normal., .logistic., .tanh., .laplace."),
        ("fsp:levels=5,5,5,5:rounded=1.5", "rounded"),
        ("residual:depth=2/fsp:levels=5,5,5,5", "cannot be quantized in turn"),
        ("vq:codes=16:gradient=diveq:update=ema", "gradient: got 'diveq'; it trains codes by gradients"),
        ("vq:codes=16:gradient=diveq:noise=-1.0", "noise"),
        ("lfq:group_bits=13", "group_bits"),
        ("residual:depth=2/vq:codes=4:cosine=True", "cannot be quantized in turn"),
        ("residual:depth=2/ibq:codes=4", "cannot be quantized in turn"),
        ("residual:depth=2", "base: missing"),
        ("grouped:groups=3/vq:codes=4", "must divide the width 4"),
        ("grouped:groups=2/random_projection:codes=4", "another width"),
        ("multiscale:scales=2,1/vq:codes=4", "numbers that grow"),
        ("multiscale:scales=1,2/lfq", "no fixed range"),
    ],
)
def test_impossible_specs_say_what_to_do(text, message):
    with pytest.raises(SpecError, match=message):
        quantizer(text, width=D)


def test_unknown_names_and_wide_codes():
    with pytest.raises(UnknownNameError, match="Did you mean 'simvq'"):
        quantizer("simqv", width=D)
    with pytest.raises(SpecError, match="name"):
        quantizer({"codes": 4}, width=D)
    with pytest.raises(SpecError, match="at most 30 channels"):
        LFQ(width=31)
    assert quantizer({"name": "fsq", "levels": [5, 5]}, width=2) == quantizer("fsq:levels=5,5", width=2)
