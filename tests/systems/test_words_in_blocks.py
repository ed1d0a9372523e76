"""Models of words give the same logits whether rows stay as they are or words are laid out in blocks of 128 slots."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokjax.nn.param import materialize
from tokjax.nn.transformer import TransformerSpec
from tokjax.objectives.language import stream_batch
from tokjax.systems.language.hat import Hat
from tokjax.systems.language.word_pooled import WordPooled
from tokjax.text.words import END_OF_WORD

LOCAL = TransformerSpec(width=32, layers=1, heads=2)
STACKS = {"backbone": LOCAL, "encoder": LOCAL, "decoder": LOCAL}
SYSTEMS = {
    "hat": Hat(**STACKS, cap=10, symbols_per_word=2.0),
    "word_pooled": WordPooled(vocab_size=END_OF_WORD + 2, **STACKS, prefixes=2, cap=10, symbols_per_word=2.0),
}


def words(length):
    """Two rows of words of one to ten bytes, each closed by its mark."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(2):
        row = []
        while len(row) < length:
            row += [*rng.integers(0, 256, rng.integers(1, 11)), END_OF_WORD]
        rows.append(row[:length])
    return jnp.array(rows, jnp.int32)


@pytest.mark.parametrize("name", SYSTEMS)
def test_logits_are_the_same_wherever_words_lie(name):
    batch = stream_batch(words(300))
    params = materialize(SYSTEMS[name].declare(), jax.random.key(0))

    def logits(attention):
        local = dataclasses.replace(LOCAL, attention=attention)
        system = dataclasses.replace(SYSTEMS[name], encoder=local, decoder=local)
        return jax.jit(system.logits)(params, batch)

    (expected, none), (found, overflow) = logits("neighbours"), logits("xla")
    assert none == overflow == 0
    np.testing.assert_allclose(found, expected, atol=2e-5)  # sums of the same terms in another order


def test_what_has_no_room_is_counted():
    """Words of 85 bytes leave a third of every block empty: more than is kept ready."""
    ids = jnp.tile(jnp.concatenate([jnp.full(85, 7), jnp.array([END_OF_WORD])]), 30)[None].astype(jnp.int32)
    local = dataclasses.replace(LOCAL, attention="xla")
    system = dataclasses.replace(SYSTEMS["hat"], encoder=local, decoder=local, cap=85)
    batch = stream_batch(ids).replace(loss_mask=jnp.ones(ids.shape, jnp.float32))
    logits, overflow = jax.jit(system.logits)(materialize(system.declare(), jax.random.key(0)), batch)
    assert 0 < overflow < ids.size and np.isfinite(logits).all()
