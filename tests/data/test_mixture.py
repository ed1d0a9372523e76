"""Mixtures: as many rows of each source as its weight says, and of each source the rows it has by itself."""

import itertools
from fractions import Fraction

import chex
import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokjax.core.errors import SourceError, UnknownNameError
from tokjax.data import SPLITS, load_source
from tokjax.data.mixture import MixedText, Mixture, Schedule, unweighted
from tokjax.data.tokenized.streamed import StreamedTokens
from tokjax.data.tokenized.write import tokenize_source
from tokjax.data.windows import token_stream, train_batch
from tokjax.text import load_tokenizer

weights = st.lists(st.integers(1, 60), min_size=1, max_size=7).map(
    lambda shares: [Fraction(share, sum(shares)) for share in shares]
)


@pytest.fixture(scope="module")
def addresses(tmp_path_factory):
    """Three sources of texts; the first two share some."""
    folder = tmp_path_factory.mktemp("mixture")
    found = []
    for number, (low, high) in enumerate([(0, 90), (60, 200), (200, 230)]):
        (folder / f"{number}.txt").write_text("\n\n".join(f"Text {n} of {n * n} foxes." for n in range(low, high)))
        found.append(f"file:{folder}/{number}.txt?records=paragraphs")
    return found


@pytest.fixture(scope="module")
def mixed(addresses, tmp_path_factory):
    """A mixture of text in memory and two stored corpora, one of them streamed from tiny blocks."""
    fitted, parts = load_tokenizer("bytes"), [token_stream(load_source(addresses[0]), load_tokenizer("bytes"))]
    for number in (1, 2):
        place = tmp_path_factory.mktemp("tokenized") / "t"
        tokenize_source(addresses[number], fitted, place, workers=1)
        stored = load_source(f"tokenized:{place}")
        parts.append(stored.token_stream(fitted))
    parts[1] = StreamedTokens(load_source(f"tokenized:{place}").records, np.arange(30), block_tokens=64, group_blocks=3)
    return MixedText(parts=parts, weights=[Fraction(1, 2), Fraction(3, 10), Fraction(1, 5)])


# ---- which source a row comes from ----


@given(weights)
def test_counts_are_always_within_one(weights):
    schedule = Schedule(weights)
    counts = np.zeros(len(weights), int)
    for row in range(2 * len(schedule.sources) + 3):
        np.testing.assert_array_equal(schedule.counts(row), counts)
        assert all(abs(count - row * weight) < 1 for count, weight in zip(counts.tolist(), weights, strict=True))
        counts[schedule.sources[row % len(schedule.sources)]] += 1


def test_a_far_row_costs_no_more_than_a_near_one():
    schedule = Schedule([Fraction(7, 10), Fraction(3, 10)])
    assert schedule.counts(10**15 + 1).tolist() == [7 * 10**14 + 1, 3 * 10**14]
    assert schedule.sources.tolist() == [0, 0, 1, 0, 0, 1, 0, 0, 0, 1]


# ---- the rows ----


def batches(text, steps, **options):
    return [train_batch(text, step, **{"seed": 1, "batch_size": 6, "length": 8, **options}) for step in steps]


@given(st.integers(0, 400), st.integers(1, 30))
def test_rows_of_a_source_are_its_own(mixed, start, count):
    options = {"seed": 9, "length": 8, "per_batch": Fraction(20)}
    rows = mixed.rows(range(start, start + count), **options)
    for number, (part, weight) in enumerate(zip(mixed.parts, mixed.weights, strict=True)):
        sources = mixed.schedule.sources[np.arange(start, start + count) % 10]
        first, last = (int(mixed.schedule.counts(row)[number]) for row in (start, start + count))
        alone = part.rows(range(first, last), **{**options, "per_batch": 20 * weight})
        for found, own in zip(rows, alone, strict=True):
            np.testing.assert_array_equal(found[sources == number], own)


def test_each_source_has_its_own_epochs(mixed):
    """Whatever was read before, an epoch of the smallest source is every window of it, once."""
    length, number = 8, 1
    part = mixed.parts[number]
    windows = part.pairs // length
    wanted = np.flatnonzero(mixed.schedule.sources[np.arange(10 * 2 * windows) % 10] == number)[: 2 * windows]
    rows = mixed.rows(range(int(wanted[-1]) + 1), seed=0, length=length, per_batch=Fraction(6))
    for epoch in range(2):
        found = rows.ids[wanted[epoch * windows : (epoch + 1) * windows]]
        alone = part.rows(range(epoch * windows, (epoch + 1) * windows), seed=0, length=length, per_batch=Fraction(1))
        assert sorted(found.tolist()) == sorted(alone.ids.tolist())


@pytest.mark.parametrize("hosts", [2, 3, 6])
def test_hosts_together_are_one_host_from_any_step(mixed, hosts):
    steps = [7, 8, 9, 100, 0]
    for step, whole in zip(steps, batches(mixed, steps), strict=True):
        parts = [batches(mixed, [step], host=host, hosts=hosts)[0] for host in range(hosts)]
        chex.assert_trees_all_equal(whole, jax.tree.map(lambda *rows: np.concatenate(rows), *parts))


def test_bytes_of_a_target_are_those_of_the_mixture(mixed):
    expected = sum(float(w) * part.bytes_per_pair for w, part in zip(mixed.weights, mixed.parts, strict=True))
    assert mixed.bytes_per_pair == pytest.approx(expected)
    many = batches(mixed, range(300))
    measured = sum(int(batch.units.sum()) for batch in many) / sum(batch.units.size for batch in many)
    assert measured == pytest.approx(expected, rel=0.02)  # 300 batches do not end with an epoch of each


# ---- the documents ----


def test_documents_are_those_of_all_once(addresses):
    mixture = load_source(f"mix:0.5*{addresses[0]}|0.25*{addresses[1]}|0.25*{addresses[2]}")
    assert isinstance(mixture, Mixture)
    apart = [load_source(address) for address in addresses]
    assert list(mixture) == list(dict.fromkeys(itertools.chain(*apart)))
    assert mixture.duplicates == 30
    for split in SPLITS:
        assert list(mixture.split(split)) == list(dict.fromkeys(itertools.chain(*(s.split(split) for s in apart))))
        assert [list(part) for part in mixture.split(split).parts] == [list(part.split(split)) for part in apart]


def test_a_mixture_of_mixtures_is_flat(addresses):
    a, b, c = addresses
    nested = load_source(f"mix:1/2*(mix:0.3*{a}|0.7*(mix:1*{b}))|0.5*({c})")
    assert [(part.name, weight) for part, weight in zip(nested.parts, nested.weights, strict=True)] == [
        (a, Fraction(3, 20)), (b, Fraction(7, 20)), (c, Fraction(1, 2)),
    ]  # fmt: skip


def test_names_of_files_may_hold_what_parts_a_mixture(tmp_path):
    for name in ("a|b(1).txt", "2*3.txt"):
        (tmp_path / name).write_text(name)
    mixture = load_source(f"mix:0.5*(file:{tmp_path}/a|b(1).txt)|0.5*file:{tmp_path}/2*3.txt")
    assert list(mixture) == [b"a|b(1).txt", b"2*3.txt"]


@pytest.mark.parametrize(
    ("rest", "says"),
    [
        ("", "'' is no WEIGHT"),
        ("pydocs|stdlib", "'pydocs' is no WEIGHT"),
        ("0.5*|0.5*stdlib", "is no WEIGHT"),
        ("nan*pydocs|1*stdlib", "'nan.pydocs' is no WEIGHT"),
        ("1/0*pydocs|1*stdlib", "is no WEIGHT"),
        ("0.7*pydocs|0.2*stdlib", "sum to 9/10"),
        ("1.5*pydocs|-0.5*stdlib", "Give positive ones"),
        ("0*pydocs|1*stdlib", "Give positive ones"),
        ("0.5*(mix:0.5*a|0.6*b)|0.5*c", "^mix:0.5.a.0.6.b: the weights 1/2, 3/5 sum to 11/10"),
        ("0.123457*pydocs|0.876543*stdlib", "common denominator 1000000, above 100000. Round"),
        ("0.5*(pydocs|0.5*stdlib", "parentheses do not match"),
        ("0.5*file:{0}|0.5*file:{0}", "twice. Name it once, with the sum"),
    ],
)
def test_mistakes_are_named(rest, says, tmp_path):
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(SourceError, match=says):
        load_source("mix:" + rest.format(tmp_path / "a.txt"))


def test_sources_that_are_not_there_are_named(addresses, tmp_path):
    with pytest.raises(UnknownNameError, match="Did you mean 'pydocs'"):
        load_source(f"mix:0.5*pydoc|0.5*{addresses[0]}")
    (tmp_path / "one.txt").write_text("one")
    mixture = load_source(f"mix:0.5*{addresses[0]}|0.5*file:{tmp_path}/one.txt")
    empty = next(split for split in ("valid", "train") if not len(mixture.split(split).parts[1]))
    with pytest.raises(SourceError, match=f"one.txt/{empty} is empty"):
        iter(mixture.split(empty))


def test_weights_are_never_lost(addresses, tmp_path):
    address = f"mix:0.5*{addresses[0]}|0.5*{addresses[1]}"
    for outer in ("joined:100:", "letters:", "letters:joined:100:"):
        with pytest.raises(SourceError, match="whatever its weight"):
            load_source(outer + address)
    with pytest.raises(SourceError, match="tokjax tokenize would read each document once"):
        tokenize_source(address, load_tokenizer("bytes"), tmp_path / "t", workers=1)
    source = load_source(addresses[0])
    assert unweighted(source, by="this") is source
