"""An exact integer arithmetic coder that runs inside a compiled program: 32-bit limbs, any number of rows in lockstep.

An interval inside [0, 1) is `low` and `width`. `width` is a 32-bit mantissa with a binary exponent, renormalised after
every symbol, so that its relative error never grows; `low` is a fixed-point number of as many 32-bit limbs as a window
needs. Each symbol of probability count / 2**F takes the share `mantissa * bound >> F` of the width, and neighbouring
symbols share their bounds, so that sub-intervals tile the interval. Every operation is on integers: all machines agree.

Source: Witten, Neal and Cleary 1987, with the exact shortest code of Lester et al. 2024, section 2.2.

Letters: `L` limbs, least significant first; `F` precision of the counts. Leading dimensions are free.
"""

import flax.struct
import jax
import jax.numpy as jnp

LIMB = 32


@flax.struct.dataclass
class Interval:
    """The interval [low, low + width) of every row.

    Attributes:
      low: uint32 [..., L], fixed point with one integer bit: the value is low / 2**(32 L - 1).
      mantissa: uint32 [...], in [2**31, 2**32).
      exponent: int32 [...], >= 0; width = mantissa / 2**(31 + exponent), so 2**-exponent <= width < 2**(1 - exponent).
    """

    low: jax.Array
    mantissa: jax.Array
    exponent: jax.Array


def limbs_for(bits: int) -> int:
    """The limbs that `low` needs while the exponent is at most `bits`."""
    return -(-(bits + LIMB) // LIMB)


def whole(shape: tuple[int, ...], limbs: int) -> Interval:
    """Returns [0, 1) for every row."""
    return Interval(
        low=jnp.zeros((*shape, limbs), jnp.uint32),
        mantissa=jnp.full(shape, 1 << 31, jnp.uint32),
        exponent=jnp.zeros(shape, jnp.int32),
    )


def share(mantissa: jax.Array, bound: jax.Array, precision: int) -> jax.Array:
    """Returns floor(mantissa * bound / 2**precision), exactly, of uint32 numbers; bound <= 2**precision."""
    high, low = mantissa >> 16, mantissa & 0xFFFF
    return ((high * bound) << (16 - precision)) + ((low * bound) >> precision)


def narrow(interval: Interval, lower: jax.Array, upper: jax.Array, precision: int) -> Interval:
    """Returns the sub-interval of a symbol whose cumulative counts are uint32 `lower` and `upper`.

    Exact while the exponent of `interval` is within what its limbs are for; that of the result may be beyond.
    """
    start = share(interval.mantissa, lower, precision)
    width = share(interval.mantissa, upper, precision) - start
    mantissa, shift = normalise(width)
    low = _add(interval.low, _place(start, interval.exponent, interval.low.shape[-1]))
    return Interval(low=low, mantissa=mantissa, exponent=interval.exponent + shift)


def normalise(width: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns a positive uint32 width shifted into [2**31, 2**32), and by how much, int32."""
    shift = jax.lax.clz(width)
    return width << shift, shift.astype(jnp.int32)


def shortest_code(interval: Interval) -> tuple[jax.Array, jax.Array]:
    """Returns the first of the longest dyadic intervals inside `interval`: (its start, its length in bits).

    [j / 2**n, (j + 1) / 2**n) with the smallest n and then the smallest j. The start is uint32 [..., L], in the fixed
    point of `low`; n is int32 [...]. The length is the exponent or one more: a width of two steps holds a whole one.
    """
    end = _add(interval.low, _place(interval.mantissa, interval.exponent, interval.low.shape[-1]))
    start = _ceil(interval.low, interval.exponent)
    one = jnp.full(interval.mantissa.shape, 1 << 31, jnp.uint32)
    inside = ~_less(end, _add(start, _place(one, interval.exponent, interval.low.shape[-1])))
    longer = _ceil(interval.low, interval.exponent + 1)
    return jnp.where(inside[..., None], start, longer), interval.exponent + jnp.where(inside, 0, 1)


def top_words(fraction: jax.Array) -> jax.Array:
    """Returns the fraction bits of a fixed-point number [..., L] as big-endian 32-bit words, the highest first."""
    below = jnp.concatenate([jnp.zeros_like(fraction[..., :1]), fraction[..., :-1]], axis=-1)
    return ((fraction << 1) | (below >> 31))[..., ::-1]


def from_top_words(words: jax.Array) -> jax.Array:
    """The inverse of `top_words`, for a number below 1."""
    lowest_first = words[..., ::-1]
    above = jnp.concatenate([lowest_first[..., 1:], jnp.zeros_like(words[..., :1])], axis=-1)
    return (lowest_first >> 1) | (above << 31)


def _place(value: jax.Array, exponent: jax.Array, limbs: int) -> jax.Array:
    """Returns value / 2**(31 + exponent) in fixed point; bits below the last limb are lost."""
    shift = (LIMB * limbs - LIMB - exponent)[..., None] - LIMB * jnp.arange(limbs, dtype=jnp.int32)
    value = value[..., None]
    left = jnp.where((shift >= 0) & (shift < LIMB), value << _amount(shift), 0)
    return jnp.where((shift < 0) & (shift > -LIMB), value >> _amount(-shift), left)


def _amount(shift: jax.Array) -> jax.Array:
    return jnp.clip(shift, 0, LIMB - 1).astype(jnp.uint32)


def _add(left: jax.Array, right: jax.Array) -> jax.Array:
    """Adds fixed-point numbers; a carry out of the integer bit is lost."""
    carry = jnp.zeros(left.shape[:-1], jnp.uint32)
    limbs = []
    for index in range(left.shape[-1]):
        partial = left[..., index] + right[..., index]
        total = partial + carry
        carry = ((partial < left[..., index]) | (total < partial)).astype(jnp.uint32)
        limbs.append(total)
    return jnp.stack(limbs, axis=-1)


def _less(left: jax.Array, right: jax.Array) -> jax.Array:
    """Whether left < right, [...]."""
    result = jnp.zeros(left.shape[:-1], bool)
    for index in range(left.shape[-1]):
        a, b = left[..., index], right[..., index]
        result = (a < b) | ((a == b) & result)
    return result


def _ceil(number: jax.Array, bits: jax.Array) -> jax.Array:
    """Rounds a fixed-point number up to a multiple of 2**-bits."""
    limbs = number.shape[-1]
    below = (LIMB * limbs - 1 - bits)[..., None] - LIMB * jnp.arange(limbs, dtype=jnp.int32)  # bits to clear per limb
    mask = jnp.where(below >= LIMB, jnp.uint32(0xFFFFFFFF), (jnp.uint32(1) << _amount(below)) - 1)
    mask = jnp.where(below <= 0, jnp.uint32(0), mask)
    return _add(number, mask) & ~mask


def find(interval: Interval, point: jax.Array, bounds: jax.Array, precision: int) -> jax.Array:
    """Returns the symbol in whose sub-interval `point` lies, int32 [...]; the last symbol if it is beyond them all.

    Args:
      interval: of each row.
      point: uint32 [..., L], fixed point, inside the interval.
      bounds: uint32 [..., V + 1], cumulative counts.
      precision: F.
    """
    offset = _distance(interval, point)
    starts = share(interval.mantissa[..., None], bounds[..., 1:-1], precision)
    return jnp.sum(starts <= offset[..., None], axis=-1, dtype=jnp.int32)


def _distance(interval: Interval, point: jax.Array) -> jax.Array:
    """Returns (point - low) in units of the mantissa, rounded down: uint32 [...]."""
    limbs = point.shape[-1]
    one = jnp.zeros_like(point).at[..., 0].set(1)
    difference = _add(point, _add(~interval.low, one))
    shift = (LIMB * limbs - LIMB - interval.exponent)[..., None] - LIMB * jnp.arange(limbs, dtype=jnp.int32)
    right = jnp.where((shift >= 0) & (shift < LIMB), difference >> _amount(shift), 0)
    left = jnp.where((shift < 0) & (shift > -LIMB), difference << _amount(-shift), 0)
    return jnp.sum(right | left, axis=-1, dtype=jnp.uint32)
