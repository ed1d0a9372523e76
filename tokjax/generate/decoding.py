"""Plain autoregressive decoding through a system's cache: in one program, or one symbol at a time."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from tokjax.core.errors import SpecError
from tokjax.core.types import Params
from tokjax.generate.sampling import SamplingSpec, choose
from tokjax.objectives.language import LanguageSystem

SLOTS = 64  # caches hold a multiple of so many symbols, so that prompts of many lengths share programs


def prefill(system: LanguageSystem, params: Params, state: Any, ids: jax.Array) -> tuple[jax.Array, Any]:
    """Feeds the prompt `ids` [B, T]; returns (logits [B, T, V] of what follows each symbol, the state after all)."""

    def feed(state, column):
        logits, state = system.decode(params, state, column)
        return state, logits

    state, logits = jax.lax.scan(feed, state, ids.T)
    return jnp.swapaxes(logits, 0, 1), state


@functools.partial(jax.jit, static_argnames=("system", "steps", "sampling"))
def generate(
    system: LanguageSystem,
    params: Params,
    prompt: jax.Array,
    key: jax.Array,
    *,
    steps: int,
    sampling: SamplingSpec | None = None,
) -> jax.Array:
    """Returns the `steps` ids that follow each row of `prompt`, int32 [B, steps].

    Args:
      prompt: int32 [B, T], T >= 1; starts with the end-of-document id.
      key: noise of position p is drawn from fold_in(key, p).
    """
    sampling = sampling or SamplingSpec()
    batch_size, start = prompt.shape
    state = system.init_decode(params, batch_size, start + steps)
    logits, state = prefill(system, params, state, prompt)

    def advance(carry, position):
        logits, state = carry
        ids = choose(sampling, logits, key, position)
        return system.decode(params, state, ids), ids

    _, ids = jax.lax.scan(advance, (logits[:, -1], state), start + jnp.arange(steps))
    return ids.T


@functools.lru_cache(maxsize=8)
def _programs(system: LanguageSystem, sampling: SamplingSpec, slots: int):
    init = jax.jit(lambda params: system.init_decode(params, 1, slots))
    step = jax.jit(system.decode, donate_argnums=1)
    return init, step, jax.jit(functools.partial(choose, sampling))


def stream(
    system: LanguageSystem,
    params: Params,
    prompt: list[int],
    key: jax.Array,
    *,
    steps: int,
    sampling: SamplingSpec | None = None,
) -> Iterator[int]:
    """Yields up to `steps` ids after `prompt` as they are drawn: the same ids as `generate`.

    Raises:
      SpecError: the prompt is empty.
    """
    if not prompt:
        raise SpecError("prompt: no symbols; start it with the end-of-document id.")
    init, step, pick = _programs(system, sampling or SamplingSpec(), -(-(len(prompt) + steps) // SLOTS) * SLOTS)
    state = init(params)
    for symbol in prompt:
        logits, state = step(params, state, jnp.array([symbol], jnp.int32))
    for position in range(len(prompt), len(prompt) + steps):
        ids = pick(logits, key, position)
        yield int(ids[0])
        logits, state = step(params, state, ids)
