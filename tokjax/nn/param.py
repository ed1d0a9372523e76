"""Parameters declared once: shape, logical axes and initialiser, from which arrays, shapes and shardings follow."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from tokjax.core.keys import named

Initializer = Callable[[jax.Array, tuple[int, ...]], jax.Array]


def normal(stddev: float) -> Initializer:
    """Gaussian with the given standard deviation, truncated at two of them."""
    return lambda key, shape: stddev * jax.random.truncated_normal(key, -2.0, 2.0, shape) / 0.87962566


def fan_in(size: int) -> Initializer:
    """Truncated Gaussian of variance 1 / size, for a matrix that sums over `size` inputs."""
    return normal(1.0 / math.sqrt(size))


def ones(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """All ones (norm scales)."""
    del key
    return jnp.ones(shape, jnp.float32)


def zeros(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """All zeros (biases, gates that start closed)."""
    del key
    return jnp.zeros(shape, jnp.float32)


@dataclasses.dataclass(frozen=True)
class Param:
    """One float32 array to be trained.

    Attributes:
      shape: its dimensions.
      axes: a logical name (or None) per dimension; `sharding.rules` maps names to mesh axes.
      init: (key, shape) -> array.
      decay: whether weight decay applies.
    """

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    init: Initializer
    decay: bool = True

    def __post_init__(self):
        if len(self.shape) != len(self.axes):
            raise ValueError(f"shape {self.shape} and axes {self.axes} differ in length")


def _is_param(x: Any) -> bool:
    return isinstance(x, Param)


def _map(function: Callable[[Param], Any], tree: Any) -> Any:
    return jax.tree.map(function, tree, is_leaf=_is_param)


def stack(tree: Any, count: int) -> Any:
    """Declares `count` copies of `tree` as one, with a leading "layers" dimension, for `lax.scan`."""

    def copies(p: Param) -> Param:
        def init(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
            return jax.vmap(lambda k: p.init(k, shape[1:]))(jax.random.split(key, shape[0]))

        return Param((count, *p.shape), ("layers", *p.axes), init, p.decay)

    return _map(copies, tree)


def materialize(tree: Any, key: jax.Array) -> Any:
    """Draws every declared array. A parameter's value depends on the key and its path only."""
    return jax.tree_util.tree_map_with_path(
        lambda path, p: p.init(named(key, jax.tree_util.keystr(path)), p.shape), tree, is_leaf=_is_param
    )


def decay_mask(tree: Any) -> Any:
    """The tree of booleans that says where weight decay applies."""
    return _map(lambda p: p.decay, tree)


def stacked(tree: Any) -> Any:
    """The tree that says how many layers each parameter holds along its first dimension; 0 outside a `stack`."""
    return _map(lambda p: p.shape[0] if p.axes[:1] == ("layers",) else 0, tree)


def count(tree: Any) -> int:
    """The number of scalars declared."""
    return sum(math.prod(p.shape) for p in jax.tree.leaves(tree, is_leaf=_is_param))


def without_decay(tree: Any) -> Any:
    """Declares `tree` as it is, but without weight decay: what gets no gradient either then stays as it is."""
    return _map(lambda p: dataclasses.replace(p, decay=False), tree)
