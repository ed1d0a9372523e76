"""Embeddings: what every one promises, and the oracles of lexinvariance."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokjax.core.errors import SpecError, UnknownNameError
from tokjax.core.registry import embeddings
from tokjax.embed import Embedding, embedding
from tokjax.embed.base import evaluation_key
from tokjax.embed.lexinvariant import draw
from tokjax.embed.pooled_bytes import PAD
from tokjax.experiment.config import load_config
from tokjax.experiment.run import load_model, train_model
from tokjax.nn import layers
from tokjax.nn.param import Param, materialize
from tokjax.nn.transformer import TransformerSpec
from tokjax.objectives.language import stream_batch
from tokjax.systems.language.lm import Lexinvariant, Lm

V, D = 40, 32
BACKBONE = TransformerSpec(width=D, layers=2, heads=2)
END = V - 1
KEY = evaluation_key(3)
NAMES = [*embeddings, "lexinvariant:channels=12", "pooled_bytes:kind=attention", "pooled_bytes:kind=mean"]
every_embedding = pytest.mark.parametrize("name", NAMES)
every_embedding_of_ids = pytest.mark.parametrize(
    "name", [n for n in NAMES if not embedding(n, vocab_size=V, width=D).cap]
)


@functools.cache
def made(name):
    spec = embedding(name, vocab_size=V, width=D)
    return spec, materialize(spec.declare(), jax.random.key(1))


def text_batch(seed=0, rows=3, length=24):
    ids = jax.random.randint(jax.random.key(seed), (rows, length), 0, END)
    ids = ids.at[:, 0].set(END)
    batch = stream_batch(ids)
    return batch.replace(targets=jnp.roll(ids, -1, axis=1), loss_mask=jnp.ones(ids.shape), units=jnp.ones_like(ids))


def vectors_of(name, ids, segment_ids, key=KEY, params=None):
    """What `name` makes of `ids`, each of them spelled as a word of 1 to `cap` bytes where it reads words."""
    spec, drawn = made(name)
    if spec.cap:
        place = jnp.arange(spec.cap)
        ids = ids[..., None]
        ids = jnp.where(place <= ids % spec.cap, (ids + 7 * place) % V, PAD)
    return spec.vectors(drawn if params is None else params, ids, segment_ids, key)


@every_embedding
def test_vectors_have_about_unit_variance(name):
    batch = text_batch(rows=16)
    vectors = vectors_of(name, batch.ids, batch.segment_ids)
    chex.assert_shape(vectors, (16, 24, D))
    # A byte and its place have 2 together, the mean of many less; fixed channels are few numbers, the same for all ids.
    low, high = (0.2, 2) if made(name)[0].cap else (0.4, 1.8) if "channels" in name else (0.7, 1.4)
    assert low < jnp.var(vectors) < high


@every_embedding_of_ids
def test_rows_have_variance_one_over_width(name):
    spec, params = made(name)
    rows = spec.rows(params, jnp.arange(V), KEY)
    chex.assert_shape(rows, (V, D))
    assert 0.7 < D * jnp.var(rows) < 1.4


@every_embedding
def test_keys_of_rows_give_each_row_what_its_key_gives_all(name):
    batch, keys = text_batch(), jax.random.split(KEY, 3)
    together = vectors_of(name, batch.ids, batch.segment_ids, keys)
    for row in range(3):
        ids, segment_ids = (jnp.broadcast_to(x[row], x.shape) for x in (batch.ids, batch.segment_ids))
        alone = vectors_of(name, ids, segment_ids, keys[row])  # as many rows, so that products have the same shapes
        np.testing.assert_allclose(together[row], alone[row], atol=1e-6)


@every_embedding_of_ids
def test_keys_of_rows_give_each_row_the_logits_that_its_key_gives_all(name):
    spec, params = made(name)
    keys, hidden = jax.random.split(KEY, 3), jax.random.normal(jax.random.key(5), (3, 24, D))
    together = spec.logits(params, hidden, keys)
    for row in range(3):
        alone = spec.logits(params, hidden[row : row + 1], keys[row])
        np.testing.assert_allclose(together[row : row + 1], alone, atol=1e-5)


@every_embedding
def test_no_vector_depends_on_later_ids_or_on_another_document(name):
    ids = text_batch().ids
    segments = jnp.where(jnp.arange(24) < 10, 1, 2) * jnp.ones((3, 1), jnp.int32)
    before = vectors_of(name, ids, segments)
    after = vectors_of(name, ids.at[:, :10].set(5).at[:, 20:].set(6), segments)
    np.testing.assert_array_equal(before[:, 10:20], after[:, 10:20])
    assert jnp.any(before[:, :10] != after[:, :10])


@every_embedding
def test_every_parameter_learns(name):
    batch = text_batch()
    loss = lambda params: jnp.sum(jnp.sin(vectors_of(name, batch.ids, batch.segment_ids, params=params)))  # noqa: E731
    gradients = jax.grad(loss)(made(name)[1])
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        assert jnp.isfinite(gradient).all() and jnp.any(gradient != 0), jax.tree_util.keystr(path)


def test_mistakes_are_named():
    with pytest.raises(UnknownNameError, match="lexinvariant"):
        embedding("lexinvarient", vocab_size=V, width=D)
    with pytest.raises(SpecError, match="Mixture has no such field"):
        embedding("mixture:q=1", vocab_size=V, width=D)
    with pytest.raises(SpecError, match="probability"):
        embedding("mixture:p=1.5", vocab_size=V, width=D)
    with pytest.raises(SpecError, match="NAME:field=value"):
        embedding("mixture:0.2", vocab_size=V, width=D)
    for channels in (-1, D // 2 + 1):
        with pytest.raises(SpecError, match="use 1 to half of the width, 16, or 0"):
            embedding(f"lexinvariant:channels={channels}", vocab_size=V, width=D)
    with pytest.raises(SpecError, match="power of two"):
        embedding("ngram_hash:buckets=1000", vocab_size=V, width=D)
    with pytest.raises(SpecError, match="output matrix would know the ids"):
        Lm(vocab_size=V, backbone=BACKBONE, embedding="lexinvariant", tied=False)
    with pytest.raises(SpecError, match="mixture with p above 0"):
        Lexinvariant(vocab_size=V, backbone=BACKBONE, embedding="mixture:p=0")
    with pytest.raises(SpecError, match="naming: got -1"):
        Lexinvariant(vocab_size=V, backbone=BACKBONE, naming=-1.0)
    for system in (Lm, Lexinvariant):
        with pytest.raises(SpecError, match=r"reads words of bytes.* use 'table'.* byte2word"):
            system(vocab_size=V, backbone=BACKBONE, embedding="pooled_bytes:kind=mean")
    assert {"table", "lexinvariant", "mixture", "ngram_hash", "pooled_bytes"} <= set(embeddings)


def test_a_new_embedding_is_one_class(tmp_path, monkeypatch):
    """Registered, it trains, saves, scores and writes in an `lm`, with its fields and its cost, by name alone."""
    monkeypatch.setattr(embeddings, "_entries", dict(embeddings._entries))

    @embeddings.register("scaled")
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Scaled(Embedding):
        """A learned vector for every id, read through a matrix."""

        gain: float = 1.0

        def declare(self):
            square = Param((self.width, self.width), ("embed", "mlp"), lambda key, shape: jnp.eye(*shape))
            return {"ids": layers.declare_embedding(self.vocab_size, self.width), "map": square}

        def rows(self, params, ids, key):
            return params["ids"][ids]

        def vectors(self, params, ids, segment_ids, key):
            return self.gain * super().vectors(params, ids, segment_ids, key) @ params["map"]

        def flops(self, count):
            return 2.0 * count * self.width**2

    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"Paragraph {i} of the text says that {i * i} is a square." for i in range(200)))
    config = load_config("m1:smoke")
    config.source, config.system.embedding = f"file:{text}?records=paragraphs", "scaled:gain=0.5"
    config.data.eval_bytes = 500
    model, _ = train_model(config.to_dict(), tmp_path / "run", progress=False)
    assert model.system.embedder.gain == 0.5
    assert not jnp.array_equal(model.params["embedding"]["map"], jnp.eye(32))
    assert model.system.flops(2, 8) - Lm(vocab_size=257, backbone=model.system.backbone).flops(2, 8) == 2 * 16 * 32**2
    assert model.evaluate([b"Paragraph 7 of the text says that 49 is a square."]).bits_per_byte < 6
    assert load_model(tmp_path / "run").sample("Para", steps=4)


# Lexinvariance.


@functools.cache
def lexinvariant(**fields):
    system = Lexinvariant(vocab_size=V, backbone=BACKBONE, **fields)
    # Wide outputs, so that predictions are far from uniform.
    return system, jax.tree.map(lambda p: 3 * p, materialize(system.declare(), jax.random.key(2)))


def as_table(params, key):
    """The same model with the vectors of `key` as a learned table."""
    system, _ = lexinvariant()
    rows = system.embedder.rows(params["embedding"], jnp.arange(V), key)
    return {**params, "embedding": rows}


def test_it_is_the_standard_model_with_the_drawn_table():
    """But for the vector that all ids have in common."""
    (system, params), batch = lexinvariant(), text_batch()
    params = {**params, "embedding": params["embedding"] | {"common": jnp.zeros(D)}}
    standard = Lm(vocab_size=V, backbone=BACKBONE)
    ours = jax.jit(system.score_draw)(params, batch, KEY).nll
    theirs = jax.jit(standard.nll)(as_table(params, KEY), batch)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_renaming_ids_and_their_vectors_alike_changes_no_loss():
    """loss(x; E) == loss(pi(x); E[pi^-1]): the end of a document keeps its name."""
    (_, params), batch = lexinvariant(), text_batch()
    standard, table = Lm(vocab_size=V, backbone=BACKBONE), as_table(params, KEY)
    renamed = jnp.append(jax.random.permutation(jax.random.key(9), END), END)
    other = batch.replace(ids=renamed[batch.ids], targets=renamed[batch.targets])
    moved = {**table, "embedding": table["embedding"][jnp.argsort(renamed)]}
    nll = jax.jit(standard.nll)
    before, after = nll(table, batch), nll(moved, other)
    np.testing.assert_allclose(before, after, rtol=1e-5, atol=1e-5)
    assert jnp.max(jnp.abs(before - nll(table, other))) > 0.1  # the names alone do matter


@functools.cache
def over_draws(count=600):
    """Probabilities float [draws, T, V] of one row under many draws; id 7 is seen, 20 to 30 are not."""
    system, _ = lexinvariant()
    params = materialize(system.declare(), jax.random.key(2))
    ids = jnp.array([[END, 7, 7, 3, 7]], jnp.int32)

    def probabilities(key):
        hidden = system.hidden(params, stream_batch(ids), key)
        return jax.nn.softmax(system.embedder.logits(params["embedding"], hidden, key))[0]

    return np.asarray(jax.jit(jax.vmap(probabilities))(jax.random.split(jax.random.key(4), count)))


def z_score(sample):
    return abs(sample.mean()) / (sample.std(ddof=1) / np.sqrt(len(sample)))


def test_the_first_id_is_a_uniform_guess():
    """Nothing is known of any id before the first: over draws, all have the same probability."""
    first = over_draws()[:, 0, :END]
    uniform = first.sum(axis=1, keepdims=True) / END
    assert max(z_score(first[:, i] - uniform[:, 0]) for i in range(END)) < 4.5
    # And it costs at least log V of what the end of the document leaves: guessing is not free.
    assert -np.log(first / first.sum(axis=1, keepdims=True)).mean() > np.log(END)


def test_unseen_ids_are_exchangeable_and_seen_ones_are_not():
    last = np.log(over_draws()[:, -1])
    assert max(z_score(last[:, 20] - last[:, i]) for i in range(21, 31)) < 4.5
    assert z_score(last[:, 7] - last[:, 20]) > 4.5


def test_two_seeds_of_draws_agree():
    (system, params), batch = lexinvariant(), text_batch(rows=8)
    score = jax.jit(lambda key: system.score_draw(params, batch, key).nll.mean())
    one, other = (np.array([score(k) for k in jax.random.split(jax.random.key(s), 40)]) for s in (0, 1))
    error = np.sqrt(one.var(ddof=1) / len(one) + other.var(ddof=1) / len(other))
    assert abs(one.mean() - other.mean()) < 4 * error


def test_scores_are_the_mean_over_draws():
    (system, params), batch = lexinvariant(draws=3), text_batch()
    score = jax.jit(system.score_draw)
    each = [score(params, batch, evaluation_key(i)).nll for i in range(3)]
    np.testing.assert_allclose(jax.jit(system.score)(params, batch).nll, sum(each) / 3, rtol=1e-6)
    assert jnp.max(jnp.abs(each[0] - each[1])) > 0.1


def test_every_row_and_step_trains_on_its_own_draw():
    (system, params), batch = lexinvariant(), text_batch()
    same = jax.tree.map(lambda x: jnp.repeat(x[:1], 3, axis=0), batch)
    keys = jax.random.split(jax.random.key(0), 3)
    rows = jax.jit(system.score_draw)(params, same, keys).nll.sum(axis=1)
    assert len(np.unique(np.asarray(rows))) == 3
    loss = jax.jit(system.loss)
    losses = {float(loss(params, {}, batch, jax.random.key(i))[0]) for i in range(3)}
    assert len(losses) == 3


def test_channels_of_their_own_are_read_first_and_scored_last():
    """The same vectors, in other channels; the first position of a row reads as the end of a document."""
    spec, params = made("lexinvariant:channels=12")
    ids = text_batch(rows=1).ids.at[0, 0].set(7)
    read, rows = vectors_of("lexinvariant:channels=12", ids, jnp.ones_like(ids))[0], spec.rows(params, ids[0], KEY)
    np.testing.assert_array_equal(rows[:, :-12], 0)
    np.testing.assert_allclose(rows[:, -12:], draw(KEY, ids[0], 12))
    np.testing.assert_allclose(read[1:, :12], np.sqrt(12) * rows[1:, -12:], rtol=1e-6)
    np.testing.assert_array_equal(read[1:, 12:], np.tile(params["common"], (23, 1)))
    np.testing.assert_allclose(read[0], np.sqrt(D) * params["end_of_document"][0], rtol=1e-6)


# The mixture.


def losses_and_gradients(system, params):
    loss = lambda params, batch, key: system.loss(params, {}, batch, key)[0]  # noqa: E731
    return jax.jit(jax.value_and_grad(loss))(params, text_batch(), jax.random.key(6))


@pytest.mark.parametrize(("p", "pure"), [(0, "table"), (1, "lexinvariant")])
def test_the_ends_of_the_mixture_are_pure_bit_for_bit(p, pure):
    ours, theirs = (Lm(vocab_size=V, backbone=BACKBONE, embedding=name) for name in (f"mixture:p={p}", pure))
    params = materialize(ours.declare(), jax.random.key(2))
    chex.assert_trees_all_equal(losses_and_gradients(ours, params), losses_and_gradients(theirs, params))


def test_a_sequence_learns_nothing_of_the_rows_that_it_draws():
    system = Lm(vocab_size=V, backbone=BACKBONE, embedding="mixture:p=0.7", tied=True)
    params, batch = materialize(system.declare(), jax.random.key(2)), text_batch(rows=1)
    key = jax.random.key(6)
    _, gradients = jax.jit(jax.value_and_grad(lambda p: system.loss(p, {}, batch, key)[0]))(params)
    rows = system.embedder.rows(params["embedding"], jnp.arange(V), jax.random.split(key, 1))[0]
    drawn = np.asarray((rows != params["embedding"]).any(axis=1))
    learned = np.asarray((gradients["embedding"] != 0).any(axis=1))
    assert drawn.any() and (learned == ~drawn).all()


def test_a_share_p_of_ids_is_drawn_and_another_one_in_every_sequence():
    spec = embedding("mixture:p=0.2", vocab_size=2001, width=8)
    table = materialize(spec.declare(), jax.random.key(0))
    rows = spec.rows(table, jnp.arange(2001), jax.random.split(jax.random.key(1), 4))
    drawn = np.asarray((rows != table[:2001]).any(axis=-1))
    assert (abs(drawn.mean(axis=1) - 0.2) < 0.04).all()
    assert not drawn[:, 2000].any()
    assert (drawn[0] != drawn[1]).mean() > 0.2
    expected = draw(jax.random.split(jax.random.key(1), 4), jnp.arange(2001), 8)
    np.testing.assert_array_equal(np.asarray(rows)[drawn], np.asarray(expected)[drawn])


# Chunks.


@pytest.mark.parametrize("chunk", [7, 1000])
@pytest.mark.parametrize("fields", [{}, {"embedding": "lexinvariant"}, {"tied": False}], ids=str)
def test_chunks_change_no_score_and_no_gradient(chunk, fields):
    whole, parts = (Lm(vocab_size=V, backbone=BACKBONE, readout_chunk=c, **fields) for c in (0, chunk))
    params = jax.tree.map(lambda p: 2 * p, materialize(whole.declare(), jax.random.key(3)))
    batch = text_batch()
    expected, found = (jax.jit(system.score)(params, batch) for system in (whole, parts))
    np.testing.assert_allclose(found.nll, expected.nll, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found.correct, expected.correct)
    (loss, gradients), (other, others) = losses_and_gradients(whole, params), losses_and_gradients(parts, params)
    np.testing.assert_allclose(loss, other, rtol=1e-6)
    chex.assert_trees_all_close(gradients, others, rtol=1e-4, atol=1e-5)


def test_memory_does_not_grow_with_the_vocabulary():
    """A training step over 2**17 ids takes what one over 2**12 takes: no table, no logits of all ids."""

    def peak(vocab_size):
        system = Lexinvariant(vocab_size=vocab_size, backbone=BACKBONE, readout_chunk=1024)
        shapes = jax.eval_shape(lambda key: materialize(system.declare(), key), jax.random.key(0))
        loss = lambda params, batch, key: system.loss(params, {}, batch, key)[0]  # noqa: E731
        memory = jax.jit(jax.grad(loss)).lower(shapes, text_batch(), jax.random.key(0)).compile().memory_analysis()
        return memory.temp_size_in_bytes + memory.argument_size_in_bytes

    small, large = peak(1 << 12), peak(1 << 17)
    # Each further chunk leaves the running sum of every position: a few numbers, not vectors.
    assert large - small < 124 * 8 * 4 * 3 * 24 and large < 4e6


def test_hashed_ngrams_tell_contexts_apart():
    spec, _ = made("ngram_hash")
    ids = jnp.array([[1, 2, 3, 4, 9, 2, 3, 4, 1, 2, 3, 4]], jnp.int32)
    buckets = spec.bucket_of(ids, jnp.ones_like(ids))
    assert buckets[3][0, 3] == buckets[3][0, 7] == buckets[3][0, 11]  # 2 3 4
    assert buckets[4][0, 3] == buckets[4][0, 11] != buckets[4][0, 7]  # 1 2 3 4, 9 2 3 4
    many = jax.random.randint(jax.random.key(0), (1, 4000), 0, END)
    used = np.unique(np.asarray(spec.bucket_of(many, jnp.ones_like(many))[5]))
    assert len(used) > 0.55 * 4096  # of 4,000 random ones, 1 - 1/e would be 63%
    assert used.max() < 4096


@every_embedding_of_ids
def test_generation_reads_what_training_reads(name):
    """Logits of the cache, symbol by symbol, are those of the whole row; also for vectors of several ids."""
    system = Lm(vocab_size=V, backbone=BACKBONE, embedding=name)
    params = materialize(system.declare(), jax.random.key(3))
    ids = text_batch(rows=2, length=9).ids
    whole, _ = system.logits(params, stream_batch(ids))
    state, step = system.init_decode(params, 2, 9), jax.jit(system.decode)
    for place in range(9):
        logits, state = step(params, state, ids[:, place])
        np.testing.assert_allclose(logits, whole[:, place], atol=2e-4)
