"""Greedy longest match over a prefix-closed set of strings, at speed: on the host, and inside traced programs.

The set being prefix-closed, greedy parsing never goes back: a byte either extends the current token or starts the next
one. Long text is cut into lanes that are parsed in lockstep, each as if a token began there; then each parse is
followed into the next lane until the two agree, after a few bytes as a rule. Text in which they never agree (one byte
repeated) costs one sequential pass more.
Letters: `L` bytes, `S` steps, `T` tokens, `V` strings in the set, `W` lanes.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from tokjax.coding.automaton import LABEL_BITS, LEAF, Automaton, automaton
from tokjax.coding.strings import BYTES
from tokjax.core.cached import cached_engine
from tokjax.core.spec import check
from tokjax.core.types import Tables

SHAPES = ((1024, 2048), (256, 1024), (64, 512))  # (lanes, steps) of the compiled programs, largest first
GROUP = SHAPES[0][0] * SHAPES[0][1]  # bytes of documents that are parsed as one text at most
WALKED = 1 << 13  # fewer bytes are parsed in Python, which is then as fast
_LABEL = (1 << LABEL_BITS) - 1
_SAFE_WINDOW = 1 << 11  # bytes before the end that are searched for a place to cut
_SAFE_EFFORT = 8  # how often they are read before all of the text is parsed instead


@dataclasses.dataclass(frozen=True, eq=False)
class Matcher:
    """What the host keeps of a set: the arrays, 8.3 bytes a string beside its text, and as Python lists 50 more.

    Attributes:
      automaton: numpy arrays.
      edges: `automaton.edges` on the processor's JAX device.
      bases: base of each slot.
      labels: label of each slot.
      longest: bytes in the longest string.
    """

    automaton: Automaton
    edges: jax.Array
    bases: list[int]
    labels: list[int]
    longest: int


@cached_engine
def _matcher(spec: None, tables: Tables) -> Matcher:
    del spec
    found = automaton(tables)
    return Matcher(
        automaton=found,
        edges=jax.device_put(found.edges, _processor()),
        bases=(found.edges >> LABEL_BITS).tolist(),
        labels=(found.edges & _LABEL).tolist(),
        longest=int(np.diff(found.token_offsets).max()),
    )


def matcher(tables: Tables) -> Matcher:
    """Returns the host's engine for a prefix-closed set; cached."""
    return _matcher(None, tables)


def _processor() -> jax.Device | None:
    with contextlib.suppress(RuntimeError):  # JAX was told to leave the processor out: the default device then
        return jax.local_devices(backend="cpu")[0]
    return None


def match(engine: Matcher, raw: bytes) -> np.ndarray:
    """Returns the int32 ids [T] of the longest match at each place of `raw`, from left to right."""
    slot = engine.automaton.start
    parts: list[list[int] | np.ndarray] = []
    for block, shape in _blocks(raw):
        if shape is None:
            walked, slot = _walk(engine, block, slot)
            parts.append(walked)
        else:
            slots = _slots(engine, block, slot, shape)
            starts = np.flatnonzero(slots < BYTES)
            ended = slots.take(starts - 1, mode="wrap")
            if len(starts) and starts[0] == 0:
                ended[0] = slot
            slot = int(slots[-1])
            parts.append(ended)
    ended_slots = np.concatenate([*parts, [slot]], dtype=np.int32, casting="unsafe")
    return np.take(engine.automaton.ids, ended_slots[1:])  # the first is the slot before any byte


def _blocks(raw: bytes) -> Iterator[tuple[bytes, tuple[int, int] | None]]:
    """Cuts `raw` into stretches for each compiled shape, the last one for none or shorter than its shape."""
    start = 0
    while start < len(raw):
        left = len(raw) - start
        shape = next((shape for shape in SHAPES if shape[0] * shape[1] <= left), SHAPES[-1])
        size = shape[0] * shape[1]
        yield raw[start : start + size], shape if left >= WALKED else None
        start += size


def _walk(engine: Matcher, raw: bytes, slot: int) -> tuple[list[int], int]:
    """Parses `raw` on from `slot`. Returns the slots in which tokens ended, and the slot after the last byte."""
    bases, labels = engine.bases, engine.labels
    ended = []
    for byte in raw:
        child = bases[slot] + byte
        if labels[child] == byte:
            slot = child
        else:
            ended.append(slot)
            slot = byte
    return ended, slot


def match_many(engine: Matcher, documents: Sequence[bytes]) -> list[np.ndarray]:
    """Returns `match` of each document, int32 [T], parsed as one text: many short ones are then as fast as a long one.

    Memory is about 10 times the documents together, where `match` holds one block at a time.
    """
    raw = b"".join(documents)
    starts = np.cumsum([0, *map(len, documents)])
    if len(raw) < WALKED or len(raw) > GROUP:
        return [match(engine, document) for document in documents]
    shape = next(shape for shape in reversed(SHAPES) if len(raw) <= shape[0] * shape[1])
    slots = _slots(engine, raw, engine.automaton.start, shape, frozenset(starts.tolist()))
    tokens = np.flatnonzero(slots < BYTES)
    ends = np.append(tokens[1:], len(raw)) - 1
    ids = np.take(engine.automaton.ids, slots.take(ends))
    return np.split(ids, np.searchsorted(tokens, starts[1:-1]))


def _slots(
    engine: Matcher, raw: bytes, slot: int, shape: tuple[int, int], restarts: frozenset[int] = frozenset()
) -> np.ndarray:
    """Returns the slot after each byte of `raw`, int32 [L], parsed on from `slot`, and afresh from each of `restarts`.

    L is at most lanes * steps.
    """
    lanes, steps = shape
    padded = np.zeros(lanes * steps, np.uint8)
    padded[: len(raw)] = np.frombuffer(raw, np.uint8)
    slots = np.array(_parse_lanes(engine.edges, padded.reshape(lanes, steps))).reshape(-1)[: len(raw)]
    view = slots.data
    agreed = _follow(engine, raw, view, 0, slot)
    for seam in sorted(restarts.union(range(steps, len(raw), steps))):
        if seam in restarts:
            agreed = max(agreed, _follow(engine, raw, view, seam, engine.automaton.start))
        elif seam >= agreed:
            agreed = _follow(engine, raw, view, seam, view[seam - 1])
    return slots


def _follow(engine: Matcher, raw: bytes, slots: memoryview, start: int, slot: int) -> int:
    """Parses on from `slot` before byte `start`, correcting `slots` until it agrees; returns where it does."""
    bases, labels = engine.bases, engine.labels
    for place in range(start, len(raw)):
        byte = raw[place]
        child = bases[slot] + byte
        slot = child if labels[child] == byte else byte
        if slots[place] == slot:
            return place
        slots[place] = slot
    return len(raw)


@jax.jit
def _parse_lanes(edges: jax.Array, raw: jax.Array) -> jax.Array:
    """The slot after each byte of `raw` uint8 [W, S], each lane from its own start, int32 [W, S]."""
    return _lockstep(edges, raw.T).T


def safe_cut(engine: Matcher, raw: bytes) -> int:
    """Returns the start of the last token of `raw`, or its end where no byte could extend that token.

    As a rule only the end of `raw` is parsed: from every place at which a token may begin, until these parses agree.
    Where they do not, as in one byte repeated, all of it is.
    """
    if not raw:
        return 0
    low = max(0, len(raw) - max(_SAFE_WINDOW, 2 * engine.longest))
    start = _last_token(engine, raw[low:], engine.longest if low else 1)
    if start is None:
        offsets = engine.automaton.token_offsets
        last = int(match(engine, raw)[-1])
        low, start = 0, len(raw) - int(offsets[last + 1] - offsets[last])
    _, slot = _walk(engine, raw[low + start :], engine.automaton.start)
    return len(raw) if engine.bases[slot] == LEAF else low + start


def _last_token(engine: Matcher, raw: bytes, starts: int) -> int | None:
    """Returns where the last token begins of parses of `raw` from each of its first `starts` bytes, if they agree."""
    before = engine.automaton.start
    slots = np.full(len(raw), before, np.int32)
    view = slots.data
    _follow(engine, raw, view, 0, before)
    read = len(raw)
    for start in range(1, starts):
        agreed = _follow(engine, raw, view, start, before)
        read += agreed - start
        if agreed == len(raw) or read > _SAFE_EFFORT * len(raw):
            return None
    return int(np.flatnonzero(slots < BYTES)[-1])


def _lockstep(edges: jax.Array, raw: jax.Array) -> jax.Array:
    """The slots after each byte of `raw` uint8 [S, W], int32 [S, W]; every lane begins before any byte."""

    def step(base: jax.Array, byte: jax.Array) -> tuple[jax.Array, jax.Array]:
        byte = byte.astype(jnp.int32)
        child, root = _read(edges, base + byte), _read(edges, byte)
        extends = (child & _LABEL) == byte
        return jnp.where(extends, child, root) >> LABEL_BITS, jnp.where(extends, base + byte, byte)

    return jax.lax.scan(step, jnp.full(raw.shape[1:], LEAF, jnp.int32), raw)[1]


def _next_slot(edges: jax.Array, slot: jax.Array, byte: jax.Array) -> jax.Array:
    child = (_read(edges, slot) >> LABEL_BITS) + byte
    return jnp.where((_read(edges, child) & _LABEL) == byte, child, byte)


def _read(array: jax.Array, index: jax.Array) -> jax.Array:
    return jnp.asarray(array).at[index].get(mode="promise_in_bounds")


def match_traced(table: Automaton, raw: jax.Array, length: jax.Array, *, lanes: int = 1) -> tuple[jax.Array, jax.Array]:
    """The ids of `match`, bit for bit, in a program of fixed shapes: jit it, or call it inside a training step.

    Rows and lanes advance in lockstep, one step a byte of a lane, so speed comes from many of them. With one lane it
    takes L steps. With more it takes L / lanes and as many as the lanes need to agree, at worst L again. Give rows as
    leading axes rather than through `jax.vmap`, which would copy the rows at each of the latter steps.

    Args:
      table: from `automaton`.
      raw: uint8 [..., L], rows of text and then anything.
      length: int32 [...], bytes of text in each row.
      lanes: stretches that each row is cut into.

    Returns:
      (ids int32 [..., L] and then 0, how many ids int32 [...]).

    Raises:
      SpecError: `lanes` is not positive.
    """
    check(lanes >= 1, "lanes", lanes, "use 1 or more.")
    *batch, L = raw.shape
    if not raw.size:
        return jnp.zeros(raw.shape, jnp.int32), jnp.zeros(batch, jnp.int32)
    steps = -(-L // lanes)
    rows = jnp.pad(raw.astype(jnp.uint8).reshape(-1, L), ((0, 0), (0, steps * lanes - L)))
    columns = rows.reshape(-1, steps).T
    slots = _lockstep(table.edges, columns)
    if lanes > 1:
        slots = _agree(table.edges, columns, slots, jnp.arange(columns.shape[1]) % lanes == 0)
    bounds = jnp.broadcast_to(length, batch).reshape(-1)
    ids, count = _compact(table.ids, slots.reshape(steps, -1, lanes), bounds)
    return ids[:, :L].reshape(*batch, L), count.reshape(batch)


def _agree(edges: jax.Array, raw: jax.Array, slots: jax.Array, first: jax.Array) -> jax.Array:
    """Follows every lane's parse into the next lane until they agree, again and again until all do.

    Args:
      edges: int32, of the automaton.
      raw: uint8 [S, W].
      slots: int32 [S, W], a parse of each lane.
      first: bool [W], lanes that begin a row.
    """

    def entering(slots: jax.Array) -> tuple[jax.Array, jax.Array]:
        before = jnp.roll(slots[-1], 1)
        return before, ~first & (_next_slot(edges, before, raw[0].astype(jnp.int32)) != slots[0])

    def follow(carry: tuple) -> tuple:
        place, before, open_lanes, slots = carry
        now = _next_slot(edges, before, raw[place].astype(jnp.int32))
        open_lanes = open_lanes & (now != slots[place])
        return place + 1, now, open_lanes, slots.at[place].set(jnp.where(open_lanes, now, slots[place]))

    def once(slots: jax.Array) -> jax.Array:
        start = (jnp.int32(0), *entering(slots), slots)
        return jax.lax.while_loop(lambda c: c[2].any() & (c[0] < len(raw)), follow, start)[-1]

    return jax.lax.while_loop(lambda slots: entering(slots)[1].any(), once, slots)


def _compact(ids: jax.Array, slots: jax.Array, length: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The ids [R, S * W] of the tokens that end in `slots` [S, R, W], lane after lane, and their number [R].

    Tokens are counted by a scan over steps: a cumulative sum along rows is far slower on processors.
    """
    S, R, W = slots.shape
    place = jnp.arange(S)[:, None, None] + S * jnp.arange(W)
    inside = place < length[:, None]
    starts = (slots < BYTES) & inside
    following = jnp.concatenate([starts[1:], jnp.roll(starts[:1], -1, axis=2)])
    ends = inside & (following | (place == length[:, None] - 1))
    in_lane, rank = jax.lax.scan(lambda n, start: (n + start, n + start), jnp.zeros((R, W), jnp.int32), starts)
    rank += jnp.cumsum(in_lane, axis=1) - in_lane - 1
    target = jnp.where(ends, rank, S * W)
    found = jnp.zeros((R, S * W), jnp.int32).at[jnp.arange(R)[:, None], target].set(_read(ids, slots), mode="drop")
    return found, in_lane.sum(axis=1)


@functools.partial(jax.jit, static_argnames="size")
def decode_traced(table: Automaton, ids: jax.Array, count: jax.Array, *, size: int) -> tuple[jax.Array, jax.Array]:
    """The bytes of the first `count` of `ids`, as `coding.strings.decode` gives them, in fixed shapes.

    Args:
      table: from `automaton`.
      ids: int32 [..., T], each in [0, V) as far as `count` goes.
      count: int32 [...].
      size: bytes of room in each row; text beyond it is cut off.

    Returns:
      (bytes uint8 [..., size] and then 0, length of the whole text int32 [...]).
    """
    *batch, T = ids.shape
    if not ids.size:
        return jnp.zeros((*batch, size), jnp.uint8), jnp.zeros(batch, jnp.int32)

    def row(ids: jax.Array, count: jax.Array) -> tuple[jax.Array, jax.Array]:
        inside = jnp.arange(T) < count
        first, after = table.token_offsets[ids], table.token_offsets[ids + 1]
        ends = jnp.cumsum(jnp.where(inside, after - first, 0))
        token = jnp.repeat(jnp.arange(T), jnp.diff(ends, prepend=0), total_repeat_length=size)
        place = jnp.arange(size)
        source = after[token] - ends[token] + place
        return jnp.where(place < ends[-1], table.token_bytes[source], 0), ends[-1]

    text, length = jax.vmap(row)(ids.reshape(-1, T), jnp.broadcast_to(count, batch).reshape(-1))
    return text.reshape(*batch, size), length.reshape(batch)
