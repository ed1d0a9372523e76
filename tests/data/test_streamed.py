"""Streamed corpora: the windows of the corpus in memory, from a few blocks at a time."""

import dataclasses
import math
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokjax.core.errors import SourceError
from tokjax.data import load_source
from tokjax.data.blocks import BlockOrder
from tokjax.data.tokenized import layout
from tokjax.data.tokenized.streamed import StreamedTokens
from tokjax.data.tokenized.write import tokenize_source
from tokjax.data.windows import train_batch
from tokjax.text import fit_tokenizer, load_tokenizer

SHARDS = 4
SMALL = {"block_tokens": 40, "group_blocks": 3}

orders = st.builds(
    BlockOrder,
    windows=st.integers(1, 300), per_block=st.integers(1, 12), per_group=st.integers(1, 9),
    per_batch=st.fractions(Fraction(1, 5), 40, max_denominator=30), seed=st.integers(0, 2**64 - 1),
)  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A stored corpus with an empty document, one longer than a block, and some of a few words."""
    folder = tmp_path_factory.mktemp("corpus")
    texts = ["", "the quick brown fox " * 40] + [f"Text {n}: {n * n} foxes." for n in range(120)]
    for number, text in enumerate(texts):
        (folder / f"{number:03}.txt").write_text(text)
    address = f"file:{folder}/*.txt"
    bpe = fit_tokenizer("bpe", load_source(address), vocab_size=280)
    tokenize_source(address, bpe, folder / "tokenized", shards=SHARDS, workers=1)
    return folder / "tokenized"


@pytest.fixture(scope="module")
def both(corpus):
    """The same documents in memory, and streamed from blocks of a few windows."""
    train = load_source(f"tokenized:{corpus}").split("train")
    return train.token_stream(train.fitted), StreamedTokens(train.records, train.indices, **SMALL)


def batches(text, steps, **options):
    options = {"seed": 1, "batch_size": 6, "length": 8, **options}
    return [train_batch(text, step, **options) for step in steps]


# ---- the order ----


@given(orders, st.integers(0, 3))
def test_an_epoch_visits_each_window_once(order, epoch):
    groups = [order.group(epoch, number) for number in range(order.groups)]
    windows = np.concatenate([group.windows for group in groups])
    assert sorted(windows.tolist()) == list(range(order.windows))
    for row in range(epoch * order.windows, (epoch + 1) * order.windows):
        found, group, place = order.at(row)
        assert found == epoch
        assert groups[group].windows[place] == windows[row - epoch * order.windows]


@given(orders)
def test_a_group_is_a_few_blocks(order):
    for number in range(order.groups):
        blocks = set((order.group(0, number).windows // order.per_block).tolist())
        assert len(blocks) <= order.per_group
        assert set(order.group(0, number).blocks.tolist()) == blocks


@given(orders)
def test_lanes_say_which_blocks_their_rows_read(order):
    group = order.group(0, 0)
    rows = np.arange(len(group.windows))
    lanes, blocks = order.lane(rows), group.windows // order.per_block
    for first, last in ((lanes.min(), lanes.max()), (lanes[0], lanes[-1]), (lanes[-1], lanes[0])):
        between = (first <= lanes) & (lanes <= last) if first <= last else (lanes >= first) | (lanes <= last)
        assert group.blocks_between(first, last) == np.unique(blocks[between]).tolist()


@pytest.mark.parametrize("hosts", [2, 8, 64])
def test_hosts_read_a_share_of_the_blocks(hosts):
    order = BlockOrder(windows=64 * 64, per_block=64, per_group=64, per_batch=Fraction(128), seed=3)
    group = order.group(0, 0)
    rows = np.arange(order.windows)
    of_host = order.lane(rows) * hosts // 128
    read = [len(np.unique(group.windows[of_host == host] // 64)) for host in range(hosts)]
    assert max(read) == 64 // hosts  # 128 rows of a batch, 64 blocks: two lanes to a block


def test_a_batch_has_rows_of_many_blocks_and_the_order_is_random():
    order = BlockOrder(windows=64 * 64, per_block=64, per_group=16, per_batch=Fraction(32), seed=3)
    windows = order.group(0, 0).windows
    assert all(len(set(batch // 64)) == 16 for batch in windows.reshape(-1, 32))
    steps = np.abs(np.diff(windows.reshape(-1, 32), axis=0))
    assert (steps == 1).mean() < 0.1  # neighbours of the corpus do not follow each other
    assert not set(windows.tolist()) <= set(order.group(1, 0).windows.tolist())


def test_the_order_is_fixed_for_all_numpy_versions():
    order = BlockOrder(windows=11, per_block=2, per_group=3, per_batch=Fraction(2), seed=7)
    assert [order.group(0, number).windows.tolist() for number in range(2)] == [
        [1, 5, 7, 0, 6, 4], [8, 10, 3, 9, 2],
    ]  # fmt: skip


# ---- the text ----


@pytest.mark.parametrize("length", [1, 8, 100, 10_000])
def test_windows_are_those_in_memory(both, length):
    memory, streamed = both
    assert (streamed.pairs, streamed.end_of_document) == (memory.pairs, memory.end_of_document)
    windows = max(1, memory.pairs // length)
    for epoch in range(2):
        rows = []
        for text in both:
            numbers = range(epoch * windows, (epoch + 1) * windows)
            found = text.rows(numbers, seed=5, length=length, per_batch=Fraction(6))
            assert (found.pairs == min(length, memory.pairs)).all()
            rows.append(sorted(zip(found.ids.tolist(), found.units.tolist(), strict=True)))
        assert rows[0] == rows[1]


@pytest.mark.parametrize("hosts", [2, 3, 6])
def test_hosts_together_are_one_host_from_any_step(both, hosts):
    streamed = both[1]
    steps = [*range(3, 9), 40, 0]
    for step, whole in zip(steps, batches(streamed, steps), strict=True):
        parts = [batches(streamed, [step], host=host, hosts=hosts)[0] for host in range(hosts)]
        chex.assert_trees_all_equal(whole, jax.tree.map(lambda *rows: np.concatenate(rows), *parts))


@given(st.lists(st.integers(0, 60), min_size=1, max_size=6), st.integers(1, 30), st.integers(1, 7))
def test_batches_do_not_depend_on_what_was_read_before(both, steps, length, batch_size):
    used, options = both[1], {"length": length, "batch_size": batch_size}
    fresh = StreamedTokens(used._records, used._indices, **SMALL)
    last = batches(fresh, [steps[-1]], **options)  # as after a resume
    chex.assert_trees_all_equal(batches(used, steps, **options)[-1], last[0])


class Counted:
    """A corpus that counts the documents that are read from it."""

    def __init__(self, records):
        self.index, self.fitted, self.read_documents = records.index, records.fitted, 0
        self._records = records

    def read(self, indices):
        self.read_documents += len(indices)
        return self._records.read(indices)


@pytest.mark.parametrize("hosts", [1, 2])
def test_blocks_are_read_once_an_epoch_and_few_are_held(both, hosts):
    records = Counted(both[1]._records)
    text = StreamedTokens(records, both[1]._indices, **SMALL)
    length, batch_size = 8, 6
    steps = text.pairs // length // batch_size
    most = 0
    for step in range(steps):
        train_batch(text, step, seed=0, batch_size=batch_size, length=length, hosts=hosts)
        assert text.held_bytes <= text.cache_bytes(length)
        most = max(most, text.held_bytes)
    assert text.cache_bytes(length) / hosts / 2 < most < text.pairs * 3 / 2  # of three bytes for each token
    blocks = math.ceil(text.pairs / 40)
    # A block ends inside a document, lanes of one host inside a block, and a group of the next epoch is read as well.
    assert records.read_documents <= (len(both[1]._indices) + blocks) / hosts + 8 * SMALL["group_blocks"]


def test_no_thread_sees_a_block_of_another(both):
    """The first batch of a run is made twice, once on the thread that makes the others."""
    expected = batches(both[1], range(30))
    text = StreamedTokens(both[1]._records, both[1]._indices, **SMALL)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda step: batches(text, [step])[0], range(30)))
    chex.assert_trees_all_equal(found, expected)
    assert text.held_bytes <= text.cache_bytes(8)


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_damaged_shard_is_named(corpus, tmp_path, damage):
    copy = Path(shutil.copytree(corpus, tmp_path / "copy"))
    train = load_source(f"tokenized:{copy}?stream=true").split("train")
    shard = layout.shard_path(copy, 2, SHARDS)
    if damage == "missing":
        os.unlink(shard)
    else:
        content = bytearray(shard.read_bytes())
        content[len(content) // 2] ^= 1
        shard.write_bytes(content)
    with pytest.raises(SourceError, match=f"{shard.name}: damaged"):
        batches(train.token_stream(train.fitted), range(train.size // 40))


def test_the_address_chooses(corpus):
    plain, streamed = (load_source(f"tokenized:{corpus}{option}") for option in ("?stream=false", "?stream=true"))
    assert list(streamed.split("valid")) == list(plain.split("valid"))
    assert isinstance(streamed.split("train").token_stream(streamed.fitted), StreamedTokens)
    assert not isinstance(plain.token_stream(plain.fitted), StreamedTokens)
    with pytest.raises(SourceError, match="stream=yes; expected 'true' or 'false'"):
        load_source(f"tokenized:{corpus}?stream=yes")
    with pytest.raises(SourceError, match="Did you mean 'stream'"):
        load_source(f"tokenized:{corpus}?streams=true")
    with pytest.raises(SourceError, match=r"holds ids of bpe .*, not of bytes .*To stream, tokenize"):
        streamed.token_stream(load_tokenizer("bytes"))
    with pytest.raises(SourceError, match="only 1 document"):
        one = dataclasses.replace(streamed, indices=streamed.indices[:0], opened=1)
        one.token_stream(streamed.fitted)
