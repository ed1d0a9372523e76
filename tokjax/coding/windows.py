"""Equal-info windows: text cut into stretches whose codes all have W bits; model and coder start anew at each.

A window takes bytes while the shortest code of what it holds fits W bits; the code, padded with zeros to W, is all that
is kept of it. Two rules for where it ends:

- `paper`: as late as possible, as published. Not always decodable: a text followed by a byte that does not fit can have
  the same padded code as that text and a likely byte which does.
- `delay`: at the last byte whose code no shorter start of the window has. The first text on the code's path with that
  code is then the one that was written, so that decoding is exact.

Where W is too short for every byte (W <= F), the all-ones code is kept for a byte that does not fit an empty window;
the byte itself follows as a window.

Source: Lester et al. 2024, section 3.3 and appendix A.5 (its delay compares neighbours only and is not yet exact).

Letters: `B` rows, `K` windows of a row, `L` limbs, `U` 32-bit words of a code, `F` precision, `W` window bits.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from tokjax.coding import arithmetic, lockstep
from tokjax.coding.arithmetic import Interval
from tokjax.coding.entropy import BYTES, Engine
from tokjax.core.spec import check

Rule = Literal["paper", "delay"]
_TYPICAL = 8  # bytes of a window, for choosing how many rows decode side by side


@dataclasses.dataclass(frozen=True)
class Window:
    """What encoder and decoder share.

    Attributes:
      bits: W.
      precision: F of the model's counts.
      longest: bytes that a window holds at most.
      rule: where a window ends.
      resets: whether the model starts anew at each window, not only at each text. If not, windows do not decode alone.
    """

    bits: int
    precision: int
    longest: int
    rule: Rule
    resets: bool = True

    def __post_init__(self):
        check(self.resets or self.rule == "paper", "rule", self.rule, "only 'paper' can do without model resets.")

    @property
    def limbs(self) -> int:
        """L."""
        return arithmetic.limbs_for(self.bits)

    @property
    def words(self) -> int:
        """U."""
        return -(-self.bits // 32)

    @property
    def escapes(self) -> bool:
        """Whether some byte may not fit an empty window."""
        return self.bits <= self.precision

    def within(self, engine: Engine) -> "Window":
        """The same, holding no more bytes than the model can see.

        Raises:
          SpecError: the model never restarts, but cannot see that far.
        """
        check(self.resets or not engine.context, "resets", False, "this model must restart; use an n-gram.")
        return dataclasses.replace(self, longest=min(self.longest, engine.context or self.longest))

    def start(self, shape: tuple[int, ...]) -> Interval:
        """The interval of an empty window: [0, 1), less the last code where that is the escape."""
        interval = arithmetic.whole(shape, self.limbs)
        if not self.escapes:
            return interval
        mantissa = jnp.full(shape, (1 << 32) - (1 << (32 - self.bits)), jnp.uint32)
        return Interval(low=interval.low, mantissa=mantissa, exponent=jnp.ones(shape, jnp.int32))

    def code(self, interval: Interval) -> tuple[jax.Array, jax.Array]:
        """Returns (the padded code uint32 [..., U], whether it fits)."""
        start, length = arithmetic.shortest_code(interval)
        return arithmetic.top_words(start)[..., : self.words], length <= self.bits


def _pick(condition: jax.Array, yes: Any, no: Any) -> Any:
    """Chooses by row between two trees of arrays [B, ...]."""

    def choose(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.where(condition.reshape(condition.shape + (1,) * (a.ndim - condition.ndim)), a, b)

    return jax.tree.map(choose, yes, no)


@dataclasses.dataclass(frozen=True)
class _Encoder:
    """One step of encoding: every row takes a byte into its window, or closes the window and takes it into the next."""

    window: Window
    bounds: Callable

    def __call__(self, params: Any, state: Any, carry: Any, inputs: Any) -> tuple[Any, jax.Array, jax.Array, Any]:
        window, rows = self.window, jnp.arange(carry["next"].shape[0])
        left = inputs["length"] > carry["next"]
        byte = inputs["text"][rows, carry["next"]].astype(jnp.int32)
        open_ = carry["held"] > 0
        lower, upper = self.bounds(params, state, byte)
        taken = arithmetic.narrow(carry["interval"], lower, upper, window.precision)
        code, fits = window.code(taken)
        edge = inputs["edge"][rows, carry["next"]]  # a new text begins here
        goes_on = open_ & left & ~edge & fits & (carry["held"] < window.longest)
        closed = open_ & ~goes_on
        next_ = jnp.where(closed, carry["first"] + carry["kept"], carry["next"])
        begins = ~goes_on & (next_ < inputs["length"])
        byte = jnp.where(begins, inputs["text"][rows, next_].astype(jnp.int32), byte)
        fresh = jax.tree.map(lambda array: array[byte], inputs["first"])
        restarts = ~goes_on
        if not window.resets:
            restarts = begins & ((next_ == 0) | inputs["edge"][rows, next_])
            fresh = _pick(restarts, fresh, _begun(window, *self.bounds(params, state, byte)))
        escaped = begins & ~fresh["fits"]
        takes = goes_on | (begins & fresh["fits"])
        interval = _pick(goes_on, taken, fresh["interval"])
        code = _pick(goes_on, code, fresh["code"])
        held = jnp.where(goes_on, carry["held"] + 1, jnp.where(takes, 1, 0))
        outputs = {
            "closed": closed,
            "code": carry["code"],
            "kept": carry["kept"],
            "first": carry["first"],
            "next": next_,
            "escaped": jnp.where(escaped, byte, -1),
            "exponent": jnp.where(takes, interval.exponent, -1),
        }
        new, seen = self._is_new(carry["seen"], code, held)
        after = {
            "next": jnp.where(takes | escaped, next_ + 1, next_),
            "first": jnp.where(begins, next_, carry["first"]),
            "held": held,
            "kept": jnp.where(new, held, carry["kept"]),
            "code": _pick(new, code, carry["code"]),
            "interval": interval,
            "seen": seen,
            "done": ~takes & ~escaped,
        }
        return after, byte, restarts, outputs

    def _is_new(self, seen: jax.Array, code: jax.Array, held: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Whether no shorter start of the window has `code`, and the codes seen, this one added."""
        if self.window.rule == "paper":
            return jnp.ones(held.shape, bool), seen
        places = jnp.arange(seen.shape[1])
        same = (seen == code[:, None]).all(axis=-1) & (places < held[:, None] - 1)
        here = places == held[:, None] - 1
        return ~same.any(axis=1), jnp.where(here[..., None], code[:, None], seen)


def encode(engine: Engine, window: Window, texts: Sequence[bytes]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns, for each text, its codes uint32 [K, U] and the bit of them at which each byte is known, int64 [bytes].

    Escapes are windows like any other.
    """
    window = window.within(engine)
    sizes = [len(text) for text in texts]
    if not any(sizes):
        return [(np.zeros((0, window.words), np.uint32), np.zeros(0, np.int64))] * len(texts)
    rows = lockstep.lanes(engine, sizes)
    dealt = lockstep.queue(sizes, rows)
    text, length = lockstep.pad([np.frombuffer(b"".join(texts[job] for job in jobs), np.uint8) for jobs in dealt])
    edge = np.zeros(text.shape, bool)
    for row, jobs in enumerate(dealt):
        edge[row, np.cumsum([sizes[job] for job in jobs], dtype=int)] = True
    inputs = {
        "text": jnp.asarray(text),
        "length": jnp.asarray(length),
        "edge": jnp.asarray(edge),
        "first": _first(engine, window),
    }
    outputs = lockstep.run(engine, _Encoder(window, engine.bounds), _encoder_carry(window, length), inputs, rows)
    order = [job for jobs in dealt for job in jobs]
    offsets = np.cumsum(length) - length
    coded = _split_texts(window, outputs, offsets, [sizes[job] for job in order])
    return [result for _, result in sorted(zip(order, coded, strict=True), key=lambda pair: pair[0])]


def _encoder_carry(window: Window, length: np.ndarray) -> dict[str, Any]:
    rows = len(length)
    zeros = jnp.zeros(rows, jnp.int32)
    return {
        "next": zeros,
        "first": zeros,
        "held": zeros,
        "kept": zeros,
        "code": jnp.zeros((rows, window.words), jnp.uint32),
        "interval": window.start((rows,)),
        "seen": jnp.zeros((rows, window.longest if window.rule == "delay" else 0, window.words), jnp.uint32),
        "done": jnp.asarray(length == 0),
    }


def _first(engine: Engine, window: Window) -> Any:
    """What an empty window becomes with each byte, arrays [256, ...]."""
    bounds = jnp.asarray(start_cdf(engine))
    return _begun(window, bounds[:BYTES], bounds[1 : BYTES + 1])


def _begun(window: Window, lower: jax.Array, upper: jax.Array) -> Any:
    """What an empty window becomes with a symbol of these cumulative counts."""
    interval = arithmetic.narrow(window.start(lower.shape), lower, upper, window.precision)
    code, fits = window.code(interval)
    return {"interval": interval, "code": code, "fits": fits}


def start_cdf(engine: Engine) -> np.ndarray:
    """Returns the cumulative counts uint32 [V + 1] before any byte."""
    return np.asarray(engine.cdf(engine.params, engine.start(engine.rows or 1)))[0]


def _split_texts(
    window: Window, outputs: dict[str, np.ndarray], offsets: np.ndarray, sizes: Sequence[int]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the codes and the bits of every text, in the order in which the rows hold them.

    Args:
      window: as coded.
      outputs: of the steps, [rows, steps, ...].
      offsets: where each row begins in all texts laid end to end.
      sizes: bytes of each text.
    """
    closed, escaped = outputs["closed"].ravel(), outputs["escaped"].ravel() >= 0
    step = np.arange(len(closed))
    codes = [outputs["code"].reshape(-1, window.words)[closed]]
    place = {name: (outputs[name] + offsets[:, None]).ravel() for name in ("first", "next")}
    starts, at = [place["first"][closed]], [3 * step[closed]]
    if window.escapes:  # the escape and the byte as it is, after a window that closes at the same step
        value = np.stack([np.full(escaped.sum(), (1 << window.bits) - 1), outputs["escaped"].ravel()[escaped]], axis=1)
        codes.append((value.astype(np.uint32) << np.uint32(32 - window.bits)).reshape(-1, 1))
        starts.append(np.repeat(place["next"][escaped], 2))
        at.append((3 * step[escaped, None] + np.array([1, 2])).ravel())
    order = np.argsort(np.concatenate(at), kind="stable")
    number = np.empty(len(order), np.int64)
    number[order] = np.arange(len(order))
    all_codes, all_starts = np.concatenate(codes)[order], np.concatenate(starts)[order]

    took = outputs["exponent"].ravel() >= 0
    of_window, chosen = _kept(closed, took, outputs["kept"].ravel()[closed], after=True)
    known = np.minimum(outputs["exponent"].ravel()[took], window.bits - 1)
    bits = number[of_window[chosen]] * window.bits + known[chosen]
    literal = (number[np.count_nonzero(closed) + 1 :: 2] + 1) * window.bits - 1 if window.escapes else bits[:0]
    bits = np.sort(np.concatenate([bits, literal]))

    ends = np.cumsum(sizes)
    code_ends = np.searchsorted(all_starts, ends)
    code, byte = 0, 0
    for code_end, end in zip(code_ends.tolist(), ends.tolist(), strict=True):
        yield all_codes[code:code_end], bits[byte:end] - code * window.bits
        code, byte = code_end, end


def _kept(closed: np.ndarray, took: np.ndarray, kept: np.ndarray, *, after: bool) -> tuple[np.ndarray, np.ndarray]:
    """Returns, of the steps that took a byte, the window of each and whether the window kept it.

    Args:
      closed: bool [steps], whether a window closed; rows are laid end to end.
      took: bool [steps], whether a byte was taken.
      kept: how many bytes each window kept.
      after: whether a step closes a window before it takes a byte, not after.
    """
    of_window = (np.cumsum(closed) - (0 if after else closed))[took]
    first = np.searchsorted(of_window, np.arange(len(kept) + 1))
    return of_window, np.arange(len(of_window)) - first[of_window] < np.append(kept, 0)[of_window]


@dataclasses.dataclass(frozen=True)
class _Decoder:
    """One step of decoding: every row follows its code by a byte, or closes its window."""

    window: Window
    cdf: Callable

    def __call__(self, params: Any, state: Any, carry: Any, inputs: Any) -> tuple[Any, jax.Array, jax.Array, Any]:
        window, rows = self.window, jnp.arange(carry["held"].shape[0])
        active = carry["window"] < inputs["count"]
        code = inputs["codes"][rows, carry["window"]]
        empty = carry["held"] == 0
        anew = empty if window.resets else empty & (carry["window"] == 0)
        bounds = jnp.where(anew[:, None], inputs["start"], self.cdf(params, state))
        interval = _pick(empty, window.start(empty.shape), carry["interval"])
        point = jnp.zeros((*empty.shape, window.limbs), jnp.uint32)
        point = point.at[:, window.limbs - window.words :].set(code[:, ::-1])
        point = arithmetic.from_top_words(point[:, ::-1])
        byte = arithmetic.find(interval, point, bounds, window.precision)
        taken = arithmetic.narrow(interval, bounds[rows, byte], bounds[rows, byte + 1], window.precision)
        reached, fits = window.code(taken)
        held = carry["held"] + 1
        fits = fits & (held <= window.longest)
        same = fits & (reached == code).all(axis=-1)
        kept = jnp.where(same, held, jnp.where(empty, 0, carry["kept"]))
        closed = active & (~fits | (same if window.rule == "delay" else False))
        outputs = {"byte": byte, "exponent": taken.exponent, "closed": closed, "kept": kept, "took": active & fits}
        after = {
            "window": carry["window"] + closed,
            "held": jnp.where(closed | ~active, 0, held),  # a row that is done starts anew, and so stays cheap
            "kept": kept,
            "interval": taken,
            "done": ~active | (closed & (carry["window"] + 1 >= inputs["count"])),
        }
        return after, byte, anew, outputs


def decode(engine: Engine, window: Window, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Decodes windows, each by itself; if the model does not reset, as one text.

    Args:
      engine: the model that encoded them.
      window: as they were encoded.
      codes: uint32 [K, U], escapes left out.

    Returns:
      The bytes of all windows joined, uint8; how many each window gave, int64 [K], 0 for a code that no text has; and
      the bit of its window at which each byte is known, int64.
    """
    window = window.within(engine)
    if not len(codes):
        return np.zeros(0, np.uint8), np.zeros(0, np.int64), np.zeros(0, np.int64)
    rows = lockstep.lanes(engine, [_TYPICAL] * len(codes))
    shares = np.array_split(codes, rows) if window.resets else [codes] + [codes[:0]] * (rows - 1)
    padded, count = lockstep.pad(shares)
    inputs = {
        "codes": jnp.asarray(padded),
        "count": jnp.asarray(count),
        "start": jnp.asarray(start_cdf(engine)),
    }
    zeros = jnp.zeros(rows, jnp.int32)
    carry = {"window": zeros, "held": zeros, "kept": zeros, "interval": window.start((rows,))}
    carry["done"] = jnp.asarray(count == 0)
    outputs = lockstep.run(engine, _Decoder(window, engine.cdf), carry, inputs, rows)
    closed, took = outputs["closed"].ravel(), outputs["took"].ravel()
    kept = outputs["kept"].ravel()[closed].astype(np.int64)
    _, chosen = _kept(closed, took, kept, after=False)
    bits = np.minimum(outputs["exponent"].ravel()[took][chosen], window.bits - 1).astype(np.int64)
    return outputs["byte"].ravel()[took][chosen].astype(np.uint8), kept, bits
