"""Running a coder over many rows in lockstep, one symbol a step, with an entropy model beside it.

An exact model's step and the coder's are one compiled scan. An inexact one (a neural network) is a single compiled
program of one shape that encoder and decoder both call, step by step; all the rest is integers, which any program
gets right.
"""

import functools
import heapq
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tokjax.coding.entropy import Engine

SEGMENT = 128  # steps between looks at what is finished
NARROWEST = 256  # symbols of a row
STEP_COST = 256  # what a step costs before the first row, in rows
LANES = (16, 128, 1024)  # how many rows an exact model runs in; few numbers, for each is a program

# (params, model state, carry, inputs) -> (carry, symbols for the model, rows that restart it, outputs of the step)
Advance = Callable[[Any, Any, Any, Any], tuple[Any, jax.Array, jax.Array, Any]]


def lanes(engine: Engine, sizes: Sequence[int]) -> int:
    """Returns how many rows to run jobs of these sizes in: the model's one shape, or the fastest of `LANES`."""
    if engine.rows:
        return engine.rows
    total, longest = sum(sizes), max(sizes, default=0)
    return min(LANES, key=lambda rows: max(total / rows, longest) * (STEP_COST + rows))


def run(engine: Engine, advance: Advance, carry: Any, inputs: Any, rows: int) -> dict[str, np.ndarray]:
    """Steps until `carry["done"]` holds in all rows; returns the outputs of every step, [rows, steps, ...] each.

    Args:
      engine: the entropy model.
      advance: the coder; hashable, equal when it does the same.
      carry: what it carries from step to step, `done` bool [rows] among it; one row at least is not done.
      inputs: arrays that it reads.
      rows: B.
    """
    state, segments = engine.start(rows), []
    while not bool(jnp.all(carry["done"])):
        state, carry, outputs = (_scan if engine.exact else _loop)(
            advance, engine.step, engine.params, state, carry, inputs
        )
        segments.append(jax.tree.map(np.asarray, outputs))
    joined = jax.tree.map(lambda *parts: np.concatenate(parts), *segments)
    return {name: np.swapaxes(array, 0, 1) for name, array in joined.items()}


@functools.partial(jax.jit, static_argnums=(0, 1))
def _scan(advance: Advance, step: Callable, params: Any, state: Any, carry: Any, inputs: Any) -> tuple[Any, Any, Any]:
    def body(before: Any, _: None) -> tuple[Any, Any]:
        state, carry = before
        carry, symbols, restart, outputs = advance(params, state, carry, inputs)
        return (step(params, state, symbols, restart), carry), outputs

    (state, carry), outputs = jax.lax.scan(body, (state, carry), None, length=SEGMENT)
    return state, carry, outputs


def _loop(advance: Advance, step: Callable, params: Any, state: Any, carry: Any, inputs: Any) -> tuple[Any, Any, Any]:
    kept = []
    for _ in range(SEGMENT):
        carry, symbols, restart, outputs = _advance(advance, params, state, carry, inputs)
        state = step(params, state, symbols, restart)
        kept.append(outputs)
    return state, carry, jax.tree.map(lambda *steps: np.stack([np.asarray(step) for step in steps]), *kept)


@functools.partial(jax.jit, static_argnums=0)
def _advance(advance: Advance, params: Any, state: Any, carry: Any, inputs: Any) -> Any:
    return advance(params, state, carry, inputs)


def queue(sizes: Sequence[int], rows: int) -> list[list[int]]:
    """Deals jobs out to rows, the longest first and each to the row with least to do; returns the jobs of every row."""
    heap = [(0, row) for row in range(rows)]
    dealt: list[list[int]] = [[] for _ in range(rows)]
    for job in sorted(range(len(sizes)), key=lambda job: -sizes[job]):
        load, row = heapq.heappop(heap)
        dealt[row].append(job)
        heapq.heappush(heap, (load + sizes[job], row))
    return dealt


def pad(rows: Sequence[np.ndarray], margin: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Returns arrays of one type stacked, with zeros after each, and their lengths int32 [rows].

    The width is one of a few, for each is a program, with room for `margin` more.
    """
    lengths = np.array([len(row) for row in rows], np.int32)
    width = NARROWEST
    while width < lengths.max(initial=0) + margin:
        width *= 4
    padded = np.zeros((len(rows), width, *rows[0].shape[1:]), rows[0].dtype)
    for row, values in zip(padded, rows, strict=True):
        row[: len(values)] = values
    return padded, lengths
