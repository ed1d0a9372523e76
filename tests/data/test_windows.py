"""Windows: every target scored once, segments that hold one document, batches that are pure functions of the step."""

from collections import Counter

import chex
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokjax.core.errors import SourceError, SpecError, TokenizerError
from tokjax.data.documents import open_documents
from tokjax.data.windows import eval_batches, sample, token_stream, train_batch

END = 256


class Chunks:
    """Tokens of up to three bytes, named by their first."""

    size = END

    def encode(self, raw):
        return np.frombuffer(raw, np.uint8)[::3].astype(np.int32)

    def encode_many(self, documents):
        for raw in documents:
            yield self.encode(raw), np.asarray([len(raw[start : start + 3]) for start in range(0, len(raw), 3)], int)


class Distinct:
    """Every token of the only document has an id of its own."""

    size = 100_000

    def encode_many(self, documents):
        return ((np.arange(len(raw), dtype=np.int32), np.ones(len(raw), np.int32)) for raw in documents)


documents = st.lists(st.binary(max_size=40), min_size=1, max_size=8).filter(any)


def stream_of(docs, encoder=None):
    return token_stream(open_documents("test", docs), encoder or Chunks())


@st.composite
def eval_shapes(draw):
    length = draw(st.integers(1, 12))
    return {"batch_size": draw(st.integers(1, 4)), "length": length, "stride": draw(st.integers(1, length))}


@given(documents)
def test_stream_is_documents_between_ends(docs):
    source = open_documents("test", docs)
    stream = token_stream(source, Chunks())
    expected = [END]
    for doc in source:
        expected += [*Chunks().encode(doc), END]
    np.testing.assert_array_equal(stream.ids, expected)
    assert stream.bytes == sum(map(len, source))
    assert stream.pairs == len(expected) - 1


@settings(deadline=None)
@given(documents, eval_shapes())
def test_eval_scores_every_target_once(docs, shape):
    source = open_documents("test", docs)
    stream = token_stream(source, Chunks())
    tokens = [[*Chunks().encode(doc).tolist(), END] for doc in source]
    found, total_bytes = Counter(), 0
    for evaluated in eval_batches(stream, **shape):
        batch = evaluated.batch
        chex.assert_shape(jax.tree.leaves(batch), (shape["batch_size"], shape["length"]))
        scored = batch.loss_mask == 1
        np.testing.assert_array_equal(evaluated.document >= 0, scored)
        np.testing.assert_array_equal(evaluated.offset >= 0, scored)
        places = list(zip(evaluated.document[scored].tolist(), evaluated.offset[scored].tolist(), strict=True))
        assert [tokens[document][offset] for document, offset in places] == batch.targets[scored].tolist()
        # Enough context: all of the document so far, or what the overlap of windows promises.
        least = np.minimum(evaluated.offset, shape["length"] - shape["stride"])[scored]
        assert (batch.positions[scored] >= least).all()
        found.update(places)
        total_bytes += int((batch.units * batch.loss_mask).sum())
    assert found == Counter((d, o) for d, doc in enumerate(tokens) for o in range(len(doc)))
    assert found.total() == stream.pairs
    assert total_bytes == stream.bytes == sum(map(len, source))


@settings(deadline=None)
@given(documents, eval_shapes())
def test_eval_segment_is_one_stretch_of_one_document(docs, shape):
    source = open_documents("test", docs)
    for evaluated in eval_batches(token_stream(source, Chunks()), **shape):
        batch = evaluated.batch
        for row in range(shape["batch_size"]):
            for segment in range(1, int(batch.segment_ids[row].max()) + 1):
                inside = np.flatnonzero(batch.segment_ids[row] == segment)
                scored = inside[batch.loss_mask[row, inside] == 1]
                (document,) = set(evaluated.document[row, scored].tolist())
                sequence = [END, *Chunks().encode(source[document]).tolist(), END]
                first = int(evaluated.offset[row, scored[0]] - batch.positions[row, scored[0]])
                np.testing.assert_array_equal(batch.positions[row, inside], np.arange(len(inside)))
                np.testing.assert_array_equal(batch.ids[row, inside], sequence[first : first + len(inside)])
                np.testing.assert_array_equal(batch.targets[row, inside], sequence[first + 1 : first + 1 + len(inside)])
        padding = batch.segment_ids == 0
        for leaf in jax.tree.leaves(batch):
            assert not leaf[padding].any()


def test_eval_packs_short_documents_together():
    stream = stream_of([bytes([i]) * 3 for i in range(6)])  # one token and one end each
    (evaluated,) = eval_batches(stream, batch_size=2, length=7)
    np.testing.assert_array_equal(evaluated.batch.segment_ids, [[1, 1, 2, 2, 3, 3, 0]] * 2)
    np.testing.assert_array_equal(evaluated.document[1], [3, 3, 4, 4, 5, 5, -1])


def test_eval_fills_rows_to_the_brim():
    stream = stream_of([bytes([i]) * 3 for i in range(6)])
    (evaluated,) = eval_batches(stream, batch_size=2, length=6)
    assert evaluated.batch.loss_mask.all()


def test_eval_last_window_ends_with_the_document():
    stream = stream_of([bytes(range(10))], Distinct())
    (evaluated,) = eval_batches(stream, batch_size=3, length=6, stride=3)
    end = Distinct.size
    np.testing.assert_array_equal(evaluated.batch.targets[1], [3, 4, 5, 6, 7, 8])
    np.testing.assert_array_equal(evaluated.batch.targets[2], [5, 6, 7, 8, 9, end])
    np.testing.assert_array_equal(evaluated.batch.loss_mask[2], [0, 0, 0, 0, 1, 1])


@settings(deadline=None)
@given(documents, st.integers(1, 12), st.integers(1, 5), st.integers(0, 30))
def test_train_segments_end_with_their_target(docs, length, batch_size, step):
    stream = stream_of(docs)
    batch = train_batch(stream, step, seed=3, batch_size=batch_size, length=length)
    chex.assert_shape(jax.tree.leaves(batch), (batch_size, length))
    chex.assert_type([batch.ids, batch.targets, batch.segment_ids, batch.positions, batch.units], np.int32)
    chex.assert_type(batch.loss_mask, np.float32)
    valid = batch.segment_ids > 0
    np.testing.assert_array_equal(valid, batch.loss_mask == 1)
    both = valid[:, 1:]
    new = np.diff(batch.segment_ids, axis=1) == 1
    np.testing.assert_array_equal(batch.targets[:, :-1][both], batch.ids[:, 1:][both])
    np.testing.assert_array_equal(new[both], (batch.targets[:, :-1] == END)[both])
    assert (batch.positions[:, 1:][new & both] == 0).all()
    assert (np.diff(batch.positions, axis=1)[~new & both] == 1).all()
    assert (batch.units[valid & (batch.targets == END)] == 0).all()
    assert (batch.units[valid & (batch.targets != END)] > 0).all()


@settings(deadline=None)
@given(st.integers(1, 90), st.integers(1, 12), st.integers(1, 7), st.integers(0, 2**64 - 1))
def test_epoch_visits_each_window_once_across_batches(tokens, length, batch_size, seed):
    stream = stream_of([bytes(tokens)], Distinct())
    windows = max(1, (tokens + 1) // length)
    steps = -(-3 * windows // batch_size)
    batches = [train_batch(stream, step, seed=seed, batch_size=batch_size, length=length) for step in range(steps)]
    rows = [row[mask == 1] for b in batches for row, mask in zip(b.targets, b.loss_mask, strict=True)]
    for epoch in range(3):
        targets = np.concatenate(rows[epoch * windows : (epoch + 1) * windows])
        assert len(targets) == min(windows * length, tokens + 1)
        assert len(set(targets.tolist())) == len(targets)


def test_epochs_differ_in_order_and_in_cut():
    stream = stream_of([bytes(1000)], Distinct())
    first, second = (train_batch(stream, step, seed=0, batch_size=62, length=16) for step in (0, 1))  # 62 windows
    assert not np.array_equal(first.targets, second.targets)
    assert set(first.targets[:, 0].tolist()) != set(second.targets[:, 0].tolist())


def test_order_is_fixed_for_all_numpy_versions():
    batch = train_batch(stream_of([bytes(19)], Distinct()), 0, seed=7, batch_size=5, length=4)
    end = Distinct.size
    np.testing.assert_array_equal(
        batch.targets, [[4, 5, 6, 7], [12, 13, 14, 15], [0, 1, 2, 3], [16, 17, 18, end], [8, 9, 10, 11]]
    )


@settings(deadline=None)
@given(documents, st.integers(0, 20), st.sampled_from([1, 2, 3, 4, 6, 12]), st.integers(1, 9))
def test_hosts_together_are_one_host(docs, step, hosts, length):
    stream = stream_of(docs)
    options = {"seed": 5, "batch_size": 12, "length": length}
    whole = train_batch(stream, step, **options)
    chex.assert_trees_all_equal(whole, train_batch(stream, step, **options))
    parts = [train_batch(stream, step, **options, host=host, hosts=hosts) for host in range(hosts)]
    chex.assert_trees_all_equal(whole, jax.tree.map(lambda *rows: np.concatenate(rows), *parts))


def test_short_corpus_is_padded():
    batch = train_batch(stream_of([b"abcdef"]), 4, seed=0, batch_size=2, length=5)
    np.testing.assert_array_equal(batch.ids, [[END, ord("a"), ord("d"), 0, 0]] * 2)
    np.testing.assert_array_equal(batch.targets, [[ord("a"), ord("d"), END, 0, 0]] * 2)
    np.testing.assert_array_equal(batch.loss_mask, [[1, 1, 1, 0, 0]] * 2)
    np.testing.assert_array_equal(batch.units, [[3, 3, 0, 0, 0]] * 2)


@pytest.mark.parametrize(("size", "dtype"), [(65_535, np.uint16), (65_536, np.uint32)])
def test_ids_are_as_wide_as_the_end_of_document(size, dtype):
    encoder = Distinct()
    encoder.size = size
    stream = stream_of([b"abc"], encoder)
    assert stream.ids.dtype == dtype
    assert stream.ids[-1] == size
    assert stream.units.dtype == np.uint8


@given(st.lists(st.binary(min_size=1, max_size=9), min_size=1, max_size=12, unique=True), st.integers(1, 80))
def test_a_sample_is_the_fewest_whole_documents(docs, limit):
    chosen = sample(docs, limit)
    sizes = [len(docs[index]) for index in chosen]
    assert sum(sizes) >= min(limit, sum(map(len, docs)))
    assert chosen == sorted(set(chosen)) == sample(docs, limit)
    if sum(sizes) > limit:
        assert sum(sizes) - max(sizes) < limit


def test_id_outside_the_vocabulary_is_an_error():
    encoder = Distinct()
    encoder.size = 3
    with pytest.raises(TokenizerError, match="gave id 3 but says it has 3"):
        stream_of([b"abcd"], encoder)


def test_empty_split_says_what_to_do():
    source = open_documents("test", [b"only one"])
    empty = next(split for split in map(source.split, ("valid", "train")) if not len(split))
    with pytest.raises(SourceError, match="only 1 document"):
        token_stream(empty, Chunks())


@pytest.mark.parametrize(
    "wrong",
    [{"batch_size": 0}, {"batch_size": 3, "hosts": 2}, {"host": 2, "hosts": 2}, {"length": 0}, {"seed": -1}],
)
def test_train_rejects_impossible_sizes(wrong):
    with pytest.raises(SpecError):
        train_batch(stream_of([b"abc"]), 0, **{"seed": 0, "batch_size": 2, "length": 4, **wrong})


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"length": 0}, {"stride": 0}, {"stride": 5}])
def test_eval_rejects_impossible_sizes(wrong):
    with pytest.raises(SpecError):
        eval_batches(stream_of([b"abc"]), **{"batch_size": 2, "length": 4, **wrong})
