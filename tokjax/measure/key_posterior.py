"""The Bayesian reader of ciphers: what a language model makes of a text whose symbols are renamed.

A lexinvariant model stands for the mean of a language model over all keys (Huang et al. 2023, section 3): what a text
costs is minus the logarithm of the mean probability of its decipherments, and what it can know of the key is their
posterior. For a model of three symbols at a time both can be sampled. A cloud of keys starts out at random and is
annealed towards the posterior, moved by exchanging letters; the weights that this takes add up to the mean.

Sources: Diaconis 2009, section 1 (Metropolis over keys); Del Moral, Doucet & Jasra 2006 (annealed clouds).

Letters: `N` texts, `T` symbols of a text, `V` symbols of the alphabet, `L` lengths, `P` keys of a cloud.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from tokjax.core.keys import named
from tokjax.core.spec import check
from tokjax.measure.decipher import Deciphered, best_key, encipher
from tokjax.measure.ngrams import NgramModel

_ORDER = 3
_MOST_SYMBOLS = 256  # the table of a model has the cube of as many entries
_MOVES = 8  # Metropolis steps at each temperature
_COOLING = 3.0  # the power of the likelihood rises as this power of the share of the steps

_Cloud = tuple[jax.Array, jax.Array, jax.Array, jax.Array]  # keys, their likelihoods and weights, the mean so far


def read_by_bayes(
    texts: np.ndarray,
    model: NgramModel,
    alphabet: np.ndarray,
    *,
    lengths: Sequence[int] = (),
    seed: int,
    keys: int = 64,
    temperatures: int | None = None,
) -> tuple[list[Deciphered], np.ndarray]:
    """Ciphers each of `texts` by a key of its own within `alphabet`, as `decipher` does, and reads it back.

    A text that is in cipher already is read as well as any: what it is `read` as is then its plain text.

    Args:
      texts: int [N, T], of symbols of `alphabet`.
      model: of the language, of order 3.
      alphabet: int [V], the symbols that a text may have, sorted.
      lengths: L numbers of symbols, 1 to T.
      seed: of the ciphers and the clouds.
      keys: P.
      temperatures: steps of annealing; V^2 by default, so that any two symbols meet as often in any alphabet.

    Returns:
      What each text was read as, by the key that has most entries right in expectation, at every position; and what
      the first symbols of each text cost together where its key is unknown, float32 [N, L] nats.

    Raises:
      SpecError: a model of another order, a symbol outside the alphabet, an alphabet that is too large, not sorted or
        unknown to the model, no text, a length beyond T, or fewer than one key or temperature.
    """
    _check(texts, model, alphabet, lengths)
    check(keys >= 1, "keys", keys, "use at least 1.")
    check(temperatures is None or temperatures >= 1, "temperatures", temperatures, "use at least 1, or None.")
    coded, table = encipher(texts, alphabet, seed=seed), _table(model, alphabet)
    places = jnp.asarray(np.searchsorted(alphabet, coded), jnp.int32)
    rows = jax.random.split(named(jax.random.key(seed), "clouds"), len(texts))
    longest, steps = texts.shape[1], temperatures or len(alphabet) ** 2
    annealed = {length: _anneal(places[:, :length], table, rows, keys, steps) for length in {*lengths, longest}}

    found = []
    for plain, code, chance in zip(texts, coded, np.asarray(annealed[longest][0]), strict=True):
        symbols, where = np.unique(code, return_inverse=True)
        letters = alphabet[best_key(chance[np.searchsorted(alphabet, symbols)])]
        key = dict(zip(symbols.tolist(), letters.tolist(), strict=True))
        found.append(Deciphered(plain, code, letters[where], key))
    costs = np.zeros((len(texts), len(lengths)), np.float32)
    for column, length in enumerate(lengths):
        costs[:, column] = -annealed[length][1]
    return found, costs


def _check(texts: np.ndarray, model: NgramModel, alphabet: np.ndarray, lengths: Sequence[int]) -> None:
    check(len(model.orders) == _ORDER, "model", len(model.orders), f"use an n-gram model of order {_ORDER}.")
    size, least = len(alphabet), f"use 1 to {_MOST_SYMBOLS} symbols."
    check(1 <= size <= _MOST_SYMBOLS, "alphabet", size, least)
    check(np.array_equal(alphabet, np.unique(alphabet)), "alphabet", alphabet.tolist(), "sort it, each symbol once.")
    check(
        alphabet[-1] < model.vocab_size, "alphabet", int(alphabet[-1]), f"the model knows ids below {model.vocab_size}."
    )
    check(texts.ndim == 2 and texts.size > 0, "texts", texts.shape, "use [N, T] with at least one symbol.")
    longest, strangers = texts.shape[1], np.setdiff1d(texts, alphabet).tolist()
    check(not strangers, "texts", strangers, "all their symbols have to be in the alphabet.")
    check(all(1 <= length <= longest for length in lengths), "lengths", lengths, f"texts have {longest} symbols.")


def _table(model: NgramModel, alphabet: np.ndarray) -> jax.Array:
    """Log-probabilities [V + 1, V + 1, V] of a letter after two others, float32; the last is the start of a text."""
    size = len(alphabet)

    def after(*context: int) -> np.ndarray:
        p = model.next_probabilities(np.array(context, np.int64))[alphabet]
        return np.log(p / p.sum())

    table = np.full((size + 1, size + 1, size), np.nan, np.float32)
    table[size, size] = after()
    for i, last in enumerate(alphabet.tolist()):
        table[size, i] = after(last)
        for j, before in enumerate(alphabet.tolist()):
            table[j, i] = after(before, last)
    return jnp.asarray(table)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _anneal(
    texts: jax.Array, table: jax.Array, rows: jax.Array, keys: int, temperatures: int
) -> tuple[jax.Array, jax.Array]:
    """Chances of letters [N, V, V] for each symbol, and the log of the mean probability [N]."""
    return jax.vmap(functools.partial(_anneal_one, table=table, keys=keys, temperatures=temperatures))(texts, rows)


def _anneal_one(
    text: jax.Array, row: jax.Array, *, table: jax.Array, keys: int, temperatures: int
) -> tuple[jax.Array, jax.Array]:
    size = table.shape[-1]
    # A key is int32 [V + 1], the letter of each symbol; the start of the text stands for itself.
    start, rest = jax.random.split(row)
    orders = jax.vmap(jax.random.permutation, (0, None))(jax.random.split(start, keys), size)
    cloud = jnp.pad(orders, ((0, 0), (0, 1)), constant_values=size)
    padded = jnp.pad(text, (_ORDER - 1, 0), constant_values=size)
    symbols = jnp.arange(size + 1)

    def likelihood(cloud: jax.Array) -> jax.Array:
        """Log-probability of what the keys [P, V + 1] make of the text, [P]."""
        letters = cloud[:, padded]
        return jnp.sum(table[letters[:, :-2], letters[:, 1:-1], letters[:, 2:]], axis=1)

    def move(carry: tuple[jax.Array, jax.Array], key: jax.Array, power: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Exchanges the letter of a symbol of the text for that of any, where Metropolis accepts it."""
        cloud, now = carry
        which, other, chance = jax.random.split(key, 3)
        one = text[jax.random.randint(which, (keys, 1), 0, len(text))]
        other = jax.random.randint(other, (keys, 1), 0, size)
        first, second = (jnp.take_along_axis(cloud, of, axis=1) for of in (one, other))
        moved = jnp.where(symbols == one, second, jnp.where(symbols == other, first, cloud))
        then = likelihood(moved)
        accepted = jnp.log(jax.random.uniform(chance, (keys,))) < power * (then - now)
        return jnp.where(accepted[:, None], moved, cloud), jnp.where(accepted, then, now)

    def cool(carry: _Cloud, step: jax.Array) -> tuple[_Cloud, None]:
        cloud, now, weight, total = carry
        before, power = (((step + i) / temperatures) ** _COOLING for i in (0, 1))
        draw, moving = jax.random.split(jax.random.fold_in(rest, step))
        weight += (power - before) * now
        # Keys of little weight give way to copies of the others once these are less than half of the cloud.
        mean = jax.nn.logsumexp(weight) - jnp.log(keys)
        share = jnp.exp(weight - mean) / keys
        few = jnp.sum(jnp.square(share)) * keys > 2
        points = (jnp.arange(keys) + jax.random.uniform(draw)) / keys
        kept = jnp.where(few, jnp.searchsorted(jnp.cumsum(share), points).clip(max=keys - 1), jnp.arange(keys))
        moves = jax.random.split(moving, _MOVES)
        (cloud, now), _ = jax.lax.scan(lambda of, key: (move(of, key, power), None), (cloud[kept], now[kept]), moves)
        return (cloud, now, jnp.where(few, 0.0, weight), total + jnp.where(few, mean, 0.0)), None

    first = (cloud, likelihood(cloud), jnp.zeros(keys), jnp.zeros(()))
    (cloud, _, weight, total), _ = jax.lax.scan(cool, first, jnp.arange(temperatures))
    chances = jnp.zeros((size, size)).at[symbols[:size], cloud[:, :size]].add(jax.nn.softmax(weight)[:, None])
    return chances, total + jax.nn.logsumexp(weight) - jnp.log(keys)
