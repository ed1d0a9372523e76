"""Prefix-closed sets: search is greedy longest match however the text is cut, and building is exact best-first."""

import heapq

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokjax.coding import match, strings
from tokjax.coding.automaton import LABEL_BITS, LEAF, automaton
from tokjax.core import vocabulary
from tokjax.core.errors import SpecError, TokenizerError

SINGLES = [bytes([byte]) for byte in range(256)]
some_bytes = st.one_of(st.binary(max_size=60), st.text("ab", max_size=60).map(str.encode))
sets = st.lists(st.one_of(st.text("ab", min_size=2, max_size=9).map(str.encode), st.binary(min_size=2, max_size=4)))


def closed(longer):
    """The single bytes and every prefix of `longer`, in an order that puts prefixes first."""
    prefixes = {string[:stop] for string in longer for stop in range(2, len(string) + 1)}
    return [*SINGLES, *sorted(prefixes, key=lambda string: (len(string), string))]


def tables_of(longer):
    return strings.from_strings(closed(longer))


def longest_match(tokens, raw):
    """The definition: at each place the longest of `tokens` that the text goes on with."""
    ids = {token: index for index, token in enumerate(tokens)}
    longest, found, place = max(map(len, tokens)), [], 0
    while place < len(raw):
        size = max(
            size for size in range(1, longest + 1) if raw[place : place + size] in ids and place + size <= len(raw)
        )
        found.append(ids[raw[place : place + size]])
        place += size
    return found


def words_and_text(seed, words=400, size=60_000):
    """A set over a small alphabet, and text over the same, of which most tokens have several bytes."""
    rng = np.random.default_rng(seed)
    longer = [bytes(rng.choice(list(b"etaoin "), rng.integers(2, 9)).tolist()) for _ in range(words)]
    return longer, bytes(rng.choice(list(b"etaoin "), size).tolist())


@pytest.fixture
def small_shapes(monkeypatch):
    """Compiled programs so small that a short text runs through all of them."""
    monkeypatch.setattr(match, "SHAPES", ((8, 32), (4, 8)))
    monkeypatch.setattr(match, "WALKED", 16)
    monkeypatch.setattr(match, "GROUP", 256)


@hypothesis.given(longer=sets)
def test_strings_come_back_from_the_tables(longer):
    tokens = closed(longer)
    tables = strings.from_strings(tokens)
    assert vocabulary.unpack(strings.pack(tables)) == tokens
    assert strings.lengths(tables).tolist() == list(map(len, tokens))
    assert sum(array.nbytes for array in tables.values()) == 5 * len(tokens)


@hypothesis.given(longer=sets)
def test_the_automaton_has_exactly_the_edges_of_the_set(longer):
    tokens = closed(longer)
    found = automaton(strings.from_strings(tokens))
    slots = dict(zip(found.ids.tolist(), range(len(found.ids)), strict=True))
    slots[0] = 0  # empty slots hold id 0 too
    bases = found.edges >> LABEL_BITS
    labels = found.edges & 511
    for index, token in enumerate(tokens):
        children = bases[slots[index]] + np.arange(256)
        matching = np.flatnonzero(labels[children] == np.arange(256)).tolist()
        expected = [child for child, string in enumerate(tokens) if len(string) > 1 and string[:-1] == token]
        assert sorted(found.ids[children[matching]].tolist()) == expected
    inner = bases[list(slots.values())]
    assert len(set(inner[inner != LEAF].tolist())) == np.count_nonzero(inner != LEAF)


def test_the_automaton_is_compact():
    longer, _ = words_and_text(0, words=4000)
    found = automaton(tables_of(longer))
    assert found.edges.nbytes < 4.5 * len(found.token_offsets) + 4 * 512


@hypothesis.given(longer=sets, raw=some_bytes)
def test_matching_a_short_text_is_longest_match(longer, raw):
    tokens = closed(longer)
    ids = match.match(match.matcher(strings.from_strings(tokens)), raw)
    assert ids.dtype == np.int32
    assert ids.tolist() == longest_match(tokens, raw)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [15, 16, 31, 32, 33, 255, 256, 257, 1000, 5000])
def test_matching_in_lanes_is_longest_match(small_shapes, seed, size):
    longer, raw = words_and_text(seed)
    tables = tables_of(longer)
    assert match.match(match.matcher(tables), raw[:size]).tolist() == longest_match(closed(longer), raw[:size])


@pytest.mark.parametrize("longest", [2, 3, 7, 40])
@pytest.mark.parametrize("size", [100, 257, 600])
def test_lanes_that_never_agree_are_still_parsed_right(small_shapes, longest, size):
    """Of one byte repeated, the parses from two places differ for ever, unless they began a whole token apart."""
    tables = tables_of([b"a" * longest])
    raw = b"b" + b"a" * size + b"bb" + b"a" * size
    assert match.match(match.matcher(tables), raw).tolist() == longest_match(closed([b"a" * longest]), raw)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("total", [10, 100, 250, 400])
def test_many_documents_are_each_matched_alone(small_shapes, seed, total):
    longer, raw = words_and_text(seed)
    engine = match.matcher(tables_of([*longer, b"a" * 40]))
    rng = np.random.default_rng(seed)
    cuts = np.sort(rng.integers(0, total, 12)).tolist()
    raw = raw[: total // 2] + b"a" * (total - total // 2)
    documents = [raw[start:stop] for start, stop in zip([0, *cuts], [*cuts, total], strict=True)]
    many = match.match_many(engine, [b"", *documents, b""])
    assert [ids.tolist() for ids in many] == [match.match(engine, raw).tolist() for raw in [b"", *documents, b""]]


def test_the_real_programs_agree_with_a_plain_walk():
    longer, _ = words_and_text(1)
    raw = bytes(np.random.default_rng(2).choice(list(b"etaoin "), (1 << 21) + (1 << 18) + 50_000).tolist())
    engine = match.matcher(tables_of(longer))
    ended, last = match._walk(engine, raw, engine.automaton.start)
    np.testing.assert_array_equal(match.match(engine, raw), engine.automaton.ids[[*ended[1:], last]])


@pytest.mark.slow
def test_repetition_costs_no_more_per_byte_the_longer_it_is():
    import time

    engine = match.matcher(tables_of([b"a" * 7]))
    match.match(engine, b"a" * (1 << 22))

    def seconds(size):
        start = time.process_time()
        match.match(engine, b"a" * size)
        return time.process_time() - start

    assert seconds(1 << 24) < 6 * min(seconds(1 << 22) for _ in range(3))


@hypothesis.given(longer=sets, raw=some_bytes, more=some_bytes)
def test_a_safe_cut_is_the_end_of_the_last_token_that_is_certain(longer, raw, more):
    tokens = closed(longer)
    engine = match.matcher(strings.from_strings(tokens))
    cut = match.safe_cut(engine, raw)
    np.testing.assert_array_equal(
        match.match(engine, raw + more),
        np.concatenate([match.match(engine, raw[:cut]), match.match(engine, raw[cut:] + more)]),
    )
    if cut < len(raw):  # no later cut is safe: some text extends the last token
        assert raw[cut:] in tokens and any(token != raw[cut:] and token.startswith(raw[cut:]) for token in tokens)


@pytest.mark.parametrize("window", [16, 64])
def test_a_safe_cut_found_from_the_end_is_that_of_the_whole(monkeypatch, window):
    longer, raw = words_and_text(3)
    engine = match.matcher(tables_of(longer))
    monkeypatch.setattr(match, "_SAFE_WINDOW", window)
    for size in range(1000, 1100):
        text = raw[:size]
        last = engine.automaton.token_offsets[1:] - engine.automaton.token_offsets[:-1]
        ids = match.match(engine, text)
        whole = size if not _extensible(engine, ids[-1]) else size - last[ids[-1]]
        assert match.safe_cut(engine, text) == whole
    repeated = match.matcher(tables_of([b"a" * 7]))
    assert match.safe_cut(repeated, b"a" * 1001) == 1001  # 143 whole tokens, and none can grow
    assert match.safe_cut(repeated, b"a" * 1000) == 994


def _extensible(engine, token):
    slot = int(np.flatnonzero(engine.automaton.ids == token)[-1])
    return engine.bases[slot] != LEAF


@pytest.mark.parametrize("lanes", [1, 3, 8])
def test_traced_rows_equal_the_host(lanes):
    longer, text = words_and_text(4)
    tables = tables_of([*longer, b"a" * 7])
    rows = np.zeros((6, 200), np.uint8)
    lengths = np.array([0, 1, 199, 200, 150, 200])
    texts = [text[200 * row : 200 * row + length] for row, length in enumerate(lengths)]
    texts[5] = b"a" * 200
    for row, raw in enumerate(texts):
        rows[row, : len(raw)] = np.frombuffer(raw, np.uint8)
        rows[row, len(raw) :] = 97  # what follows the text must not matter
    table = jax.device_put(automaton(tables))
    ids, count = jax.jit(match.match_traced, static_argnames="lanes")(table, rows, lengths, lanes=lanes)
    for row, raw in enumerate(texts):
        expected = match.match(match.matcher(tables), raw)
        np.testing.assert_array_equal(ids[row, : count[row]], expected)
        assert not ids[row, count[row] :].any()
    decoded, sizes = match.decode_traced(table, ids, count, size=200)
    np.testing.assert_array_equal(sizes, lengths)
    for row, raw in enumerate(texts):
        assert np.asarray(decoded[row]).tobytes() == raw.ljust(200, b"\0")


def test_traced_functions_map_over_any_axes():
    longer, text = words_and_text(5)
    table = jax.device_put(automaton(tables_of(longer)))
    rows = jnp.asarray(np.frombuffer(text[:480], np.uint8).reshape(2, 3, 80))
    ids, count = match.match_traced(table, rows, jnp.full((2, 3), 80), lanes=4)
    mapped = jax.jit(jax.vmap(jax.vmap(lambda row: match.match_traced(table, row, jnp.int32(80), lanes=4))))(rows)
    chex.assert_trees_all_equal((ids, count), mapped)
    chex.assert_trees_all_equal((rows, jnp.full((2, 3), 80)), match.decode_traced(table, ids, count, size=80))
    cut, whole = match.decode_traced(table, ids, count, size=30)
    chex.assert_trees_all_equal((cut, whole), (rows[..., :30], jnp.full((2, 3), 80)))


@hypothesis.given(longer=sets, numbers=st.lists(st.integers(0, 255), max_size=30))
def test_decoding_joins_strings(longer, numbers):
    tokens = closed(longer)
    ids = np.array([number * len(tokens) // 256 for number in numbers], np.int32)
    assert strings.decode(strings.from_strings(tokens), ids) == b"".join(tokens[index] for index in ids)


def test_decoding_in_parts_is_decoding_the_whole(monkeypatch):
    monkeypatch.setattr(strings, "DECODED_AT_ONCE", 7)
    longer, raw = words_and_text(6, size=500)
    tables = tables_of(longer)
    assert strings.decode(tables, match.match(match.matcher(tables), raw)) == raw


@pytest.mark.parametrize(
    ("tokens", "says"),
    [
        (SINGLES[1:], "single bytes"),
        ([*SINGLES, b"ab", b"ab"], "twice"),
        ([*SINGLES, b"a"], "twice"),
        ([*SINGLES, b"abc", b"ab"], "lacks b'ab' before b'abc'"),
        ([*SINGLES, b""], "lacks"),
    ],
)
def test_a_set_that_is_not_prefix_closed_is_refused(tokens, says):
    with pytest.raises(TokenizerError, match=says):
        strings.from_strings(tokens)


def bigram(seed, alphabet=b"abc", sharp=1.0):
    """Next-byte probabilities that depend on the last byte, mostly over `alphabet`."""
    rng = np.random.default_rng(seed)
    table = np.full((257, 256), 1e-6)
    table[:, list(alphabet)] = rng.random((257, len(alphabet))) ** sharp
    table /= table.sum(axis=1, keepdims=True)
    return lambda prefixes: table[[prefix[-1] if prefix else 256 for prefix in prefixes]]


def one_at_a_time(next_probabilities, size):
    """Best-first search as it is defined: the best string leaves the heap, and its extensions enter."""
    chosen, heap = [], []

    def extend(bits, string):
        for byte, extra in enumerate(np.maximum(-np.log2(next_probabilities([string])[0]), 0)):
            if np.isfinite(bits + extra):
                child = string + bytes([byte])
                heapq.heappush(heap, (bits + extra, len(child), child))

    extend(0.0, b"")
    while heap and len(chosen) < size - 256:
        bits, length, string = heapq.heappop(heap)
        if length > 1:
            chosen.append(string)
        extend(bits, string)
    return SINGLES + chosen


@pytest.mark.parametrize(("seed", "sharp"), [(0, 1.0), (1, 1.0), (0, 6.0), (1, 6.0)])
@pytest.mark.parametrize("batch", [1, 7, 4096])
def test_building_in_batches_is_best_first_one_at_a_time(seed, sharp, batch):
    model = bigram(seed, sharp=sharp)
    assert strings.most_probable(model, 600, batch=batch) == one_at_a_time(model, 600)


def test_ties_go_by_length_and_then_by_bytes():
    uniform = lambda prefixes: np.full((len(prefixes), 256), 2.0**-8)  # noqa: E731
    assert strings.most_probable(uniform, 300) == SINGLES + [bytes([0, byte]) for byte in range(44)]


def test_a_string_that_never_loses_probability_does_not_go_on_for_ever():
    certain = np.zeros(256)
    certain[ord("a")] = 1.0
    built = strings.most_probable(lambda prefixes: np.tile(certain, (len(prefixes), 1)), 300)
    assert built == SINGLES + [b"a" * length for length in range(2, 46)]


def test_strings_without_probability_are_left_out():
    def model(prefixes):
        probabilities = np.zeros((len(prefixes), 256))
        for row, prefix in enumerate(prefixes):
            probabilities[row, list(b"ab")] = 0.5 * (len(prefix) < 3)
        return probabilities

    assert len(strings.most_probable(model, 1000)) == 256 + 4 + 8


def test_a_size_below_the_bytes_is_refused():
    with pytest.raises(SpecError, match="256"):
        strings.most_probable(bigram(0), 255)
    assert strings.most_probable(bigram(0), 256) == SINGLES


def test_a_safe_cut_of_one_byte_repeated_parses_the_text_once(monkeypatch):
    engine = match.matcher(tables_of([b"a" * 3000]))
    assert match.safe_cut(engine, b"a" * 100_000) == 100_000 - 100_000 % 3000
    with monkeypatch.context() as patch:
        patch.setattr(match, "_SAFE_EFFORT", 10**9)
        patch.setattr(match, "_last_token", lambda *_: None)  # as if the parses of the end did not agree
        text = b"a" * 7000 + b"b"
        assert match.safe_cut(engine, text) == 7001


def test_no_text_has_no_ids_in_a_program(monkeypatch):
    found = automaton(tables_of([b"ab"]))
    ids, count = match.match_traced(found, jnp.zeros((2, 0), jnp.uint8), jnp.zeros(2, jnp.int32))
    assert ids.shape == (2, 0) and count.tolist() == [0, 0]
    text, length = match.decode_traced(found, jnp.zeros(0, jnp.int32), jnp.int32(0), size=3)
    assert text.tolist() == [0, 0, 0] and int(length) == 0
