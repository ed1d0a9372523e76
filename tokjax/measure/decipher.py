"""Reading a cipher off a lexinvariant model: a probe finds which symbol of the plain text each position stands for.

A substitution cipher renames the symbols of a text. A lexinvariant model cannot tell: all names are new to it. What it
has worked out about a symbol is in its hidden states, and a linear probe reads it.

Source: Huang et al. 2023, section 4.2 (there with a two-layer probe).

Letters: `N` positions, `D` width, `V` vocabulary, `T` symbols of a text.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from tokjax.core.keys import named
from tokjax.core.spec import check
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


@dataclasses.dataclass(frozen=True, eq=False)
class Deciphered:
    """What came of one ciphered text.

    Attributes:
      plain: int [T], the text before it was ciphered.
      coded: int [T], the text as it was read.
      guessed: int [T], what was read at each position by itself.
      key: cipher symbol -> plain symbol. No two have the same, as in any substitution: of all such keys the one that is
        most probable if positions were read independently.
    """

    plain: np.ndarray
    coded: np.ndarray
    guessed: np.ndarray
    key: dict[int, int]

    @functools.cached_property
    def read(self) -> np.ndarray:
        """int [T], what `key` makes of `coded`."""
        return np.array([self.key[symbol] for symbol in self.coded.tolist()])

    @property
    def right(self) -> np.ndarray:
        """bool [T], whether `key` gives back each position."""
        return self.read == self.plain


@dataclasses.dataclass(frozen=True, eq=False)
class Decipherer:
    """A probe that reads symbols.

    Attributes:
      probe: over those that it was fitted on.
      symbols: int [C], the symbol of each of its classes.
    """

    probe: LinearProbe
    symbols: np.ndarray

    def read(self, states: np.ndarray, plain: np.ndarray, coded: np.ndarray) -> Deciphered:
        """Reads `states` [T, D] of the text `coded` int [T], which is `plain` int [T] enciphered."""
        log_p = self.probe.log_probabilities(states)
        symbols, place = np.unique(coded, return_inverse=True)
        evidence = np.zeros((len(symbols), len(self.symbols)))
        np.add.at(evidence, place, log_p)
        key = dict(zip(symbols.tolist(), self.symbols[best_key(evidence)].tolist(), strict=True))
        return Deciphered(plain, coded, self.symbols[np.argmax(log_p, axis=1)], key)


def best_key(evidence: np.ndarray) -> np.ndarray:
    """Returns a class for each row of `evidence` [S, C], all different where C allows, that has the greatest sum."""
    from scipy.optimize import linear_sum_assignment

    found = np.argmax(evidence, axis=1)  # what rows beyond C keep
    rows, classes = linear_sum_assignment(evidence, maximize=True)
    found[rows] = classes
    return found


def stretches(encoded: Iterable[np.ndarray], length: int, count: int) -> np.ndarray:
    """Cuts documents into texts of `length` ids, one after another in each; at most `count`, int [rows, length].

    Raises:
      SpecError: no document is as long.
    """
    cut = (ids[start : start + length] for ids in encoded for start in range(0, len(ids) - length + 1, length))
    rows = list(itertools.islice(cut, count))
    check(bool(rows), "length", length, "no document has as many ids; join short ones, as joined:4096:SOURCE does.")
    return np.stack(rows)


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


def encipher(texts: np.ndarray, alphabet: np.ndarray, *, seed: int) -> np.ndarray:
    """Returns each of `texts` int [rows, T] under a random substitution of its own within `alphabet`."""
    generator = np.random.default_rng(seed)
    ciphers = np.tile(np.arange(1 + max(alphabet.max(), texts.max())), (len(texts), 1))
    for cipher in ciphers:
        cipher[alphabet] = generator.permutation(alphabet)
    return np.take_along_axis(ciphers, texts, axis=1)


def decipher(
    system: Reader, params: Params, decipherer: Decipherer, texts: np.ndarray, alphabet: np.ndarray, *, seed: int
) -> list[Deciphered]:
    """Ciphers each of `texts` int [rows, T] as `encipher` does, and reads it back."""
    coded = encipher(texts, alphabet, seed=seed)
    states = hidden_states(system, params, coded, named(jax.random.key(seed), "decipher"))
    return [decipherer.read(state, plain, code) for plain, code, state in zip(texts, coded, states, strict=True)]


def match_frequencies(texts: np.ndarray, counts: np.ndarray) -> list[Deciphered]:
    """Deciphers by frequency alone: the symbol of rank r in a text is the one of rank r in the language.

    Args:
      texts: int [rows, T], which no cipher makes any harder.
      counts: of each symbol in the language, [V].
    """
    ranked = np.argsort(-counts, kind="stable")
    found = []
    for text in texts:
        own = np.argsort(-np.bincount(text, minlength=len(counts)), kind="stable")
        key = dict(zip(own.tolist(), ranked.tolist(), strict=True))
        found.append(Deciphered(text, text, np.array([key[symbol] for symbol in text.tolist()]), key))
    return found


def key_accuracy(found: Sequence[Deciphered], symbols: np.ndarray | None = None) -> float:
    """Returns the share of key entries that are right, over all texts; of those for `symbols` only, if given."""
    right = total = 0
    for text in found:
        plain, first = np.unique(text.plain, return_index=True)
        wanted = np.ones(len(plain), bool) if symbols is None else np.isin(plain, symbols)
        right += int(text.right[first][wanted].sum())
        total += int(wanted.sum())
    return right / max(total, 1)
