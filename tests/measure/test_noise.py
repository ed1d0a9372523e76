"""Noise edits characters at its rate, keeps what it promises to keep, and is the same for the same seed."""

import collections

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import example, given

from tokjax.core.errors import SpecError
from tokjax.measure.noise import KINDS, MAX_RATE, corrupt

TEXTS = st.one_of(st.text(max_size=80), st.text(alphabet="abc ßıİǅé漢🙂\n", max_size=80))
ANY = st.one_of(st.binary(max_size=80), TEXTS.map(str.encode))
RATES = st.floats(0, MAX_RATE)
SEEDS = st.integers(0, 2**64 - 1)

every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
@given(raw=ANY, seed=SEEDS)
def test_rate_0_changes_nothing(kind, raw, seed):
    assert corrupt(raw, 0.0, kind, seed) == raw


@every_kind
@given(raw=ANY, rate=RATES, seed=SEEDS)
def test_any_bytes_are_accepted_and_the_same_seed_gives_the_same(kind, raw, rate, seed):
    assert corrupt(raw, rate, kind, seed) == corrupt(raw, rate, kind, seed)


@every_kind
@given(text=TEXTS, rate=RATES, seed=SEEDS)
@example(text="ßıİ", rate=0.5, seed=0)
def test_text_stays_text(kind, text, rate, seed):
    corrupt(text.encode(), rate, kind, seed).decode()


@every_kind
def test_seeds_differ_and_bits_are_fixed(kind):
    raw = b"a few words that noise will meet"
    assert len({corrupt(raw, 0.3, kind, seed) for seed in range(20)}) > 10
    expected = {
        "swap": b"a efww rosd that noisew li lmete",
        "drop": b"a wwors that noise lmet",
        "insert": b"a fftewe wor ds that noise  wsilsle meeet",
        "case": b"a FEw worDs that noise WIlL meEt",
    }
    assert corrupt(raw, 0.2, kind, 1) == expected[kind]


@given(raw=ANY, rate=RATES, seed=SEEDS)
def test_a_swap_keeps_every_byte(raw, rate, seed):
    assert sorted(corrupt(raw, rate, "swap", seed)) == sorted(raw)


@given(text=TEXTS, rate=RATES, seed=SEEDS)
def test_a_swap_keeps_the_characters_and_moves_them_by_one(text, rate, seed):
    swapped = corrupt(text.encode(), rate, "swap", seed).decode()
    assert collections.Counter(swapped) == collections.Counter(text)
    assert all(c in text[max(i - 1, 0) : i + 2] for i, c in enumerate(swapped))


@given(text=TEXTS, rate=RATES, seed=SEEDS)
def test_case_keeps_the_number_of_characters_and_the_letters(text, rate, seed):
    changed = corrupt(text.encode(), rate, "case", seed).decode()
    assert len(changed) == len(text)
    assert all(new in (old, old.swapcase()) for old, new in zip(text, changed, strict=True))


@given(text=TEXTS, rate=RATES, seed=SEEDS)
def test_dropping_leaves_a_subsequence_and_inserting_a_supersequence(text, rate, seed):
    def is_subsequence(short, long):
        rest = iter(long)
        return all(character in rest for character in short)

    assert is_subsequence(corrupt(text.encode(), rate, "drop", seed).decode(), text)
    inserted = corrupt(text.encode(), rate, "insert", seed).decode()
    assert is_subsequence(text, inserted)
    assert set(inserted) == set(text)


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.5])
def test_the_share_of_edits_is_the_rate(rate):
    """Five standard deviations of a binomial share bound the difference; swaps that avoid each other vary less."""
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 20_000)))  # all different, none with case
    raw, slack = text.encode(), 5 * np.sqrt(rate * (1 - rate) / len(text))
    drop, insert, swap = (corrupt(raw, rate, kind, 3).decode() for kind in ("drop", "insert", "swap"))
    assert abs(1 - len(drop) / len(text) - rate) < slack
    assert abs(len(insert) / len(text) - 1 - rate) < slack
    moved = sum(old != new for old, new in zip(text, swap, strict=True))
    assert abs(moved / 2 / len(text) - rate) < slack
    case = corrupt(b"a" * len(text), rate, "case", 3)
    assert abs(case.count(b"A") / len(text) - rate) < slack


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((0.1, "drpo", 0), "Did you mean 'drop'"),
        ((-0.1, "drop", 0), "rate"),
        ((0.6, "swap", 0), "rate"),
        ((0.1, "swap", -1), "seed"),
    ],
)
def test_impossible_noise_is_refused(arguments, says):
    with pytest.raises(SpecError, match=says):
        corrupt(b"text", *arguments)
