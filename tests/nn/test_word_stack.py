"""Words laid out in blocks: none straddles, nothing is lost, and a stack gives the same wherever they lie."""

import dataclasses
import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokjax.core.errors import SpecError
from tokjax.nn.packing import align_words, aligned_slots
from tokjax.nn.param import materialize
from tokjax.nn.transformer import TransformerSpec, declare_transformer
from tokjax.nn.word_stack import word_stack, word_stack_flops

T, LONGEST, BLOCK = 60, 5, 8
align = jax.jit(functools.partial(align_words, longest=LONGEST, block=BLOCK))


def row_of(lengths, length):
    """Word ids of a row of `length` positions; a length below 1 is that many positions of padding, and one."""
    ids, number = [], 0
    for n in lengths:
        number += n > 0
        ids += [number] * n if n > 0 else [0] * (1 - n)
    return (ids + [0] * length)[:length]


@hypothesis.given(st.lists(st.integers(-3, LONGEST), max_size=T))
def test_no_word_straddles_a_block_and_none_is_lost_that_fits(lengths):
    word = np.array([row_of(lengths, T)], np.int32)
    layout = jax.tree.map(lambda x: np.asarray(x)[0], align(word))
    fitting = layout.fits.sum()
    assert layout.fits[:fitting].all() and layout.filled.sum() == fitting
    assert len(layout.position) == aligned_slots(T, LONGEST, BLOCK)
    slot, word = layout.slot[:fitting], word[0, :fitting]
    np.testing.assert_array_equal(layout.position[slot], np.arange(fitting))
    assert layout.filled[slot].all() and (np.diff(slot) > 0).all()
    for number in set(word) - {0}:
        assert len(set(slot[word == number] // BLOCK)) == 1 and (np.diff(slot[word == number]) == 1).all()
    # Only a word that does not fit leaves slots of a block empty, and only a full last block leaves positions out.
    for block in range(slot[-1] // BLOCK):
        held = np.flatnonzero(slot // BLOCK == block)
        following = word[held[-1] + 1]
        assert len(held) + max(1, np.sum(word == following) if following else 1) > BLOCK or fitting < T
    assert fitting == T or layout.filled[-BLOCK:].all()


def test_every_device_has_as_many_blocks():
    for parts in (1, 2, 3, 4):
        slots = aligned_slots(T, LONGEST, BLOCK, parts)
        assert slots % (parts * BLOCK) == 0 and 0 <= slots - aligned_slots(T, LONGEST, BLOCK) < parts * BLOCK


def test_only_what_cannot_hold_the_next_word_stays_empty():
    layout = align(jnp.array([row_of([5, 3, 5, 4, 4], T)], jnp.int32))
    np.testing.assert_array_equal(layout.slot[0, :21], [*range(8), *range(8, 13), *range(16, 24)])


def test_whether_a_position_fits_depends_on_what_stands_before_it_only():
    rng = np.random.default_rng(0)
    for _ in range(20):
        lengths = rng.choice([LONGEST] * 9 + [1], T)  # words that leave slots empty
        word = row_of(lengths, T)
        fits = np.asarray(align(jnp.array([word], jnp.int32)).fits[0])
        assert not fits.all()
        for cut in range(int(fits.sum()) - 2 * LONGEST, T):
            other = word[:cut] + [word[cut - 1] + 1 + n for n in range(T - cut)]  # from there on words of one position
            found = np.asarray(align(jnp.array([other], jnp.int32)).fits[0])
            np.testing.assert_array_equal(found[:cut], fits[:cut])


@functools.cache
def stack(attention):
    spec = TransformerSpec(width=16, layers=2, heads=4, kv_heads=2, attention=attention)
    params = materialize(declare_transformer(spec), jax.random.key(0))

    def loss(x, word, weights, causal):
        out, fits = word_stack(spec, params, x, jnp.arange(x.shape[1]), word, longest=9, block=16, causal=causal)
        return jnp.sum(out * weights), (out, fits)

    return jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=3)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("implementation", ["xla", "pallas"])
def test_every_layout_gives_the_same(implementation, causal):
    rng = np.random.default_rng(0)
    word = jnp.array([row_of(rng.integers(-1, 10, 300), 400), row_of(rng.integers(1, 4, 50), 400)], jnp.int32)
    x = jax.random.normal(jax.random.key(1), (2, 400, 16))
    weights = jax.random.normal(jax.random.key(2), x.shape) * (word > 0)[..., None]

    def value(attention):
        (_, (out, fits)), gradient = stack(attention)(x, word, weights, causal)
        assert fits.all()
        return np.asarray(out * (word > 0)[..., None]), np.asarray(gradient)

    for found, expected in zip(value(implementation), value("neighbours"), strict=True):
        # Sums of the same terms in another order, through two layers and their norms.
        np.testing.assert_allclose(found, expected, atol=2e-5)


def test_positions_without_room_are_zeros():
    # Words of 68 positions leave 60 slots of each block empty.
    spec = TransformerSpec(width=16, layers=1, heads=2, attention="xla")
    params = materialize(declare_transformer(spec), jax.random.key(0))
    word = jnp.repeat(jnp.arange(1, 21), 68)[None]
    x = jax.random.normal(jax.random.key(1), (1, word.shape[1], 16))
    out, fits = word_stack(spec, params, x, jnp.arange(x.shape[1]), word, longest=68, block=128, causal=True)
    held = aligned_slots(word.shape[1], 68, 128) // 128 * 68 + 60  # the last block is filled to its end
    assert int(fits.sum()) == held < fits.size
    assert (np.asarray(out)[~np.asarray(fits)] == 0).all() and (np.asarray(out)[np.asarray(fits)] != 0).any()


def test_words_longer_than_a_block_are_refused():
    spec = TransformerSpec(width=16, layers=1, heads=2, attention="pallas")
    with pytest.raises(SpecError, match="words of at most 128 positions, these have up to 200; use 'neighbours'"):
        x, word = jnp.zeros((1, 300, 16)), jnp.ones((1, 300), jnp.int32)
        word_stack(spec, {}, x, jnp.arange(300), word, longest=200, block=256, causal=True)


def test_flops_are_those_of_the_layout():
    spec = TransformerSpec(width=16, layers=1, heads=2, attention="xla")
    count = functools.partial(word_stack_flops, batch_size=1, length=400, longest=9, block=16, causal=True)
    stays = dataclasses.replace(spec, attention="neighbours")
    # 4 blocks of 128 where 25 of 16 see 32 keys: 512 x 128 pairs against 400 x 32, each twice 2 K H FLOPs.
    matmuls = count(stays) - 4.0 * 400 * 32 * 16
    assert count(spec) == matmuls / 400 * 512 + 4.0 * 512 * 128 * 16
