"""Which records a training step reads: a pure function of (seed, step, host), the same on every NumPy version."""

import functools

import numpy as np

from tokjax.core.spec import check


def random_bits(seed: int, stream: int, count: int) -> np.ndarray:
    """Returns uint64 [count] of raw Philox bits: NumPy promises their stream, and not that of its distributions."""
    return np.random.Philox(key=np.asarray([seed, stream], np.uint64)).random_raw(count)


def random_fractions(seed: int, stream: int, count: int) -> np.ndarray:
    """Returns float64 [count] in [0, 1), from `random_bits`."""
    return (random_bits(seed, stream, count) >> np.uint64(11)) * 2.0**-53


@functools.lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    """Returns the order in which an epoch visits `count` records, int64 [count]. O(count), once per epoch."""
    order = np.argsort(random_bits(seed, epoch, count), kind="stable")
    order.setflags(write=False)
    return order


def rows_of_host(step: int, *, seed: int, batch_size: int, host: int, hosts: int) -> range:
    """Returns the rows that a host reads in one step, counted from the first row of step 0.

    Args:
      step: which batch, from 0.
      seed: which order, from 0 to 2**64 - 1.
      batch_size: rows of all hosts together.
      host: which of the hosts asks; its rows are consecutive rows of the batch.
      hosts: how many there are.

    Raises:
      SpecError: a number outside its range, or hosts that do not divide the batch.
    """
    check(batch_size > 0 and batch_size % hosts == 0, "batch_size", batch_size, f"use a multiple of {hosts} hosts")
    check(0 <= host < hosts, "host", host, f"use 0 to {hosts - 1}")
    check(step >= 0, "step", step, "count steps from 0")
    check(0 <= seed < 2**64, "seed", seed, "use 0 to 2**64 - 1")
    rows = batch_size // hosts
    first = step * batch_size + host * rows
    return range(first, first + rows)
