"""Random keys: typed, split at the top, folded in by name, step, document or absolute position."""

import zlib

import jax


def named(key: jax.Array, name: str) -> jax.Array:
    """Returns the key of the stream `name`, independent of the order in which streams are asked for."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()) & 0x7FFFFFFF)
