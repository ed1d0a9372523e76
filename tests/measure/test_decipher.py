"""Ciphers are read off states that do not know the names of symbols."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokjax.measure.decipher import decipher, fit_decipherer, key_accuracy, match_frequencies
from tokjax.nn.param import materialize
from tokjax.nn.transformer import TransformerSpec
from tokjax.systems.language.lm import Lexinvariant

SYMBOLS = np.arange(40, 46)
COUNTS = np.array([50, 25, 12, 6, 4, 3])  # of each symbol in a row of 100, so that its rank says which it is


@dataclasses.dataclass(frozen=True)
class Ranks:
    """A stand-in for a model: the state of a position is how frequent its symbol is in its row, whatever its name."""

    vocab_size: int = 60

    def hidden(self, params, batch, key):
        del params, key
        same = batch.ids[:, :, None] == batch.ids[:, None, :]
        return jax.nn.one_hot(same.sum(axis=-1), 101)


def texts(rows, seed):
    generator = np.random.default_rng(seed)
    return np.stack([generator.permutation(np.repeat(SYMBOLS, COUNTS)) for _ in range(rows)])


def test_states_that_tell_symbols_apart_give_the_whole_key():
    reader = fit_decipherer(Ranks(), {}, texts(9, 0), positions=400, seed=0)
    found = decipher(Ranks(), {}, reader, texts(5, 1), SYMBOLS, seed=1)
    assert key_accuracy(found) == 1.0
    for text, plain in zip(found, texts(5, 1), strict=True):
        np.testing.assert_array_equal(text.plain, plain)
        assert text.right.all() and (text.guessed == plain).all()
        assert sorted(text.key) == sorted(text.key.values()) == SYMBOLS.tolist()
    assert len({tuple(text.key.items()) for text in found}) > 1  # every text has a cipher of its own


def test_frequency_alone_reads_a_text_of_typical_frequencies():
    counts = np.bincount(texts(3, 2).ravel(), minlength=60)
    assert match_frequencies(texts(4, 3), counts).all()
    assert not match_frequencies(np.full((1, 8), SYMBOLS[-1]), counts).any()  # a text of the rarest symbol alone


def test_key_accuracy_counts_each_symbol_once():
    reader = fit_decipherer(Ranks(), {}, texts(9, 0), positions=400, seed=0)
    swapped = dataclasses.replace(reader, symbols=reader.symbols[[1, 0, 2, 3, 4, 5]])
    found = decipher(Ranks(), {}, swapped, texts(5, 1), SYMBOLS, seed=1)
    assert key_accuracy(found) == pytest.approx(4 / 6)
    assert key_accuracy(found, SYMBOLS[:2]) == 0.0
    assert np.mean([text.right for text in found]) == pytest.approx(0.25)


def test_a_lexinvariant_model_reads_a_cipher_as_the_plain_text():
    """Under the same draw its states are another draw's; only the probe can say which symbol is which."""
    system = Lexinvariant(vocab_size=60, backbone=TransformerSpec(width=16, layers=1, heads=2))
    params = materialize(system.declare(), jax.random.key(0))
    reader = fit_decipherer(system, params, texts(8, 0), positions=200, seed=0)
    found = decipher(system, params, reader, texts(8, 1), SYMBOLS, seed=2)
    assert 0 <= key_accuracy(found) < 0.9  # untrained: no better than guessing by frequency
    assert all(set(text.key.values()) <= set(SYMBOLS.tolist()) for text in found)
    assert jnp.isfinite(jnp.asarray([text.right.mean() for text in found])).all()
