"""The host's twin of `arithmetic`: one stream at a time, in Python integers, the same bits."""

import dataclasses

_ONE = 1 << 31


@dataclasses.dataclass(frozen=True)
class Interval:
    """[low, low + mantissa) / 2**(31 + exponent), with the mantissa in [2**31, 2**32)."""

    low: int = 0
    mantissa: int = _ONE
    exponent: int = 0

    def narrow(self, lower: int, upper: int, precision: int) -> "Interval":
        """Returns the sub-interval of a symbol with cumulative counts `lower` and `upper` of 2**precision."""
        start = self.mantissa * lower >> precision
        width = (self.mantissa * upper >> precision) - start
        shift = 32 - width.bit_length()
        return Interval((self.low + start) << shift, width << shift, self.exponent + shift)

    def shortest_code(self) -> tuple[int, int]:
        """Returns (j, n): [j / 2**n, (j + 1) / 2**n) lies inside, n is the smallest and j the smallest for it."""
        for length in (self.exponent, self.exponent + 1):
            step = 31 + self.exponent - length
            first = -(-self.low >> step)
            if (first + 1) << step <= self.low + self.mantissa:
                break
        return first, length


def encode(bounds: list[tuple[int, int]], precision: int) -> tuple[int, int]:
    """Returns the shortest code (j, n) of the symbols whose cumulative counts are `bounds`."""
    interval = Interval()
    for lower, upper in bounds:
        interval = interval.narrow(lower, upper, precision)
    return interval.shortest_code()
