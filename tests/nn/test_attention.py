"""Attention: every implementation against float64 NumPy, and what no implementation may do."""

import importlib.util

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokjax.core.errors import SpecError
from tokjax.core.platform import compiling_for
from tokjax.kernels import library
from tokjax.nn import attention as module
from tokjax.nn.attention import (
    attention,
    attention_flops,
    default_implementation,
    local_attention,
    masked_attention,
    sliding_window_attention,
)

# Sums of at most a few dozen float32 products of order one: a few times 1e-7 each; ten times that is allowed.
TOLERANCE = {"rtol": 1e-5, "atol": 5e-6}
TOKAMAX = importlib.util.find_spec("tokamax") is not None
EXACT = ("xla", "blocks", *(["tokamax"] if TOKAMAX else []))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Several blocks, the last one partial, at sizes that test fast."""
    monkeypatch.setattr(module, "QUERY_BLOCK", 4)


def draw(seed=0, batch=2, length=11, heads=4, groups=2, width=6, dtype=np.float32):
    """Random q, k, v and output gradient."""
    rng = np.random.default_rng(seed)
    shapes = [(batch, length, n, width) for n in (heads, groups, groups, heads)]
    return [jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes]


def segments(*lengths, batch=2):
    """Segments of these lengths numbered from 1; a negative length is padding."""
    row = np.concatenate([np.full(abs(n), i if n > 0 else 0) for i, n in enumerate(lengths, 1)])
    return jnp.asarray(np.tile(row, (batch, 1)), jnp.int32)


def oracle(q, k, v, seen):
    """Attention in float64, query by query; `seen` is bool [B, T, S]."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros(q.shape)
    for b, t, h in np.ndindex(*q.shape[:3]):
        keys = np.flatnonzero(seen[b, t])
        if keys.size:
            g = h // (q.shape[2] // k.shape[2])
            scores = k[b, keys, g] @ q[b, t, h] / np.sqrt(q.shape[3])
            weights = np.exp(scores - scores.max())
            out[b, t, h] = weights @ v[b, keys, g] / weights.sum()
    return out


def sight(segment_ids, causal, window=None):
    """Which positions see which, bool [B, T, T], from the definition."""
    ids = np.asarray(segment_ids)
    back = np.arange(ids.shape[1])[:, None] - np.arange(ids.shape[1])
    near = (back >= 0 if causal else True) & (back < window if window else True)
    return (ids[:, :, None] == ids[:, None, :]) & (ids[:, :, None] != 0) & near


def gradients(function, q, k, v, d_out):
    return jax.jit(lambda q, k, v, d_out: jax.vjp(function, q, k, v)[1](d_out))(q, k, v, d_out)


SHAPES = st.tuples(st.integers(1, 2), st.integers(1, 13), st.integers(1, 2), st.integers(1, 3), st.sampled_from([2, 5]))


@settings(max_examples=10)  # each shape compiles anew
@given(SHAPES, st.booleans(), st.sampled_from(EXACT), st.data())
def test_equals_the_definition(shape, causal, implementation, data):
    batch, length, groups, group, width = shape
    q, k, v, _ = draw(1, batch, length, groups * group, groups, width)
    # Any ids, segments of one kind in two places included.
    ids = np.array(data.draw(st.lists(st.integers(0, 2), min_size=batch * length, max_size=batch * length)))
    ids = ids.reshape(batch, length).astype(np.int32)
    run = jax.jit(attention, static_argnames=("causal", "implementation"))
    out = run(q, k, v, segment_ids=jnp.asarray(ids), causal=causal, implementation=implementation)
    np.testing.assert_allclose(out, oracle(q, k, v, sight(ids, causal)), **TOLERANCE)


@pytest.mark.parametrize("segment_ids", [None, segments(5, 4, -2), segments(-3, 1, 7)])
def test_blocks_have_the_gradients_of_dense(segment_ids):
    inputs = draw(2)

    def run(implementation):
        return gradients(lambda *qkv: attention(*qkv, segment_ids=segment_ids, implementation=implementation), *inputs)

    chex.assert_trees_all_close(run("blocks"), run("xla"), **TOLERANCE)


@pytest.mark.parametrize("implementation", EXACT)
def test_gradients_equal_finite_differences(implementation):
    q, k, v, d_out = draw(3, batch=1, length=6, heads=2, groups=1, width=2)
    ids = segments(4, 1, -1, batch=1)
    rng = np.random.default_rng(4)
    directions = [rng.standard_normal(x.shape) for x in (q, k, v)]
    slopes = gradients(lambda *x: attention(*x, segment_ids=ids, implementation=implementation), q, k, v, d_out)

    def value(step):
        moved = [np.asarray(x, np.float64) + step * d for x, d in zip((q, k, v), directions, strict=True)]
        return np.sum(oracle(*moved, sight(ids, True)) * np.asarray(d_out, np.float64))

    expected = (value(1e-5) - value(-1e-5)) / 2e-5  # float64: error about 1e-10
    actual = sum(np.sum(np.asarray(s, np.float64) * d) for s, d in zip(slopes, directions, strict=True))
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("implementation", EXACT)
def test_the_future_and_other_segments_do_not_matter(implementation):
    q, k, v, _ = draw(5)
    ids = segments(3, 6, 2)
    before = attention(q, k, v, segment_ids=ids, implementation=implementation)
    for changed, alike in ((7, [*range(7), 9, 10]), (1, [0, *range(3, 11)])):
        noisy = [x.at[:, changed].set(100.0) for x in (k, v)]
        after = attention(q, *noisy, segment_ids=ids, implementation=implementation)
        np.testing.assert_array_equal(after[:, alike], before[:, alike])
        assert not np.allclose(after[:, changed], before[:, changed])


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("implementation", EXACT)
def test_padding_gives_zeros_and_finite_zero_gradients(implementation, causal):
    q, k, v, d_out = (100.0 * x for x in draw(6))
    ids = segments(-1, 5, -5)
    padding = np.asarray(ids[0]) == 0

    def run(*qkv):
        return attention(*qkv, segment_ids=ids, causal=causal, implementation=implementation)

    assert not np.any(run(q, k, v)[:, padding])
    for gradient in gradients(run, q, k, v, d_out):
        chex.assert_tree_all_finite(gradient)
        assert not np.any(gradient[:, padding])


@pytest.mark.parametrize("implementation", EXACT)
def test_grouped_queries_equal_repeated_heads(implementation):
    q, k, v, d_out = draw(7)

    def run(q, k, v, repeats):
        k, v = (jnp.repeat(x, repeats, axis=2) for x in (k, v))
        return attention(q, k, v, implementation=implementation)

    chex.assert_trees_all_close(run(q, k, v, 1), run(q, k, v, 2), **TOLERANCE)
    chex.assert_trees_all_close(*(gradients(lambda *x, n=n: run(*x, n), q, k, v, d_out) for n in (1, 2)), **TOLERANCE)


@pytest.mark.parametrize("implementation", EXACT)
def test_large_scores_do_not_overflow(implementation):
    q, k, v, d_out = draw(8)
    run = jax.jit(lambda q, k, v: attention(q, k, v, implementation=implementation))
    chex.assert_tree_all_finite((run(1e4 * q, 1e4 * k, v), gradients(run, 1e4 * q, 1e4 * k, v, d_out)))


@pytest.mark.parametrize("implementation", EXACT)
def test_bfloat16_keeps_its_dtype_and_is_close(implementation):
    full = draw(9)
    q, k, v, d_out = (x.astype(jnp.bfloat16) for x in full)
    run = lambda *x: attention(*x, segment_ids=segments(7, -4), implementation=implementation)  # noqa: E731
    half, whole = (run(q, k, v), *gradients(run, q, k, v, d_out)), (run(*full[:3]), *gradients(run, *full))
    assert {x.dtype for x in half} == {jnp.bfloat16.dtype}
    # bfloat16 has 8 bits: 0.4% of each of the inputs, the weights and the result, which are of order one.
    chex.assert_trees_all_close(jax.tree.map(lambda x: x.astype(jnp.float32), half), whole, atol=0.06, rtol=0.05)


@settings(max_examples=10)  # each shape compiles anew
@given(st.integers(1, 14), st.integers(1, 6), st.booleans())
def test_local_attention_is_exact_for_short_segments(length, block, causal):
    q, k, v, _ = draw(10, length=length)
    starts = np.arange(length) // block  # segments of `block` positions, moved so that they straddle the blocks
    ids = np.roll(np.tile(starts + 1, (2, 1)), block // 2, axis=1)
    ids[:, : block // 2] = length + 1
    ids[1, -2:] = 0
    ids = jnp.asarray(ids, jnp.int32)
    run = jax.jit(local_attention, static_argnames=("block", "causal"))
    out = run(q, k, v, segment_ids=ids, block=block, causal=causal)
    np.testing.assert_allclose(out, oracle(q, k, v, sight(ids, causal)), **TOLERANCE)


@settings(max_examples=10)  # each shape compiles anew
@given(st.integers(1, 14), st.integers(1, 16))
def test_sliding_window_sees_the_last_positions_only(length, window):
    q, k, v, _ = draw(11, length=length)
    ids = segments(length - length // 3, length // 3)
    run = jax.jit(sliding_window_attention, static_argnames="window")
    out = run(q, k, v, segment_ids=ids, window=window)
    np.testing.assert_allclose(out, oracle(q, k, v, sight(ids, True, window)), **TOLERANCE)


def test_local_padding_gives_zeros_and_finite_gradients():
    q, k, v, d_out = draw(12)
    ids = segments(4, -7)
    run = lambda *x: local_attention(*x, segment_ids=ids, block=4, causal=False)  # noqa: E731
    assert not np.any(run(q, k, v)[:, 4:])
    chex.assert_tree_all_finite(gradients(run, q, k, v, d_out))


def test_a_filled_cache_gives_the_rows_of_whole_attention():
    q, k, v, _ = draw(13)
    length, slots = q.shape[1], q.shape[1] + 3
    whole = attention(q, k, v, implementation="xla")
    caches = [jnp.pad(x, ((0, 0), (0, 3), (0, 0), (0, 0)), constant_values=99.0) for x in (k, v)]
    for start, stop in ((0, 1), (4, 7), (length - 1, length)):
        mask = jnp.arange(slots) <= jnp.arange(start, stop)[:, None]
        out = masked_attention(q[:, start:stop], *caches, mask=mask[None])
        chex.assert_trees_all_close(out, whole[:, start:stop], **TOLERANCE)


def test_flops_are_those_of_the_compiled_matmuls():
    # Matmuls of this width dwarf the softmax; XLA's own count of both must agree to the size of the rest.
    batch, length, heads, width = 1, 10, 2, 512
    q, k, v, _ = draw(14, batch, length, heads, heads, width)
    for implementation in EXACT:
        run = jax.jit(lambda *x, i=implementation: attention(*x, implementation=i))
        counted = run.lower(q, k, v).cost_analysis()["flops"]
        expected = attention_flops(batch, length, heads, width, implementation)
        assert expected <= counted <= 1.1 * expected
    pairs = 4 * 4 + 4 * 8 + 2 * 10
    assert attention_flops(batch, length, heads, width, "blocks") == 4.0 * heads * width * pairs


def test_the_default_is_exact_and_by_platform():
    q, k, v, _ = draw(15)
    assert default_implementation(8, causal=True) == "blocks"  # these tests run on a CPU
    assert default_implementation(7, causal=True) == default_implementation(8, causal=False) == "xla"
    chex.assert_trees_all_close(attention(q, k, v), attention(q, k, v, implementation="xla"), **TOLERANCE)


@pytest.mark.parametrize("where", ["gpu", "tpu"])
def test_long_rows_take_the_flash_attention_that_is_installed(monkeypatch, where):
    monkeypatch.setattr(jax, "default_backend", lambda: where)
    monkeypatch.setattr(library, "has_tokamax", lambda: True)
    assert [default_implementation(length, causal=True) for length in (2047, 2048)] == ["xla", "tokamax"]
    monkeypatch.setattr(module, "devices_along", lambda axis: 2)  # rows are split
    assert default_implementation(2048, causal=True) == "xla"
    monkeypatch.undo()
    monkeypatch.setattr(jax, "default_backend", lambda: where)
    monkeypatch.setattr(library, "has_tokamax", lambda: True)
    with compiling_for("gpu" if where == "tpu" else "tpu"):  # a chip that is not here
        assert default_implementation(2048, causal=True) == "xla"
    monkeypatch.setattr(library, "has_tokamax", lambda: False)
    assert default_implementation(2048, causal=True) == "xla"


def test_cudnn_blanks_padding(monkeypatch):
    # The kernel itself needs a GPU; its masks are the same for JAX's portable implementation, which stands in here.
    portable = jax.nn.dot_product_attention
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax.nn, "dot_product_attention", lambda *a, implementation, **kw: portable(*a, **kw))
    q, k, v, _ = (x.astype(jnp.bfloat16) for x in draw(16))
    for ids in (None, segments(-2, 5, -4)):
        outs = [attention(q, k, v, segment_ids=ids, implementation=i).astype(jnp.float32) for i in ("cudnn", "xla")]
        chex.assert_trees_all_close(*outs, atol=0.03)  # both round weights and result to 8 bits


def test_refusals_name_the_fault():
    q, k, v, _ = draw(17)
    with pytest.raises(SpecError, match="Did you mean 'blocks'"):
        attention(q, k, v, implementation="block")
    with pytest.raises(SpecError, match="'cudnn' needs an NVIDIA GPU"):
        attention(q, k, v, implementation="cudnn")
    with pytest.raises(SpecError, match="3 query heads cannot share 2"):
        attention(q[:, :, :3], k, v)
    with pytest.raises(SpecError, match="expected"):
        attention(q, k[..., :3], v)
    with pytest.raises(SpecError, match="at least 1"):
        sliding_window_attention(q, k, v, segment_ids=segments(11), window=0)


def test_an_installed_library_that_cannot_be_imported_is_named_and_not_chosen(monkeypatch):
    def broken(name):
        raise RuntimeError(f"{name} wants another jax")

    monkeypatch.setattr(library.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(library.importlib, "import_module", broken)
    library.has_tokamax.cache_clear()
    try:
        with pytest.warns(UserWarning, match="cannot be imported, XLA runs instead .*tokamax wants another jax"):
            assert not library.has_tokamax()
    finally:
        library.has_tokamax.cache_clear()


@pytest.mark.skipif(TOKAMAX, reason="tokamax is installed")
def test_a_library_that_is_not_installed_is_named():
    q, k, v, _ = draw()
    with pytest.raises(SpecError, match=r"'tokamax' is not installed .*pip install 'tokjax\[tokamax\]'"):
        attention(q, k, v, implementation="tokamax")
