"""The tokens of a stored corpus, read from its shards as training comes to them."""

import collections
import functools
import math
import threading
from fractions import Fraction

import numpy as np

from tokjax.data.blocks import BlockOrder
from tokjax.data.tokenized.stored import StoredDocuments
from tokjax.data.windows import Rows, epoch_cut

BLOCK_TOKENS = 1 << 18  # read at once: under a megabyte, and far longer than a document
GROUP_BLOCKS = 64  # whose windows are mixed

_Block = tuple[np.ndarray, np.ndarray]  # ids and units


class StreamedTokens:
    """A `windows.Text` of which only some blocks are in memory, in the order of `BlockOrder`.

    Its windows are those of the `TokenStream` of the same documents, epoch by epoch. Sixteen bytes for each document
    are in memory, and the newest blocks up to `cache_bytes`: those of the group in use, and as many of the next, which
    are read little by little while the group is used up. A document is read whole: the largest one must fit as well,
    and one longer than a block is read again for each of its blocks.

    Args:
      records: the corpus.
      indices: int64 [N], ascending, which of its documents.
      block_tokens: tokens of a block, about.
      group_blocks: blocks of a group.
    """

    def __init__(
        self,
        records: StoredDocuments,
        indices: np.ndarray,
        *,
        block_tokens: int = BLOCK_TOKENS,
        group_blocks: int = GROUP_BLOCKS,
    ):
        self._records, self._indices = records, indices
        self._block_tokens, self._group_blocks = block_tokens, group_blocks
        counts, widths = records.index.counts[indices], records.index.unit_bytes[indices]
        self._starts = np.concatenate([[0], np.cumsum(counts + 1)])  # where the end before each document is
        self._bytes = int(records.index.sizes[indices].sum())
        end = self.end_of_document
        self._dtypes = (np.dtype(np.uint16 if end < 2**16 else np.uint32), np.dtype(f"u{widths.max(initial=1)}"))
        self._lock = threading.Lock()  # batches are made on another thread, and the first one on both
        self._blocks: collections.OrderedDict[tuple[int, ...], _Block] = collections.OrderedDict()
        self._group = functools.lru_cache(maxsize=4)(BlockOrder.group)

    @property
    def end_of_document(self) -> int:
        """The id that is not a token."""
        return self._records.fitted.end_of_document

    @property
    def pairs(self) -> int:
        """Number of (input, target) pairs: tokens plus documents."""
        return int(self._starts[-1])

    @property
    def bytes_per_pair(self) -> float:
        """Bytes of text that a target stands for, on average."""
        return self._bytes / self.pairs

    @property
    def held_bytes(self) -> int:
        """Bytes of the blocks in memory."""
        return sum(ids.nbytes + units.nbytes for ids, units in self._blocks.values())

    def cache_bytes(self, length: int) -> int:
        """Returns the most that `held_bytes` becomes where rows have `length` pairs: the blocks of two groups."""
        most = max(self._block_tokens, length) + 1
        return 2 * self._group_blocks * most * sum(dtype.itemsize for dtype in self._dtypes)

    def rows(self, numbers: range, *, seed: int, length: int, per_batch: Fraction) -> Rows:
        """Returns rows by their numbers; see `windows.Text`.

        Raises:
          SourceError: a shard is damaged.
        """
        order = BlockOrder(
            windows=max(1, self.pairs // length), per_block=max(1, self._block_tokens // length),
            per_group=self._group_blocks, per_batch=per_batch, seed=seed,
        )  # fmt: skip
        shape = (len(numbers), length + 1)
        ids, units = (np.empty(shape, dtype) for dtype in self._dtypes)
        with self._lock:
            for index, row in enumerate(numbers):
                epoch, group, place = order.at(row)
                block, window = divmod(int(self._group(order, epoch, group).windows[place]), order.per_block)
                inside = slice(window * length, (window + 1) * length + 1)
                ids[index], units[index] = (tokens[inside] for tokens in self._block(order, length, epoch, block))
            if numbers:
                self._read_ahead(order, length, numbers)
        return Rows(ids, units, np.full(len(numbers), min(length, self.pairs)))

    def _read_ahead(self, order: BlockOrder, length: int, numbers: range) -> None:
        """Reads as large a share of the blocks that these lanes need next as the rows have passed of their group.

        All of them at once, when the group begins, would take many steps' time.
        """
        epoch, group, place = order.at(numbers[-1])
        passed = (place + 1) / len(self._group(order, epoch, group).windows)
        following = (epoch, group + 1) if group + 1 < order.groups else (epoch + 1, 0)
        lanes = order.lane(numbers[0]), order.lane(numbers[-1])
        blocks = self._group(order, *following).blocks_between(*lanes)
        for block in blocks[: math.ceil(passed * len(blocks))]:
            self._block(order, length, following[0], block)

    def _block(self, order: BlockOrder, length: int, epoch: int, block: int) -> _Block:
        """Returns the tokens of one block's windows, from memory or from the shards."""
        key = (order.seed, length, epoch, block)
        if key not in self._blocks:
            first = block * order.per_block
            windows = min(order.per_block, order.windows - first)
            cut = epoch_cut(order.seed, epoch, self.pairs, length)
            found = self._read((cut + first * length) % self.pairs, windows * length + 1)
            size = sum(tokens.nbytes for tokens in found)
            while self._blocks and self.held_bytes + size > self.cache_bytes(length):
                self._blocks.popitem(last=False)
            self._blocks[key] = found
        self._blocks.move_to_end(key)
        return self._blocks[key]

    def _read(self, start: int, count: int) -> _Block:
        """Returns `count` tokens from `start` on around the circle, whose last token is its first, an end."""
        if start + count <= self.pairs:
            return self._read_documents(start, start + count)
        parts = self._read_documents(start, self.pairs), self._read_documents(0, min(start, start + count - self.pairs))
        ids, units = (np.resize(np.concatenate(part), count) for part in zip(*parts, strict=True))
        return ids, units

    def _read_documents(self, start: int, stop: int) -> _Block:
        """Returns the tokens from `start` up to `stop`, an end before each document."""
        first = int(np.searchsorted(self._starts, start, "right")) - 1
        last = int(np.searchsorted(self._starts, stop - 1, "left"))  # an end that stands last asks for no document
        ids = np.full(stop - start, self.end_of_document, self._dtypes[0])
        units = np.zeros(stop - start, self._dtypes[1])
        places = self._starts[first:last] + 1 - start
        for place, record in zip(places.tolist(), self._records.read(self._indices[first:last]), strict=True):
            skipped, room = max(0, -place), max(0, stop - start - place)
            part = slice(max(0, place), place + min(len(record.ids), room))
            ids[part], units[part] = record.ids[skipped:room], record.units[skipped:room]
        return ids, units
