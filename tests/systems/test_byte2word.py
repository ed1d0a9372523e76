"""What encoders of words promise: nothing of a masked word leaks, documents stay apart, costs are those stated."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokjax.core.errors import SpecError, UserError
from tokjax.core.registry import systems
from tokjax.core.spec import build
from tokjax.data.order import epoch_order
from tokjax.data.word_rows import MASK_BYTE, cut_rows, document_rows, eval_rows, train_rows
from tokjax.data.words import change_words, word_stream
from tokjax.experiment.config import load_config
from tokjax.experiment.encoder import build_encoder, load_encoder, train_encoder
from tokjax.measure.masked import evaluate_words
from tokjax.nn.param import count, materialize
from tokjax.objectives.masked import MaskedWordSystem
from tokjax.text import fit_tokenizer

LENGTH, VOCABULARY = 24, 560
DOCUMENTS = [
    b"The quick brown fox jumps over the lazy dog, and the dog sleeps on; the fox is gone.",
    "Zürich, 東京 and naïve cafés: 12,345 ways\nto say “hello” and “good bye” to everyone!".encode(),
    b"def function(argument):\n    return argument + 1\n",
] * 3
ENCODERS = [n for n in systems if issubclass(systems[n], MaskedWordSystem)]
VARIANTS = [*[(name, {}) for name in ENCODERS], ("wordpiece_encoder", {"one_mask": True})]
every_encoder = pytest.mark.parametrize("case", range(len(VARIANTS)), ids=[f"{n}{list(v)}" for n, v in VARIANTS])


@functools.cache
def fitted():
    return fit_tokenizer("wordpiece", DOCUMENTS, vocab_size=VOCABULARY)


@functools.cache
def stream():
    return word_stream(DOCUMENTS, fitted(), cap=20)


@functools.cache
def built(case):
    """(system, parameters drawn wide enough that every path matters)."""
    name, fields = VARIANTS[case]
    config = load_config(f"{name}:smoke").to_dict()["system"] | fields
    system = build_encoder(config, fitted())
    params = materialize(system.declare(), jax.random.key(0))
    return system, jax.tree.map(lambda p: p * 1.5, params)


@functools.cache
def logits_of(case):
    return jax.jit(built(case)[0].logits)


def masked_batch(case, words=None):
    text = stream() if words is None else words
    return next(eval_rows(text, built(case)[0].row_shape(LENGTH), batch_size=4, rate=0.15))


def replaced(text, place, word):
    """The stream with one word exchanged for another of as many pieces."""
    return change_words(text, lambda old, at: word if at == place else old, fitted())


@every_encoder
def test_a_masked_word_does_not_leak(case):
    """Another word behind the mask, of as many pieces but other bytes and length, moves no logit, to the last bit."""
    before = masked_batch(case)
    row, column = 0, 0
    place = int(before.at[row, column])  # row 0 begins the stream
    counts, lengths = stream().table.counts, stream().table.lengths
    old = int(stream().words[place])
    other = next(
        i for i, n in enumerate(counts) if n == counts[old] and lengths[i] != lengths[old] and stream().table.is_text[i]
    )
    after = masked_batch(case, replaced(stream(), place, stream().table.words[other]))
    assert (before.targets[row, column] != after.targets[row, column]).any()
    np.testing.assert_array_equal(logits_of(case)(built(case)[1], before), logits_of(case)(built(case)[1], after))


@every_encoder
def test_context_matters_on_both_sides(case):
    """A word before and a word after the mask each move its logits."""
    batch = masked_batch(case)
    segments, slots = batch.segment_ids[0], batch.at[0][batch.target_counts[0] > 0].tolist()
    column, slot = next(
        (c, s)
        for c, s in enumerate(slots)
        if 0 < s < LENGTH - 1 and not {s - 1, s + 1} & set(slots) and segments[s - 1] == segments[s + 1]
    )
    before = logits_of(case)(built(case)[1], batch)[0, column]
    for neighbour in (slot - 1, slot + 1):  # row 0 begins the stream
        moved = masked_batch(case, replaced(stream(), neighbour, b" x"))
        after = logits_of(case)(built(case)[1], moved)[0, column]
        assert float(jnp.abs(before - after).max()) > 1e-4


@every_encoder
def test_documents_of_a_row_never_see_each_other(case):
    """Exchanging a word of the first document moves its own states and none of the others', to the last bit."""
    system, params = built(case)
    shape = system.row_shape(80)
    rows = cut_rows(stream(), shape)
    encode = jax.jit(system.encode)

    def states(text):
        batch = train_rows(dataclasses.replace(rows, stream=text), 0, seed=0, batch_size=1, rate=0.15)
        return batch, *map(np.asarray, encode(params, batch))

    batch, before, segments = states(stream())
    start = int(rows.starts[epoch_order(0, 0, rows.count)[0]])
    inside = np.flatnonzero((batch.segment_ids[0] == 1) & (batch.word_bytes[0, :, 0] != MASK_BYTE))
    ids = stream().words[start + inside]
    slot, old = next((s, i) for s, i in zip(inside, ids, strict=True) if stream().table.counts[i] == 1)
    other = next(i for i, n in enumerate(stream().table.counts) if n == 1 and i != old)
    _, after, _ = states(replaced(stream(), start + int(slot), stream().table.words[other]))
    changed = np.any(before != after, axis=-1)
    assert changed[segments == 1].any() and not changed[segments > 1].any()
    assert (segments > 1).any()


def test_noise_in_a_byte_changes_one_word_of_the_input():
    """A byte of byte2word's input belongs to one word: the vectors of all others stay, to the last bit."""
    system, params = built(VARIANTS.index(("byte2word", {})))
    batch = next(document_rows(stream(), system.row_shape(LENGTH), batch_size=2))
    embed = jax.jit(system.embed)
    before = np.asarray(embed(params, batch))
    noisy = np.array(batch.word_bytes)
    noisy[1, 3, 0] ^= 1
    noisy[1, 4, batch.lengths[1, 4] :] = 7  # no byte of any word
    changed = np.any(before != np.asarray(embed(params, batch.replace(word_bytes=noisy))), axis=-1)
    assert np.argwhere(changed).tolist() == [[1, 3]]
    words = [bytes(w[:n].tolist()) for w, n in zip(batch.word_bytes[0], batch.lengths[0], strict=True)]
    one, two = [i for i, word in enumerate(words) if word == b" the"][:2]
    np.testing.assert_allclose(before[0, one], before[0, two], atol=1e-6)


@every_encoder
def test_loss_at_birth_and_gradients(case):
    """Loss is finite and near that of equal logits; every declared array receives a gradient."""
    system = built(case)[0]
    params = materialize(system.declare(), jax.random.key(1))
    batch = train_rows(cut_rows(stream(), system.row_shape(LENGTH)), 0, seed=0, batch_size=8, rate=0.3)
    (loss, (_, aux)), gradients = jax.jit(jax.value_and_grad(system.loss, has_aux=True))(
        params, system.init_state(jax.random.key(0)), batch, jax.random.key(0)
    )
    chex.assert_tree_all_finite((loss, gradients))
    uniform = np.minimum(batch.target_counts, 4).sum() / (batch.target_counts > 0).sum() * np.log(VOCABULARY)
    assert 0.5 * uniform < loss < 2.0 * uniform
    assert float(aux["loss"][1]) == (batch.target_counts > 0).sum()
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        assert jnp.any(gradient != 0), f"{jax.tree_util.keystr(path)} gets no gradient"


@every_encoder
def test_scores_do_not_depend_on_batch_size(case):
    """Every word once, whatever the batch: the same sums (float tolerance: other shapes)."""
    system, params = built(case)
    one, other = (evaluate_words(system, params, stream(), length=LENGTH, batch_size=b) for b in (3, 8))
    assert one.words == other.words == int(stream().table.is_text[stream().words].sum())
    np.testing.assert_allclose(one.bits_per_word, other.bits_per_word, rtol=1e-5)
    assert one.word_accuracy == other.word_accuracy


@every_encoder
def test_flops_match_xla(case):
    """The analytic count agrees with XLA's on the unrolled program; XLA also counts the elementwise work."""
    system = built(case)[0]
    wide = dataclasses.replace(system.backbone, width=128, heads=2, head_dim=64, hidden=256)
    system = dataclasses.replace(system, backbone=wide)
    shape = system.row_shape(64)
    batch = train_rows(cut_rows(stream(), shape), 0, seed=0, batch_size=4, rate=0.15)
    shapes = jax.eval_shape(lambda key: materialize(system.declare(), key), jax.random.key(0))
    compiled = jax.jit(system.logits).lower(shapes, batch).compile()
    np.testing.assert_allclose(system.flops(4, 64), compiled.cost_analysis()["flops"], rtol=0.15)


@pytest.mark.parametrize("variant", ["smoke", "small", "paper"])
def test_recipes_share_all_but_the_input(variant):
    """Equal backbone, rows, steps and vocabulary; byte2word's embedding holds about a tenth of the other's."""
    recipes = {name: load_config(f"{name}:{variant}").to_dict() for name in ENCODERS}
    built_as = {name: _from_recipe(recipe) for name, recipe in recipes.items()}
    for group in ("data", "optimizer", "train", "tokenizer"):
        assert recipes["byte2word"][group] == recipes["wordpiece_encoder"][group]
    assert built_as["byte2word"].backbone == built_as["wordpiece_encoder"].backbone
    share = built_as["byte2word"].embedding_parameters() / built_as["wordpiece_encoder"].embedding_parameters()
    assert variant == "smoke" or 0.08 < share < 0.12


def _from_recipe(recipe):
    fields = dict(recipe["system"])
    return build(systems[fields.pop("name")], {**fields, "vocab_size": recipe["tokenizer"]["vocab_size"]})


def test_paper_recipe_is_of_base_size():
    """12 layers of width 768 over 30,000 subwords; its embedding is stated in full: bytes, positions, queries, map."""
    system = _from_recipe(load_config("byte2word:paper").to_dict())
    width, queries, cap = system.embedder.byte_width, system.embedder.queries, system.cap
    assert (system.backbone.width, system.backbone.layers, system.vocab_size) == (768, 12, 30_000)
    assert system.embedding_parameters() == (264 + cap + queries) * width + queries * width * 768
    assert 0.08 < system.embedding_parameters() / (30_000 * 768) < 0.10
    assert 80e6 < count(system.declare()["backbone"]) < 90e6  # BERT base: 85 million
    shapes = jax.eval_shape(lambda key: materialize(system.declare(), key), jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count(system.declare())


@pytest.mark.slow
def test_training_learns_and_loads(tmp_path):
    """Words get cheaper; what is loaded is what was trained; equal documents have equal states."""
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"Paragraph {i} of the text says that {i * i} is a square." for i in range(200)))
    config = load_config("byte2word:smoke").to_dict() | {"source": f"file:{text}?records=paragraphs"}
    config["tokenizer"]["vocab_size"] = VOCABULARY
    config["train"] |= {"steps": 12, "eval_every": 12}
    config["data"]["eval_bytes"] = 500
    trained, _ = train_encoder(config, tmp_path / "run", progress=False)
    loaded = load_encoder(tmp_path / "run")
    chex.assert_trees_all_equal(trained.params, loaded.params)
    documents = [b"Paragraph 7 of the text says that 49 is a square."] * 3
    untrained = dataclasses.replace(trained, params=materialize(trained.system.declare(), jax.random.key(0)))
    words = trained.words(documents)
    assert loaded.evaluate(words).bits_per_word < untrained.evaluate(words).bits_per_word - 1
    assert loaded.states(documents).shape == (3, 64)
    np.testing.assert_allclose(loaded.states(documents)[0], loaded.states(documents)[1], atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mask_rate": 1.0}, "mask_rate"),
        ({"embedding": "pooled_bytes:queries=0"}, "queries"),
        ({"embedding": "pooled_bytes:kind=max"}, "kind.*'latent_query'"),
        ({"embedding": "mixture:p=0.5"}, "reads ids, and this model reads words: use 'pooled_bytes'"),
        ({"cap": 24}, "reads words of up to 20 bytes"),
        ({"embedding": "pooled_words"}, "'pooled_bytes'"),
    ],
)
def test_impossible_fields(fields, message):
    config = load_config("byte2word:smoke").to_dict()["system"] | fields
    with pytest.raises(UserError, match=message):
        build_encoder(config, fitted())
    with pytest.raises(SpecError, match="no encoder"):
        build_encoder({"name": "lm"}, fitted())
