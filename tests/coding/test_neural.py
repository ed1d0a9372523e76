"""The neural entropy model: a row's counts depend on its bytes alone, and those of another program differ."""

import dataclasses
import functools
from fractions import Fraction

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokjax.coding import cdf, neural
from tokjax.coding.entropy import FittedEntropy, fit_entropy, unpack
from tokjax.coding.neural import Transformer, to_params, to_tables
from tokjax.coding.saved import check_signature, load_entropy, save_entropy
from tokjax.core.errors import NumericsError, SpecError, TokenizerError
from tokjax.nn.param import materialize
from tokjax.nn.transformer import TransformerSpec
from tokjax.objectives.language import stream_batch
from tokjax.systems.language.lm import Lm

BACKBONE = TransformerSpec(width=32, layers=2, heads=4, kv_heads=2, hidden=48)
SPEC = Transformer(backbone=BACKBONE, context=39, rows=16)
SYSTEM = Lm(vocab_size=257, backbone=BACKBONE)
TOTAL = 1 << cdf.PRECISION
FIRST_BYTES = np.arange(256)


@pytest.fixture(scope="module")
def params():
    return materialize(SYSTEM.declare(), jax.random.key(3))


@pytest.fixture(scope="module")
def tables(params):
    return to_tables(params, FIRST_BYTES)


@pytest.fixture(scope="module")
def engine(tables):
    return SPEC.engine(tables)


def read(engine, texts, restarts=None, state=None):
    """Cumulative counts uint32 [T + 1, B, V + 1] before each byte of `texts` [T, B] and after the last."""
    state = engine.start(engine.rows) if state is None else state
    seen = [np.asarray(engine.cdf(engine.params, state))]
    for index, row in enumerate(texts):
        restart = np.zeros(engine.rows, bool) if restarts is None else restarts[index]
        state = engine.step(engine.params, state, row, restart)
        seen.append(np.asarray(engine.cdf(engine.params, state)))
    return np.stack(seen)


def random_texts(seed, steps, rows=SPEC.rows):
    return np.random.default_rng(seed).integers(0, 256, (steps, rows), np.int32)


@functools.partial(jax.jit, static_argnames="system")
def teacher_forced(params, texts, system=SYSTEM):
    """Logits [T + 1, B, 256] of `lm` over whole texts [T, B], after those of the first byte's frequencies."""
    first = jnp.broadcast_to(jnp.log((FIRST_BYTES + 1) / (FIRST_BYTES.sum() + 256)), (1, texts.shape[1], 256))
    return jnp.concatenate([first, jnp.swapaxes(system.logits(params, stream_batch(texts.T))[0], 0, 1)[..., :256]])


def in_parallel(params, texts, system=SYSTEM):
    """As `read`, but computed by the program that trains."""
    return cdf.cumulate(np.asarray(cdf.quantise_logits(teacher_forced(params, texts, system))))


def decodes(text, written, read):
    """Whether a decoder with counts `read` [T, V + 1] finds `text` in the code of an exact coder with `written`."""
    low, width = Fraction(0), Fraction(1)
    for byte, counts in zip(text, written.tolist(), strict=False):
        low, width = (
            low + width * Fraction(counts[byte], TOTAL),
            width * Fraction(counts[byte + 1] - counts[byte], TOTAL),
        )
    point, low, width = low + width / 2, Fraction(0), Fraction(1)
    for byte, counts in zip(text, read.tolist(), strict=False):
        low, width = (
            low + width * Fraction(counts[byte], TOTAL),
            width * Fraction(counts[byte + 1] - counts[byte], TOTAL),
        )
        if not low <= point < low + width:
            return False
    return True


@pytest.mark.parametrize(
    "fields",
    [{"tied": True}, {"tied": False}, {"backbone": dataclasses.replace(BACKBONE, smeared_keys=True)}],
    ids=["tied", "untied", "smeared"],
)
def test_steps_compute_what_the_trained_model_does(fields):
    system, spec = (dataclasses.replace(x, **fields) for x in (SYSTEM, SPEC))
    params = materialize(system.declare(), jax.random.key(0))
    texts = random_texts(0, SPEC.context)
    counts = np.diff(read(spec.engine(to_tables(params, FIRST_BYTES)), texts).astype(np.int64))
    expected = np.diff(in_parallel(params, texts, system).astype(np.int64))
    assert np.abs(counts - expected).max() <= 256  # a count that rounds the other way also moves the residual
    assert (counts != expected).mean() < 0.01


@pytest.mark.parametrize("symbols", [256, 257])
def test_counts_are_those_of_a_coder(tables, symbols):
    seen = read(SPEC.engine(tables, symbols=symbols), random_texts(1, 5))
    counts = np.diff(seen.astype(np.int64))
    assert counts.shape[-1] == symbols
    assert (counts >= 1).all() and (seen[..., 0] == 0).all() and (seen[..., -1] == TOTAL).all()
    assert symbols == 256 or (counts[..., 256] == 1).all()


def test_bounds_are_entries_of_the_cdf(engine):
    state = engine.start(engine.rows)
    symbols = random_texts(2, 1)[0]
    lower, upper = jax.jit(engine.bounds)(engine.params, state, symbols)
    everything = np.asarray(engine.cdf(engine.params, state))
    rows = np.arange(engine.rows)
    chex.assert_trees_all_equal(np.asarray(lower), everything[rows, symbols])
    chex.assert_trees_all_equal(np.asarray(upper), everything[rows, symbols + 1])


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_row_depends_neither_on_its_place_nor_on_the_others(engine, seed):
    """Bit for bit, whatever the others read and however often they start again."""
    generator = np.random.default_rng(seed)
    steps, rows = SPEC.context, SPEC.rows
    texts, places = random_texts(seed, steps), generator.permutation(rows)
    alone = read(engine, texts)
    other = random_texts(seed + 1, steps)
    restarts = generator.random((steps, rows)) < generator.random()
    followed = generator.random(rows) < 0.5
    other[:, places[followed]] = texts[:, followed]
    restarts[:, places[followed]] = False
    mixed = read(engine, other, restarts)
    chex.assert_trees_all_equal(alone[:, followed], mixed[:, places[followed]])


def test_a_restart_forgets_everything(engine):
    """Where each row restarts, its counts are those of a text that begins there."""
    texts = random_texts(4, SPEC.context)
    restarts = np.zeros(texts.shape, bool)
    begins = np.random.default_rng(0).integers(1, 30, SPEC.rows)
    restarts[begins, np.arange(SPEC.rows)] = True
    continued = read(engine, texts, restarts)
    fresh = read(engine, np.stack([np.roll(texts[:, row], -begins[row]) for row in range(SPEC.rows)], axis=1))
    for row, begin in enumerate(begins):
        chex.assert_trees_all_equal(continued[begin + 1 :, row], fresh[1 : SPEC.context - begin + 1, row])


def test_what_unseen_slots_hold_does_not_matter(engine):
    spoilt = engine.start(engine.rows)
    for cache in ("keys", "values"):
        spoilt[cache] = [layer.at[:].set(jnp.nan) for layer in spoilt[cache]]
    texts = random_texts(5, SPEC.context)
    chex.assert_trees_all_equal(read(engine, texts), read(engine, texts, state=spoilt))


def test_the_step_cannot_become_part_of_another_program(engine):
    state = engine.start(engine.rows)
    with pytest.raises(TypeError):
        jax.jit(lambda s: engine.step(engine.params, s, jnp.zeros(16, jnp.int32), jnp.zeros(16, bool)))(state)


def test_counts_of_another_program_do_not_decode(params, engine):
    """The failure that one compiled step prevents: the same model and text, computed in parallel and step by step."""
    for seed in range(40):  # how often the two differ depends on the machine
        texts = random_texts(seed, SPEC.context)
        stepwise, parallel = read(engine, texts), in_parallel(params, texts)
        again = read(engine, np.roll(texts, 5, axis=1))
        for row in np.flatnonzero((stepwise != parallel).any(axis=(0, 2))):
            assert decodes(texts[:, row], stepwise[:, row], again[:, (row + 5) % SPEC.rows])
            if not decodes(texts[:, row], stepwise[:, row], parallel[:, row]):
                return
    pytest.fail("no text was found that counts of the other program do not decode")


def test_another_batch_shape_is_refused(tables, engine):
    """It may or may not compute other counts; nobody can know beforehand."""
    with pytest.raises(TokenizerError, match="rows: 16 there, 8 here"):
        check_signature(engine.signature, dataclasses.replace(SPEC, rows=8).engine(tables).signature)


def test_another_program_is_found_by_its_probe(tables, engine, monkeypatch):
    """The probe tells programs apart whose versions, device and settings are all alike."""
    monkeypatch.setattr(neural, "_float32", lambda backbone: dataclasses.replace(backbone, dtype="bfloat16"))
    other = dataclasses.replace(SPEC, context=38).engine(tables)
    texts = random_texts(7, SPEC.context - 1)
    ours, theirs = read(engine, texts), read(other, texts)
    assert not any(decodes(texts[:, row], ours[:, row], theirs[:, row]) for row in range(SPEC.rows))
    with pytest.raises(TokenizerError, match=r"program than this one \(probe: [^;]*\)"):
        check_signature(engine.signature, {**other.signature, "context": SPEC.context})


def test_the_same_model_has_the_same_signature(tables, engine):
    copied = {name: array.copy() for name, array in tables.items()}
    again = SPEC.engine(copied)
    assert again is not engine
    check_signature(engine.signature, again.signature)
    texts = random_texts(8, 10)
    chex.assert_trees_all_equal(read(engine, texts), read(again, texts))
    copied["backbone/final_norm"] = copied["backbone/final_norm"] * 1.001
    with pytest.raises(TokenizerError, match="params"):
        check_signature(engine.signature, SPEC.engine(copied).signature)


def test_a_device_whose_rows_differ_is_refused(tables, monkeypatch):
    """As where a matrix product treats its last rows by other instructions."""
    real = neural._cumulative
    monkeypatch.setattr(neural, "_cumulative", lambda logits, *rest: real(logits.at[-1].multiply(1.01), *rest))
    with pytest.raises(NumericsError, match="another row"):
        dataclasses.replace(SPEC, context=37).engine(tables)


def test_probabilities_are_those_of_the_model(params, tables):
    generator = np.random.default_rng(0)
    prefixes = [generator.bytes(n) for n in [0, 1, 7, 8, 38, *generator.integers(0, 39, 40)]]
    found = SPEC.next_probabilities(tables, prefixes)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found.sum(axis=1), 1.0, rtol=1e-12)
    padded = np.array([[*prefix, *bytes(SPEC.context - len(prefix))] for prefix in prefixes], np.int32).T
    expected = np.asarray(jax.nn.softmax(teacher_forced(params, padded)))
    for index, prefix in enumerate(prefixes):
        # float32 sums in another order
        np.testing.assert_allclose(found[index], expected[len(prefix), index], rtol=1e-4, atol=1e-7)


def test_a_prefix_beyond_the_context_is_read_from_its_last_restart(tables):
    text = np.random.default_rng(1).bytes(100)
    found = SPEC.next_probabilities(tables, [text, text[78:], text[:78], b""])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)
    np.testing.assert_array_equal(found[2], found[3])  # the next byte is the first that it sees
    assert SPEC.next_probabilities(tables, []).shape == (0, 256)


def test_batches_hold_each_text_once():
    generator = np.random.default_rng(2)
    texts = [generator.bytes(int(n)) for n in generator.integers(1, 70, 700)]
    seen = []
    for chosen, ids in neural._batches(texts):
        seen += chosen
        for index, row in zip(chosen, ids, strict=False):
            assert row[: len(texts[index])].astype(np.uint8).tobytes() == texts[index]
    assert sorted(seen) == list(range(700))


def test_it_is_trained_rather_than_fitted():
    with pytest.raises(SpecError, match="tokjax train --config m1:small"):
        fit_entropy("transformer", [b"text"])


@pytest.mark.parametrize("fields", [{"rows": 12}, {"rows": 0}, {"context": 0}])
def test_impossible_specs(fields):
    with pytest.raises(SpecError, match=next(iter(fields))):
        Transformer(**fields)


@pytest.mark.parametrize("arguments", [{"symbols": 255}, {"precision": 8}, {"precision": 16}])
def test_impossible_engines(tables, arguments):
    with pytest.raises(SpecError, match=next(iter(arguments))):
        SPEC.engine(tables, **arguments)


def test_another_number_of_rows_is_refused(engine):
    with pytest.raises(SpecError, match="compiled for 16"):
        engine.start(8)


def test_tables_hold_the_parameters(params, tables):
    chex.assert_trees_all_equal(to_params(tables), params)
    fitted = unpack(FittedEntropy("transformer", SPEC, tables).pack())
    assert fitted.spec == SPEC
    chex.assert_trees_all_equal(fitted.tables, tables)


class TestSaved:
    def test_round_trip(self, tables, tmp_path):
        save_entropy(FittedEntropy("transformer", SPEC, tables), tmp_path)
        loaded = fit_entropy(str(tmp_path), [])
        assert (loaded.name, loaded.spec) == ("transformer", SPEC)
        chex.assert_trees_all_equal(loaded.tables, tables)

    def test_nothing_there(self, tmp_path):
        with pytest.raises(TokenizerError, match="json is absent"):
            load_entropy(tmp_path)

    @pytest.mark.parametrize(
        ("old", "new", "says"),
        [
            ('"format": 1', '"format": 9', "format 9"),
            ('"hash": "', '"hash": "0', "hash"),
            ('"transformer"', '"transfomer"', "'transformer'"),
            ('"rows": 16', '"rows": 15', "multiple of 8"),
            ('"rows": 16', '"rows": 24', "hash"),
            ("{", "", "cannot be read"),
        ],
    )
    def test_a_changed_description(self, tables, tmp_path, old, new, says):
        save_entropy(FittedEntropy("transformer", SPEC, tables), tmp_path)
        path = tmp_path / "model.json"
        path.write_text(path.read_text().replace(old, new, 1))
        with pytest.raises(TokenizerError, match=says):
            load_entropy(tmp_path)

    def test_changed_tables(self, tables, tmp_path):
        save_entropy(FittedEntropy("transformer", SPEC, tables), tmp_path)
        np.savez(tmp_path / "tables.npz", **{**tables, "embedding": tables["embedding"] + 1})
        with pytest.raises(TokenizerError, match="has hash"):
            load_entropy(tmp_path)
        (tmp_path / "tables.npz").write_bytes(b"not an archive")
        with pytest.raises(TokenizerError, match="cannot be read"):
            load_entropy(tmp_path)
