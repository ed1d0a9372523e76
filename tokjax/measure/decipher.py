"""Reading a cipher off a lexinvariant model: a probe finds which symbol of the plain text each position stands for.

A substitution cipher renames the symbols of a text. A lexinvariant model cannot tell: all names are new to it. What it
has worked out about a symbol is in its hidden states, and a linear probe reads it.

Source: Huang et al. 2023, section 4.2 (there with a two-layer probe).

Letters: `N` positions, `D` width, `V` vocabulary, `T` symbols of a text.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from tokjax.core.keys import named
from tokjax.core.types import Batch, Params
from tokjax.measure.probe import LinearProbe, fit_probe
from tokjax.objectives.language import stream_batch

_ROWS = 8  # texts that the model reads at once


class Reader(Protocol):
    """What is needed of a model: states of positions, under drawn vectors."""

    @property
    def vocab_size(self) -> int:
        """V, the end of a document included; the last."""
        ...

    def hidden(self, params: Params, batch: Batch, key: jax.Array) -> jax.Array:
        """Returns [B, T, D], with a key for each row."""
        ...


@dataclasses.dataclass(frozen=True)
class Deciphered:
    """What came of one ciphered text.

    Attributes:
      plain: int [T], the text before it was ciphered.
      guessed: int [T], what the probe reads at each position.
      key: cipher symbol -> the plain symbol that most of its positions are read as.
      right: bool [T], whether `key` gives back each position.
    """

    plain: np.ndarray
    guessed: np.ndarray
    key: dict[int, int]
    right: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Decipherer:
    """A probe that reads symbols.

    Attributes:
      probe: over those that it was fitted on.
      symbols: int [C], the symbol of each of its classes.
    """

    probe: LinearProbe
    symbols: np.ndarray

    def read(self, states: np.ndarray) -> np.ndarray:
        """Returns the symbol that each of `states` [N, D] most likely stands for, int [N]."""
        return self.symbols[self.probe.predict(states)]


@functools.partial(jax.jit, static_argnums=0)
def _read(system: Reader, params: Params, ids: jax.Array, keys: jax.Array) -> jax.Array:
    return system.hidden(params, stream_batch(ids), keys)


def hidden_states(system: Reader, params: Params, texts: np.ndarray, key: jax.Array) -> np.ndarray:
    """Returns what `system` makes of each symbol of `texts` int [rows, T], float32 [rows, T, D]; each row has its draw.

    The end of a document stands before every text, and is not among the results.
    """
    ends = np.full((len(texts), 1), system.vocab_size - 1)
    ids = np.concatenate([ends, texts], axis=1).astype(np.int32)
    parts = []
    for first in range(0, len(ids), _ROWS):
        part = ids[first : first + _ROWS]
        padded = np.concatenate([part, np.repeat(ids[:1], _ROWS - len(part), axis=0)])
        keys = jax.random.split(jax.random.fold_in(key, first), _ROWS)
        parts.append(np.asarray(_read(system, params, jnp.asarray(padded), keys))[: len(part), 1:])
    return np.concatenate(parts)


def fit_decipherer(system: Reader, params: Params, texts: np.ndarray, *, positions: int, seed: int) -> Decipherer:
    """Fits a probe from hidden states to symbols, on `positions` random places in the second half of `texts` [rows, T].

    The first half of a text is where the model is still guessing.
    """
    key = named(jax.random.key(seed), "fit")
    states, half = hidden_states(system, params, texts, key)[:, texts.shape[1] // 2 :], texts[:, texts.shape[1] // 2 :]
    chosen = np.random.default_rng(seed).permutation(half.size)[:positions]
    symbols, labels = np.unique(half.ravel()[chosen], return_inverse=True)
    return Decipherer(fit_probe(states.reshape(-1, states.shape[-1])[chosen], labels, len(symbols)), symbols)


def decipher(
    system: Reader, params: Params, decipherer: Decipherer, texts: np.ndarray, alphabet: np.ndarray, *, seed: int
) -> list[Deciphered]:
    """Ciphers each of `texts` int [rows, T] by a substitution of its own within `alphabet`, and reads it back."""
    generator = np.random.default_rng(seed)
    ciphers = np.tile(np.arange(system.vocab_size), (len(texts), 1))
    for cipher in ciphers:
        cipher[alphabet] = generator.permutation(alphabet)
    coded = np.take_along_axis(ciphers, texts, axis=1)
    states = hidden_states(system, params, coded, named(jax.random.key(seed), "decipher"))
    found = []
    for plain, code, state in zip(texts, coded, states, strict=True):
        guessed = decipherer.read(state)
        key = {int(symbol): int(np.bincount(guessed[code == symbol]).argmax()) for symbol in np.unique(code)}
        found.append(Deciphered(plain, guessed, key, np.array([key[int(symbol)] for symbol in code]) == plain))
    return found


def match_frequencies(texts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Deciphers by frequency alone: the symbol of rank r in a text is the one of rank r in the language.

    Args:
      texts: int [rows, T].
      counts: of each symbol in the language, [V].

    Returns:
      Bool [rows, T], which positions come out right.
    """
    ranked = np.argsort(-counts, kind="stable")
    right = np.zeros(texts.shape, bool)
    for row, text in enumerate(texts):
        own = np.argsort(-np.bincount(text, minlength=len(counts)), kind="stable")
        guess = np.empty(len(counts), np.int64)
        guess[own] = ranked
        right[row] = guess[text] == text
    return right


def key_accuracy(found: Sequence[Deciphered], symbols: np.ndarray | None = None) -> float:
    """Returns the share of key entries that are right, over all texts; of those for `symbols` only, if given."""
    right = total = 0
    for text in found:
        plain, first = np.unique(text.plain, return_index=True)
        wanted = np.ones(len(plain), bool) if symbols is None else np.isin(plain, symbols)
        right += int(text.right[first][wanted].sum())
        total += int(wanted.sum())
    return right / max(total, 1)
