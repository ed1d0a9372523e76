"""An order of windows that reads near each other what lies near each other, for corpora that are not in memory.

The rule, of everything below:

1. An epoch has W windows. Blocks are runs of consecutive windows; the last one may be shorter.
2. The full blocks come in uniformly random order, the shorter one last. Since every epoch cuts the corpus into windows
   at a new random place, that one lies anywhere. Consecutive blocks of this order form groups.
3. Within a group the windows of each block are shuffled and laid block after block. Each place of a batch (its "lane")
   takes its own run of them, in random order.

So every window comes once an epoch, a batch has rows from all over the group, and only the blocks of one group are in
use at a time, or of two while the next is read ahead. A host makes some consecutive rows of every batch: its lanes hold
a part of the group's blocks, and it reads no others. Hosts together read the corpus about once, however many they are.

What is random is the order of blocks, fresh in every epoch, of windows inside a block, and of each lane's windows. What
is not: windows of different groups never meet in a batch but where a group ends.
"""

import dataclasses
import functools
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from tokjax.data.order import random_bits

_GROUP_STREAM = 1 << 62  # keeps the random bits of groups apart from those of epochs


class Group(NamedTuple):
    """The windows of some blocks, in the order of an epoch.

    Attributes:
      windows: int64 [n], the window that the group's n-th row of an epoch reads.
      lanes: int64 [n], lanes of those rows, ascending.
      blocks: int64 [n], the block that each of them reads, in the order of `lanes`.
    """

    windows: np.ndarray
    lanes: np.ndarray
    blocks: np.ndarray

    def blocks_between(self, first: int, last: int) -> list[int]:
        """Returns the blocks of the lanes from `first` up to `last`, around the end of the batch if that is less."""
        start, stop = np.searchsorted(self.lanes, first, "left"), np.searchsorted(self.lanes, last, "right")
        found = self.blocks[start:stop] if first <= last else np.delete(self.blocks, np.s_[stop:start])
        return np.unique(found).tolist()


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockOrder:
    """In which order rows visit windows.

    Attributes:
      windows: W, of an epoch.
      per_block: windows of a full block.
      per_group: blocks of a full group.
      per_batch: rows that each batch takes of these windows, on average where they are a part of a mixture.
      seed: which order, from 0 to 2**64 - 1.
    """

    windows: int
    per_block: int
    per_group: int
    per_batch: Fraction
    seed: int

    @property
    def groups(self) -> int:
        """Groups of an epoch."""
        return -(-self.windows // (self.per_block * self.per_group))

    def at(self, row: int) -> tuple[int, int, int]:
        """Returns the epoch of a row, its group, and its place in the group; rows are counted over all epochs."""
        epoch, place = divmod(row, self.windows)
        return epoch, *divmod(place, self.per_block * self.per_group)

    def lane(self, row: Any) -> Any:
        """Returns where in its batch a row is, as a number that grows along the batch; or of an array of rows."""
        return row * self.per_batch.denominator % self.per_batch.numerator

    def group(self, epoch: int, number: int) -> Group:
        """Returns one group of an epoch. It costs its own size, and for the first of an epoch the number of blocks."""
        size = self.per_block * self.per_group
        first = number * size
        count = min(size, self.windows - first)
        of_epoch = _block_order(self.seed, epoch, self.windows // self.per_block)
        blocks = of_epoch[number * self.per_group : (number + 1) * self.per_group]
        listed = (blocks[:, None] * self.per_block + np.arange(self.per_block)).reshape(-1)[:count]
        stream = _GROUP_STREAM + epoch * self.groups + number
        within_block, within_lane = random_bits(self.seed, stream, 2 * count).reshape(2, count)
        listed = listed[np.lexsort((within_block, np.arange(count) // self.per_block))]
        lanes = self.lane(epoch * self.windows + first + np.arange(count))
        places = np.lexsort((within_lane, lanes))
        windows = np.empty(count, np.int64)
        windows[places] = listed
        return Group(windows=windows, lanes=lanes[places], blocks=listed // self.per_block)


@functools.lru_cache(maxsize=8)  # of a few sources
def _block_order(seed: int, epoch: int, full: int) -> np.ndarray:
    """Returns the `full` blocks of an epoch in random order and the shorter one after them: int64 [full + 1].

    Eight bytes for each block; what an index says of the documents of a block takes a thousand times as many.
    """
    raw = random_bits(seed, epoch, full + 1)[1:]  # the first is the place of the cut
    return np.append(np.argsort(raw, kind="stable"), full)
