"""Ciphers are read off states that do not know the names of symbols."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokjax.core.errors import SpecError
from tokjax.measure.decipher import best_key, decipher, fit_decipherer, key_accuracy, match_frequencies, stretches
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


def test_texts_are_whole_stretches_of_documents():
    documents = [np.arange(7), np.arange(2), np.arange(10, 16)]
    assert stretches(documents, 3, 9).tolist() == [[0, 1, 2], [3, 4, 5], [10, 11, 12], [13, 14, 15]]
    assert stretches(documents, 3, 2).tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(SpecError, match="length: got 8; no document has as many ids"):
        stretches(documents, 8, 1)


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
    found = match_frequencies(texts(4, 3), counts)
    assert key_accuracy(found) == 1.0
    assert all((text.guessed == text.plain).all() for text in found)
    rarest = match_frequencies(np.full((1, 8), SYMBOLS[-1]), counts)  # a text of the rarest symbol alone
    assert key_accuracy(rarest) == 0.0
    assert not rarest[0].right.any()


def test_a_key_gives_no_symbol_twice():
    """Two cipher symbols that look the same to the probe share its two best classes between them."""
    evidence = np.log([[0.6, 0.3, 0.1], [0.5, 0.2, 0.3], [0.6, 0.1, 0.3]])
    assert best_key(evidence).tolist() == [1, 2, 0]  # 0.3 * 0.3 * 0.6, the greatest of all six products
    more = np.log([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]])  # more symbols than classes: one stays with its own best
    assert best_key(more).tolist() == [0, 1, 1]


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
