"""Windows and streams against coders of one text that follow the definitions in Python integers."""

import functools
import itertools

import chex
import constriction
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from tokjax.coding import cdf, entropy, host, lockstep, streams, windows
from tokjax.coding.entropy import FittedEntropy
from tokjax.coding.ngram import Ngram
from tokjax.coding.windows import Window
from tokjax.core.errors import SpecError, TokenizerError

RECORDS = [b"the cat sat on the mat. ", b"a hat and a bat, and the cat. " * 20, bytes(range(256)), b"aaaaab" * 40]
few = hypothesis.settings(max_examples=25, deadline=None)
texts = st.lists(st.one_of(st.binary(max_size=60), st.text("theca t.", max_size=80).map(str.encode)), max_size=5)


@functools.cache
def model() -> FittedEntropy:
    spec = Ngram(contexts=300)
    return FittedEntropy("ngram", spec, spec.fit(RECORDS))


@functools.cache
def engine(symbols=256):
    return model().engine(symbols=symbols)


class Walk:
    """The model's counts along one text, from its probabilities alone."""

    def __init__(self, symbols=256):
        self.symbols = symbols

    @functools.cache  # noqa: B019
    def bounds(self, prefix: bytes) -> list[int]:
        probabilities = model().next_probabilities([prefix[-8:]])[0]
        return cdf.cumulate(cdf.quantise(np.append(probabilities, [0.0] * (self.symbols - 256)))).tolist()


walk = Walk()
with_end = Walk(257)


def padded_code(interval: host.Interval, bits: int) -> int | None:
    number, length = interval.shortest_code()
    return number << (bits - length) if length <= bits else None


def reference(text: bytes, bits: int, rule: str, longest: int) -> list[tuple[int, int]]:
    """(code, bytes) of each window, by the recipe: collect codes of all starts that fit, then cut back."""
    found, first = [], 0
    while first < len(text):
        interval, codes = host.Interval(), []
        for place in range(first, min(len(text), first + longest)):
            bounds = walk.bounds(text[first:place])
            interval = interval.narrow(bounds[text[place]], bounds[text[place] + 1], cdf.PRECISION)
            code = padded_code(interval, bits)
            if code is None:
                break
            codes.append(code)
        while rule == "delay" and len(codes) > 1 and codes[-1] in codes[:-1]:
            codes.pop()
        found.append((codes[-1], len(codes)))
        first += len(codes)
    return found


def as_numbers(codes: np.ndarray, bits: int) -> list[int]:
    return [int.from_bytes(row.astype(">u4").tobytes()) >> (32 * codes.shape[1] - bits) for row in codes]


@pytest.mark.parametrize(("bits", "rule"), [(16, "paper"), (16, "delay"), (32, "delay"), (64, "delay")])
@hypothesis.settings(max_examples=10, deadline=None)
@hypothesis.given(texts=texts)
def test_windows_are_those_of_the_recipe(bits, rule, texts):
    window = Window(bits, cdf.PRECISION, 20, rule)
    for text, (codes, known) in zip(texts, windows.encode(engine(), window, texts), strict=True):
        expected = reference(text, bits, rule, window.longest)
        assert as_numbers(codes, bits) == [code for code, _ in expected]
        assert np.bincount(known // bits, minlength=len(codes)).tolist() == [count for _, count in expected]


@pytest.mark.parametrize("bits", [16, 64])
@few
@hypothesis.given(texts=texts)
def test_delayed_windows_decode_alone_and_in_any_order(bits, texts):
    window = Window(bits, cdf.PRECISION, 20, "delay")
    coded = windows.encode(engine(), window, texts)
    codes = np.concatenate([np.zeros((0, window.words), np.uint32), *(codes for codes, _ in coded)])
    text, counts, known = windows.decode(engine(), window, codes)
    assert text.tobytes() == b"".join(texts)
    written = np.concatenate([np.zeros(0, np.int64), *(bits_ % bits for _, bits_ in coded)])
    np.testing.assert_array_equal(known, written)
    backwards, sizes, _ = windows.decode(engine(), window, codes[::-1])
    pieces = np.split(backwards, np.cumsum(sizes)[:-1]) if len(sizes) else []
    assert b"".join(piece.tobytes() for piece in pieces[::-1]) == b"".join(texts)
    np.testing.assert_array_equal(sizes[::-1], counts)


def test_a_code_that_no_text_has_gives_no_bytes():
    window = Window(16, cdf.PRECISION, 20, "delay")
    codes = (np.arange(1 << 16, dtype=np.uint32) << 16)[:, None]
    _, counts, _ = windows.decode(engine(), window, codes)
    assert 0 < np.count_nonzero(counts == 0) < len(codes)
    reached = windows.encode(engine(), window, RECORDS)[1][0]
    assert (counts[as_numbers(reached, 16)] > 0).all()


def test_the_model_restarts_only_with_the_text_where_windows_do_not():
    text = RECORDS[1]
    lasting = Window(16, cdf.PRECISION, 128, "paper", resets=False)
    resetting = Window(16, cdf.PRECISION, 128, "paper")
    ((codes, known),) = windows.encode(engine(), lasting, [text])
    assert len(codes) < len(windows.encode(engine(), resetting, [text])[0][0])  # it knows what came before
    assert len(known) == len(text)
    alone, again = windows.encode(engine(), lasting, [text, text])
    np.testing.assert_array_equal(alone[0], again[0])
    with pytest.raises(SpecError, match="only 'paper'"):
        Window(16, cdf.PRECISION, 128, "delay", resets=False)


@few
@hypothesis.given(texts=texts)
def test_a_stream_is_the_shortest_code_and_comes_back(texts):
    coded = streams.encode(engine(257), texts)
    for text, (code, known) in zip(texts, coded, strict=True):
        interval = host.Interval()
        exponents = []
        for place in range(len(text) + 1):
            symbol = text[place] if place < len(text) else streams.END
            bounds = with_end.bounds(text[:place])
            interval = interval.narrow(bounds[symbol], bounds[symbol + 1], cdf.PRECISION)
            exponents.append(interval.exponent)
        number, length = interval.shortest_code()
        assert code == (number << (-length % 8)).to_bytes(-(-length // 8))
        assert known.tolist() == exponents[:-1]
    for text, (_, known), (back, again) in zip(
        texts, coded, streams.decode(engine(257), [code for code, _ in coded]), strict=True
    ):
        assert back == text
        np.testing.assert_array_equal(again, known)


def test_codes_are_as_long_as_those_of_another_range_coder():
    """`constriction` codes the same counts in 32-bit words; both are within a word of the information."""
    text = RECORDS[1]
    symbols = np.array([*text, streams.END], np.int32)
    bounds = np.array([with_end.bounds(text[:place]) for place in range(len(symbols))])
    probabilities = np.diff(bounds) / (1 << cdf.PRECISION)
    family = constriction.stream.model.Categorical(perfect=False)
    encoder = constriction.stream.queue.RangeEncoder()
    encoder.encode(symbols, family, probabilities.astype(np.float32))
    ((code, _),) = streams.encode(engine(257), [text])
    information = -np.log2(probabilities[np.arange(len(symbols)), symbols]).sum()
    assert information <= 8 * len(code) <= information + 8 + 2  # whole bytes, and the coder's own two bits
    assert abs(8 * len(code) - encoder.num_bits()) <= 64


def test_a_context_that_is_full_restarts_the_model():
    limited = engine(257).__class__(**{**vars(engine(257)), "context": 7})
    texts = [RECORDS[1], b"", RECORDS[0]]
    coded = streams.encode(limited, texts)
    assert [text for text, _ in streams.decode(limited, [code for code, _ in coded])] == texts
    assert coded[0][0] != streams.encode(engine(257), texts)[0][0]
    window = Window(64, cdf.PRECISION, 100, "delay")
    ((_, known),) = windows.encode(limited, window, [RECORDS[3]])
    assert np.bincount(known // 64).max() <= 7


def test_a_code_of_no_text_is_an_error():
    for code in (b"", b"\xff" * 40, streams.encode(engine(257), RECORDS)[1][0][:-4]):
        with pytest.raises(TokenizerError, match="not the code of a text"):
            streams.decode(engine(257), [code])


def test_carries_travel_through_the_sum():
    numbers = np.array([0xFFFFFFFF, 1, 0xFFFFFFFF, 0xFFFFFFFF], np.uint32)
    shifts = np.array([0, 0, 32, 17])
    assert streams._sum(numbers, shifts) == sum(int(n) << int(s) for n, s in zip(numbers, shifts, strict=True))


# ---- lockstep and the n-gram ----


@few
@hypothesis.given(st.lists(st.integers(0, 100), max_size=40), st.integers(1, 9))
def test_the_queue_deals_every_job_once_and_evenly(sizes, rows):
    dealt = lockstep.queue(sizes, rows)
    assert sorted(itertools.chain.from_iterable(dealt)) == list(range(len(sizes)))
    loads = [sum(sizes[job] for job in jobs) for jobs in dealt]
    assert max(loads) <= sum(sizes) / rows + max(sizes, default=0)


def test_the_ngram_is_witten_bell_by_hand():
    spec = Ngram(order=3, contexts=100)
    tables = spec.fit([b"abab", b"abc"])
    empty, after_a, after_ab = spec.next_probabilities(tables, [b"", b"a", b"ab"])
    # n(a, b, c) = 3, 3, 1 of 7 with 3 distinct; after a: b three times; after ab: a once, c once, of 2 distinct.
    root = lambda count: (count + 3 / 256) / 10  # noqa: E731
    assert empty[ord("a")] == pytest.approx(root(3))
    assert after_a[ord("b")] == pytest.approx((3 + root(3)) / 4)
    after_b = lambda byte, count: (count + 2 * root({"a": 3, "c": 1}[byte])) / 4  # noqa: E731
    assert after_ab[ord("c")] == pytest.approx((1 + 2 * after_b("c", 1)) / 4)
    chex.assert_trees_all_close(np.stack([empty, after_a, after_ab]).sum(axis=1), np.ones(3), rtol=1e-12)


def test_steps_and_probabilities_of_the_ngram_agree():
    params, state = engine().params, engine().start(4)
    text = np.frombuffer(RECORDS[1][:40], np.uint8)
    for place in range(len(text)):
        bounds = np.asarray(engine().cdf(params, state))
        assert bounds[0].tolist() == walk.bounds(text[:place].tobytes())
        lower, upper = engine().bounds(params, state, np.full(4, text[place], np.int32))
        assert (int(lower[0]), int(upper[0])) == tuple(bounds[0][text[place] : text[place] + 2].tolist())
        state = engine().step(params, state, np.full(4, text[place], np.int32), np.zeros(4, bool))
    restarted = engine().step(params, state, np.full(4, 97, np.int32), np.ones(4, bool))
    fresh = engine().step(params, engine().start(4), np.full(4, 97, np.int32), np.zeros(4, bool))
    np.testing.assert_array_equal(restarted, fresh)


def test_fewer_contexts_keep_suffixes_and_prefixes():
    spec = Ngram(order=4, contexts=40)
    tables = spec.fit(RECORDS)
    kept = set(zip(tables["length"].tolist(), tables["context"].tolist(), strict=True))
    assert len(kept) == 40
    for length, context in kept - {(0, 0)}:
        assert (length - 1, context >> 8) in kept
        assert (length - 1, context & ((1 << 8 * (length - 1)) - 1)) in kept


def test_an_entropy_model_travels_in_tables():
    again = entropy.unpack(model().pack())
    assert again.spec == model().spec
    np.testing.assert_array_equal(again.next_probabilities([b"th"]), model().next_probabilities([b"th"]))
    with pytest.raises(TokenizerError, match="no readable entropy model"):
        entropy.unpack({})
