"""The lexinvariant system as it is trained: no vocabulary in its parameters, and names of ids that change nothing."""

import dataclasses
import functools
import string

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokjax.data.windows import token_stream, train_batch
from tokjax.embed.base import evaluation_key
from tokjax.embed.lexinvariant import Mixture, draw
from tokjax.nn.param import count, materialize
from tokjax.nn.transformer import TransformerSpec
from tokjax.objectives.language import stream_batch
from tokjax.systems.language.lm import Lexinvariant, Lm
from tokjax.text import fit_tokenizer
from tokjax.train import OptimizerSpec, make_transform
from tokjax.train.state import initializer
from tokjax.train.step import make_step

V, D = 40, 32
END = V - 1
BACKBONE = TransformerSpec(width=D, layers=1, heads=2)
KEY = jax.random.key(0)


def text_batch(rows=3, length=24):
    """Rows in which some ids come back and others never do."""
    ids = jax.random.randint(jax.random.key(1), (rows, length), 0, END // 2).at[:, 0].set(END)
    batch = stream_batch(ids)
    return batch.replace(targets=jnp.roll(ids, -1, axis=1), loss_mask=jnp.ones(ids.shape), units=jnp.ones_like(ids))


def trained(system, batches, steps, learning_rate=3e-2):
    """Returns the parameters after so many steps, and the loss of each."""
    optimizer = OptimizerSpec(learning_rate=learning_rate, warmup_steps=1)
    transform = make_transform(optimizer, system)
    state = jax.jit(initializer(system, transform, ema=False))(KEY)
    step = jax.jit(make_step(system, transform, optimizer))
    losses = []
    for index in range(steps):
        state, metrics = step(state, batches(index), KEY, jnp.float32(learning_rate))
        losses.append(float(metrics.loss))
    return state, np.array(losses)


@functools.cache
def lexinvariant():
    system = Lexinvariant(vocab_size=V, backbone=BACKBONE)
    return system, jax.tree.map(lambda p: 3 * p, materialize(system.declare(), KEY))


def test_other_names_change_no_loss_in_expectation():
    """E[loss(x)] == E[loss(pi(x))] over draws; under a single one they differ."""
    system, params = lexinvariant()
    batch = jax.tree.map(lambda x: x[:1].repeat(800, axis=0), text_batch())
    names = jnp.append(jax.random.permutation(jax.random.key(9), END), END)
    other = batch.replace(ids=names[batch.ids], targets=names[batch.targets])
    score = jax.jit(system.score_draw)
    keys = jax.random.split(jax.random.key(4), 800)
    one, two = (np.asarray(score(params, each, keys).nll, np.float64).mean(axis=1) for each in (batch, other))
    difference = one - two
    assert abs(difference.mean()) < 4 * difference.std(ddof=1) / np.sqrt(len(difference))
    assert difference.std() > 0.1


def test_nothing_learned_is_of_the_size_of_the_vocabulary():
    """No id has a parameter, so none has a gradient; what is learned is as much over 40 ids as over 131,072."""
    small, large = (Lexinvariant(vocab_size=size, backbone=BACKBONE) for size in (V, 1 << 17))
    assert count(small.declare()) == count(large.declare())
    for leaf in jax.tree.leaves(jax.eval_shape(lambda key: materialize(large.declare(), key), KEY)):
        assert max(leaf.shape) <= 4 * D


def test_the_end_of_a_document_has_one_vector_and_every_other_id_another_in_each_draw():
    system, params = lexinvariant()
    keys = jax.random.split(KEY, 4)
    rows = np.asarray(system.embedder.rows(params["embedding"], jnp.arange(V), keys))
    ids, segments = jnp.arange(V)[None].repeat(4, axis=0), jnp.ones((4, V), jnp.int32)
    read = np.asarray(system.embedder.vectors(params["embedding"], ids, segments, keys))
    for vectors in (rows, read):
        np.testing.assert_array_equal(vectors[:, END], vectors[:1, END].repeat(4, axis=0))
        for one, other in ((0, 1), (2, 3)):
            assert (vectors[one, :END] != vectors[other, :END]).any(axis=-1).all()
    np.testing.assert_array_equal(rows[0, END], params["embedding"]["end_of_document"][0])


def test_where_the_stack_says_nothing_an_id_costs_the_log_of_the_vocabulary():
    """The bound that the first id of a text can only meet: without information, log V exactly. Ids outnumber D."""
    assert V > D
    system, params = lexinvariant()
    silent = jax.tree.map(jnp.zeros_like, params["backbone"])
    nll = system.score_draw({**params, "backbone": silent}, text_batch(), evaluation_key(0)).nll
    np.testing.assert_allclose(nll, np.log(V), rtol=1e-6)


@pytest.mark.parametrize(("p", "pure"), [(0, "table"), (1, "lexinvariant")])
def test_training_steps_at_the_ends_of_the_mixture_are_pure_bit_for_bit(p, pure):
    """Two steps of the optimizer, losses and everything that a step carries on."""
    ours, theirs = (Lm(vocab_size=V, backbone=BACKBONE, embedding=name) for name in (f"mixture:p={p}", pure))
    (state, losses), (other, others) = (trained(system, lambda _: text_batch(), 2) for system in (ours, theirs))
    chex.assert_trees_all_equal(state, other)
    np.testing.assert_array_equal(losses, others)


def test_the_mixture_itself_takes_every_row_from_one_side_at_its_ends():
    """Not only by giving way to the pure embeddings: at p=0 all rows are learned, at p=1 all but the last are drawn."""
    table = materialize(Mixture(vocab_size=V, width=D).declare(), KEY)
    ids, keys = jnp.arange(V), jax.random.split(KEY, 3)
    none, every = (Mixture(vocab_size=V, width=D, p=p).rows(table, ids, keys) for p in (0.0, 1.0))
    np.testing.assert_array_equal(none, table[None, :V].repeat(3, axis=0))
    np.testing.assert_array_equal(every[:, :END], draw(keys, ids[:END], D))
    np.testing.assert_array_equal(every[:, END], table[None, END].repeat(3, axis=0))


# Names as a second loss.

NAMED = Lexinvariant(vocab_size=V, backbone=BACKBONE, embedding="lexinvariant:channels=16", naming=2.0)


def test_naming_adds_the_cross_entropy_of_what_is_read():
    params, batch = materialize(NAMED.declare(), KEY), text_batch()
    batch = batch.replace(segment_ids=batch.segment_ids.at[:, 20:].set(0))  # padding has no name
    loss, (_, aux) = jax.jit(NAMED.loss)(params, {}, batch, KEY)
    plain = dataclasses.replace(NAMED, naming=0.0)
    alone, (_, others) = jax.jit(plain.loss)({name: x for name, x in params.items() if name != "names"}, {}, batch, KEY)
    states = NAMED.hidden(params, batch, jax.random.split(KEY, 3))[:, :20]
    named = np.asarray(states @ params["names"][:V].T, np.float64)
    total = (
        np.log(np.exp(named).sum(axis=-1)) - np.take_along_axis(named, np.asarray(batch.ids)[:, :20, None], -1)[..., 0]
    )
    np.testing.assert_allclose(loss, alone + 2 * total.mean(), rtol=1e-5)
    np.testing.assert_allclose(aux["naming"][0], total.sum(), rtol=1e-5)
    assert aux["naming"][1] == aux["named"][1] == total.size
    assert aux["named"][0] == (named.argmax(axis=-1) == batch.ids[:, :20]).sum()
    chex.assert_trees_all_close({name: aux[name] for name in others}, others, rtol=1e-5)


def test_names_are_scored_in_chunks_as_symbols_are():
    """The same loss and gradients; and no logits of all names at once."""
    params, batch = materialize(NAMED.declare(), KEY), text_batch()
    parts = dataclasses.replace(NAMED, readout_chunk=7)
    whole, chunked = (jax.value_and_grad(lambda p, s=s: s.loss(p, {}, batch, KEY)[0]) for s in (NAMED, parts))
    (one, gradients), (two, others) = jax.jit(whole)(params), jax.jit(chunked)(params)
    np.testing.assert_allclose(one, two, rtol=1e-6)
    chex.assert_trees_all_close(gradients, others, rtol=1e-4, atol=1e-5)
    rows, length = batch.ids.shape
    assert f"f32[{rows},{length},{V}]" in str(jax.make_jaxpr(whole)(params))
    assert f"f32[{rows},{length},{V}]" not in str(jax.make_jaxpr(chunked)(params))


def test_names_play_no_part_in_scores_and_renamed_symbols_cost_the_same():
    params, batch = materialize(NAMED.declare(), KEY), text_batch()
    score = jax.jit(NAMED.score)
    chex.assert_trees_all_equal(score(params, batch), score({**params, "names": params["names"] + 1}, batch))
    shown = jax.tree.map(lambda x: x[:1].repeat(800, axis=0), batch)
    renamed = jnp.append(jax.random.permutation(jax.random.key(9), END), END)
    other = shown.replace(ids=renamed[shown.ids], targets=renamed[shown.targets])
    keys = jax.random.split(jax.random.key(4), 800)
    score = jax.jit(NAMED.score_draw)
    one, two = (np.asarray(score(params, each, keys).nll, np.float64).mean(axis=1) for each in (shown, other))
    assert abs((one - two).mean()) < 4 * (one - two).std(ddof=1) / np.sqrt(800)
    assert (one - two).std() > 0.01


def test_it_learns_to_name_symbols_of_fresh_alphabets_by_how_frequent_they_are():
    """Of 40 symbols, 24, 12 and 4 are alike: at the end of a row, well above guessing the most frequent one, 60%."""
    counts = np.array([24, 12, 4])
    stack = TransformerSpec(width=D, layers=1, heads=2, init="matching", smeared_keys=True)
    system = dataclasses.replace(NAMED, backbone=stack)

    def rows(index, count=16):
        generator = np.random.default_rng(index)
        ids = np.stack([generator.permutation(np.repeat(np.arange(3), counts)) for _ in range(count)])
        ids = jnp.asarray(np.pad(ids, ((0, 0), (1, 0)), constant_values=END), jnp.int32)
        batch = stream_batch(ids)
        return batch.replace(targets=jnp.roll(ids, -1, axis=1), loss_mask=jnp.ones(ids.shape), units=jnp.ones_like(ids))

    state, _ = trained(system, rows, 300, learning_rate=1e-2)
    batch = rows(1000, 100)
    states = jax.jit(system.hidden)(state.params, batch, jax.random.split(jax.random.key(5), 100))
    right = (jnp.argmax(states @ state.params["names"][:V].T, axis=-1) == batch.ids)[:, -8:].mean()
    assert right > 0.7  # 0.6 has a standard error of 0.02


# Vocabularies of every size are trained on.


def documents(words, alphabet):
    """All words twice, in two orders, and texts that repeat a few of their own."""
    generator = np.random.default_rng(0)
    spelled = ["".join(letters) for letters in generator.choice(list(alphabet), (words, 6))]
    own = generator.integers(0, words, (200, 3))
    texts = [" ".join(spelled[i] for i in generator.choice(few, 100)) for few in own]
    return [text.encode() for text in (" ".join(spelled), " ".join(spelled[::-1]), *texts)]


@pytest.mark.parametrize(
    ("name", "fields", "size"),
    [("characters", {"vocab_size": 384}, 256 + 24), ("bytes", {}, 256), ("bpe", {"vocab_size": 1 << 15}, 1 << 15)],
)
def test_it_trains_over_characters_bytes_and_subwords(name, fields, size):
    """From a guess among all ids, each sequence teaches which of them it uses: the loss falls."""
    large = size > 1 << 12
    greek = "αβγδεζηθικλμνξοπρστυφχψω"
    texts = documents(30_000 if large else 300, greek if name == "characters" else string.ascii_lowercase)
    fitted = fit_tokenizer(name, texts, **fields)
    assert fitted.size == size
    system = Lexinvariant(vocab_size=size + 1, backbone=BACKBONE, readout_chunk=1 << 12 if large else 0)
    text = token_stream(texts[2:], fitted)
    batches = functools.partial(train_batch, text, seed=0, batch_size=4, length=64)
    _, losses = trained(system, batches, 24 if large else 150)
    assert np.isfinite(losses).all()
    assert abs(losses[0] / np.log(size) - 1) < 0.2
    assert losses[-8:].mean() < min(losses[:8].mean() - 0.2, np.log(size))
