"""Word-pooled models against a plain unpacked reading of the paper, and what each level may see of the text."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokjax.core.errors import SpecError
from tokjax.experiment.config import load_config
from tokjax.experiment.run import build_system
from tokjax.generate.decoding import prefill
from tokjax.measure.language import bits_per_byte, score_documents
from tokjax.nn.attention import attention
from tokjax.nn.param import count, materialize
from tokjax.nn.transformer import TransformerSpec, transformer
from tokjax.objectives.language import stream_batch
from tokjax.systems.language.word_pooled import WordPooled
from tokjax.text import fit_tokenizer
from tokjax.text.word_units import WordUnits
from tokjax.text.words import Words

WORD, DOCUMENT = 10, 11  # ids 0 to 9 are units
TEXT = [DOCUMENT, 1, 2, 3, WORD, 4, WORD, 5, 6, 7, WORD, 9]


def system(prefixes=3, cap=6, symbols_per_word=1.0, **fields):
    local = TransformerSpec(width=16, layers=1, heads=2)
    return WordPooled(
        vocab_size=12, backbone=TransformerSpec(width=32, layers=1, heads=2), encoder=local, decoder=local,
        prefixes=prefixes, cap=cap, symbols_per_word=symbols_per_word, **fields,
    )  # fmt: skip


@functools.partial(jax.jit, static_argnums=0)
def draw(spec):
    return jax.tree.map(lambda p: 1.5 * p, materialize(spec.declare(), jax.random.key(0)))


@functools.cache
def params(prefixes=3):
    return draw(system(prefixes))


def batch(ids):
    return stream_batch(jnp.atleast_2d(jnp.array(ids, jnp.int32)))


@functools.partial(jax.jit, static_argnums=0)
def run(spec, params, batch):
    return spec.logits(params, batch)


def logits(ids, prefixes=3):
    """Logits [B, T, V] of rows of ids, or [T, V] of one."""
    found = np.asarray(run(system(prefixes), params(prefixes), batch(ids))[0])
    return found if np.ndim(ids) == 2 else found[0]


@functools.partial(jax.jit, static_argnums=(0, 4))
def on_canvas(stack, params, x, used, causal):
    inside = (jnp.arange(len(x)) < used).astype(jnp.int32)[None]
    attend = functools.partial(attention, segment_ids=inside, causal=causal)
    return transformer(stack, params, x[None], jnp.arange(len(x)), attend)[0]


def alone(stack, params, x, *, causal):
    """One sequence [T, D] through a whole stack, on a canvas of one size for all."""
    x = np.concatenate(x)
    blank = np.zeros((16 - len(x), x.shape[1]), np.float32)
    return np.asarray(on_canvas(stack, params, np.concatenate([x, blank]), len(x), causal))[: len(x)]


def unpacked(spec, params, ids):
    """Logits [T, V], a word at a time: each is P prefix tokens and its units, as the paper draws it."""
    params, P = jax.tree.map(np.asarray, params), spec.prefixes
    table, prefix = (params[name] * math.sqrt(spec.encoder.width) for name in ("embedding", "prefix"))
    words, units = [], []
    for symbol in ids:
        units.append(symbol)
        if symbol >= spec.end_of_word:
            words.append(units)
            units = []
    vectors = []
    for *inside, mark in words:
        encoded = alone(spec.encoder, params["encoder"], [table[[mark] * P] + prefix, table[inside]], causal=False)
        vectors.append(encoded[:P] @ params["to_word"])
    before = alone(spec.backbone, params["backbone"], vectors, causal=True) @ params["to_units"]
    predicted = []
    for index, (*inside, _) in enumerate([*words[1:], [*units, None]]):
        stands_before = before[index * P : (index + 1) * P]
        decoded = alone(spec.decoder, params["decoder"], [stands_before, table[inside]], causal=True)
        predicted.append(decoded[P - 1 :] @ params["embedding"][: spec.vocab_size].T)
    return np.concatenate(predicted)


@pytest.mark.parametrize(("prefixes", "ids"), [(3, TEXT), (1, [DOCUMENT, 1, WORD, 2, WORD, 3, WORD])])
def test_the_packed_stream_is_the_unpacked_model(prefixes, ids):
    """With one prefix token and one unit a word this is a word-level model with a map before and after."""
    expected = unpacked(system(prefixes), params(prefixes), ids)
    np.testing.assert_allclose(logits(ids, prefixes), expected, atol=2e-5)


def test_a_unit_is_seen_by_what_follows_it_and_by_nothing_before():
    units = [t for t, symbol in enumerate(TEXT) if symbol < WORD]
    changed = [[(x + 3) % 10 if i == t else x for i, x in enumerate(TEXT)] for t in units]
    before, *after = logits([TEXT, *changed])
    for t, row in zip(units, after, strict=True):
        np.testing.assert_array_equal(before[:t], row[:t])
        assert np.all(np.abs(before[t:] - row[t:]).max(axis=1) > 1e-6)


def test_padding_and_other_rows_have_no_influence():
    whole = batch([TEXT + [0] * 7, TEXT[::-1] + [0] * 7])
    segments = jnp.array([[1] * 7 + [2] * 5 + [0] * 7] * 2)
    whole = whole.replace(segment_ids=segments)
    spec, weights = system(), params()
    before = run(spec, weights, whole)[0]
    for other in (5, WORD, DOCUMENT):
        ids = whole.ids.at[:, len(TEXT) :].set(other).at[1, : len(TEXT)].set(other)
        after = run(spec, weights, whole.replace(ids=ids))[0]
        np.testing.assert_array_equal(before[0, : len(TEXT)], after[0, : len(TEXT)])


def test_bits_per_byte_are_the_cost_of_the_symbols_one_by_one():
    """Every unit, every end of a word and the end of the document: the chain rule, by the cached decoder."""
    text = "One two, naïve.\nСлово за слово 道".encode()
    fitted = fit_tokenizer("word_units", [text], cap=6)
    spec = dataclasses.replace(system(prefixes=2), vocab_size=fitted.size + 1)
    weights = draw(spec)
    ids = fitted.encode(text)
    inputs = jnp.array([[fitted.end_of_document, *ids]], jnp.int32)
    state = spec.init_decode(weights, 1, inputs.shape[1])
    stepwise, _ = jax.jit(functools.partial(prefill, spec))(weights, state, inputs)
    targets = np.array([*ids, fitted.end_of_document])
    nats = -jax.nn.log_softmax(stepwise[0])[np.arange(len(targets)), targets].sum()
    scored = score_documents(spec, weights, fitted, [text], length=64, batch_size=1)
    assert scored.overflow == 0
    np.testing.assert_allclose(bits_per_byte(scored), nats / math.log(2) / len(text), rtol=1e-5)


def test_a_word_that_is_full_can_only_end():
    spec = system(cap=4)
    ids = [DOCUMENT, 1, 2, 3, 4, WORD, 1, 2]
    allowed = np.exp(jax.nn.log_softmax(run(spec, params(), batch(ids))[0]))[0]
    assert allowed[4, :WORD].sum() == 0 and allowed[4, WORD:].sum() == pytest.approx(1, abs=1e-6)
    assert np.all(allowed[[0, 1, 2, 3, 5, 6, 7]] > 0)


def test_words_past_the_slots_are_predicted_from_the_last_that_fits_and_counted():
    ids = [DOCUMENT, *[1, WORD, 2, WORD, 3, WORD] * 2]
    spec, whole = system(symbols_per_word=3.0), batch(ids)
    assert spec.max_words(len(ids)) == 4
    found, overflow = run(spec, params(), whole.replace(loss_mask=jnp.ones(whole.ids.shape)))
    fifth = 8  # the mark of the fifth word: the document, 1, 2, 3 and this one
    np.testing.assert_allclose(found[0, :fifth], logits(ids)[:fifth], atol=2e-5)
    assert overflow == len(ids) - fifth
    for mark in (10, 12):  # nothing of the words without slots reaches what follows them
        np.testing.assert_allclose(found[0, mark], found[0, fifth], atol=2e-5)
    other = run(spec, params(), batch([DOCUMENT, 7, *ids[2:]]))[0]
    assert np.abs(found[0, fifth:] - other[0, fifth:]).max(axis=-1).min() > 1e-6


def test_it_reads_words_and_word_units_of_the_same_cap():
    spec = system(cap=6)
    spec.accept("words", Words(cap=6))
    spec.accept("word_units", WordUnits(cap=6, base="bytes"))
    with pytest.raises(SpecError, match=r"system\.cap: got 6; must equal tokenizer.cap 8"):
        spec.accept("word_units", WordUnits(cap=8))
    with pytest.raises(SpecError, match="WordPooled runs on 'word_units' only"):
        spec.accept("bpe", object())


@pytest.mark.parametrize("field", ["prefixes", "cap", "symbols_per_word"])
def test_impossible_sizes_are_refused(field):
    with pytest.raises(SpecError, match=f"{field}: got 0"):
        system(**{field: 0})


def test_the_paper_recipe_has_the_sizes_of_the_run_script():
    """Twelve layers of attention (4 D^2) and a gated MLP with as many weights as the plain one of 4 D (8 D^2)."""
    config = load_config("word_pooled:paper").to_dict()
    fields = dict(config["tokenizer"])
    fitted = fit_tokenizer(fields.pop("name"), ["".join(map(chr, range(256, 900))).encode()], **fields)
    spec = build_system(config["system"], fitted)
    assert (spec.encoder.layers, spec.backbone.layers, spec.decoder.layers, spec.prefixes) == (2, 8, 2, 4)
    D = spec.backbone.width
    layer = 4 * D * D + 3 * D * spec.backbone.hidden + 2 * D
    maps, norms, tables = 2 * D * D, 3 * D, (520 + 4) * D  # 513 symbols, in a table of whole eights
    assert count(spec.declare()) == 12 * layer + maps + norms + tables
    assert count(spec.declare()) == pytest.approx(12 * 12 * D * D, rel=0.03)
