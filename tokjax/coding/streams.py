"""Arithmetic coding of whole texts: one code for all bytes, and for the end of the text as symbol 256.

The encoder's rows put out where each symbol's interval starts, as 32 bits and their exponent; the sum of those numbers
is the code, carries and all, and is added up outside the compiled program.

Letters: `B` rows, `F` precision, `U` 32-bit words of a code, `V` symbols.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tokjax.coding import host, lockstep
from tokjax.coding.arithmetic import normalise, share
from tokjax.coding.entropy import BYTES, Engine
from tokjax.coding.windows import start_cdf
from tokjax.core.errors import TokenizerError

END = BYTES
_WHOLE = np.uint32(1 << 31)  # the mantissa of [0, 1)


@dataclasses.dataclass(frozen=True)
class _Encoder:
    """One step of encoding: every row narrows its interval by a byte, or by the end of its text."""

    bounds: Callable
    precision: int
    context: int

    def __call__(self, params: Any, state: Any, carry: Any, inputs: Any) -> tuple[Any, jax.Array, jax.Array, Any]:
        rows = jnp.arange(carry["next"].shape[0])
        symbol = inputs["symbols"][rows, carry["next"]].astype(jnp.int32)
        ends = symbol == END
        anew = carry["context"] == 0
        lower, upper = self.bounds(params, state, symbol)
        lower = jnp.where(anew, inputs["start"][symbol], lower)
        upper = jnp.where(anew, inputs["start"][symbol + 1], upper)
        start = share(carry["mantissa"], lower, self.precision)
        mantissa, shift = normalise(share(carry["mantissa"], upper, self.precision) - start)
        exponent = carry["exponent"] + shift
        outputs = {
            "coded": ~carry["done"],
            "start": start,
            "before": carry["exponent"],
            "after": exponent,
            "mantissa": mantissa,
        }
        next_ = carry["next"] + 1
        after = {
            "next": next_,
            "mantissa": jnp.where(ends, _WHOLE, mantissa),
            "exponent": jnp.where(ends, 0, exponent),
            "context": jnp.where(ends, 0, _grown(carry["context"], self.context)),
            "done": carry["done"] | (next_ >= inputs["length"]),
        }
        return after, jnp.minimum(symbol, BYTES - 1), anew, outputs


def encode(engine: Engine, texts: Sequence[bytes]) -> list[tuple[bytes, np.ndarray]]:
    """Returns, for each text, its code in whole bytes and, int64 [bytes], the bit at which each of its bytes is known.

    Args:
      engine: a model with the end of a text as symbol 256.
      texts: any byte strings.
    """
    if not texts:
        return []
    sizes = [len(text) + 1 for text in texts]
    rows = lockstep.lanes(engine, sizes)
    dealt = lockstep.queue(sizes, rows)
    symbols, length = lockstep.pad([_symbols([texts[job] for job in jobs]) for jobs in dealt])
    inputs = {"symbols": jnp.asarray(symbols), "length": jnp.asarray(length), "start": jnp.asarray(start_cdf(engine))}
    carry = _start(rows) | {"next": jnp.zeros(rows, jnp.int32), "done": jnp.asarray(length == 0)}
    outputs = lockstep.run(engine, _Encoder(engine.bounds, engine.precision, engine.context), carry, inputs, rows)
    coded = {name: array[outputs["coded"]] for name, array in outputs.items()}  # of all rows, end to end
    results, start = [(b"", np.zeros(0, np.int64))] * len(texts), 0
    for job in (job for jobs in dealt for job in jobs):
        results[job] = _code({name: array[start : start + sizes[job]] for name, array in coded.items()})
        start += sizes[job]
    return results


def _symbols(texts: Sequence[bytes]) -> np.ndarray:
    """The bytes of texts, uint16, with the end symbol after each."""
    parts = [np.append(np.frombuffer(text, np.uint8).astype(np.uint16), np.uint16(END)) for text in texts]
    return np.concatenate([np.zeros(0, np.uint16), *parts])


def _code(coded: dict[str, np.ndarray]) -> tuple[bytes, np.ndarray]:
    """Returns the code and the bits of one text from the outputs of its steps."""
    last = int(coded["after"][-1])
    low = _sum(coded["start"], last - coded["before"])
    code, length = host.Interval(low, int(coded["mantissa"][-1]), last).shortest_code()
    padding = -length % 8
    return (code << padding).to_bytes((length + padding) // 8), coded["after"][:-1].astype(np.int64)


def _sum(numbers: np.ndarray, shifts: np.ndarray) -> int:
    """Returns the sum of numbers uint32 [N] times 2**shifts, exactly, in linear time."""
    place, bit = shifts // 32, (shifts % 32).astype(np.uint64)
    shifted = numbers.astype(np.uint64) << bit
    limbs = np.zeros(int(place.max()) + 3, np.uint64)  # of 32 bits and the carries of 2**32 numbers
    np.add.at(limbs, place, shifted & np.uint64(0xFFFFFFFF))
    np.add.at(limbs, place + 1, shifted >> np.uint64(32))
    low, high = limbs.astype("<u4"), (limbs >> np.uint64(32)).astype("<u4")
    return int.from_bytes(low.tobytes(), "little") + (int.from_bytes(high.tobytes(), "little") << 32)


def _start(rows: int) -> dict[str, jax.Array]:
    zeros = jnp.zeros(rows, jnp.int32)
    return {"mantissa": jnp.full(rows, _WHOLE, jnp.uint32), "exponent": zeros, "context": zeros}


def _grown(context: jax.Array, longest: int) -> jax.Array:
    """Counts the bytes that the model has seen; 0 again, to start it anew, when it can take no more."""
    return jnp.where(context + 1 == longest, 0, context + 1)


@dataclasses.dataclass(frozen=True)
class _Decoder:
    """One step of decoding: every row finds the symbol whose share of the interval holds the code."""

    cdf: Callable
    precision: int
    context: int

    def __call__(self, params: Any, state: Any, carry: Any, inputs: Any) -> tuple[Any, jax.Array, jax.Array, Any]:
        rows = jnp.arange(carry["done"].shape[0])
        anew = carry["context"] == 0
        bounds = jnp.where(anew[:, None], inputs["start"], self.cdf(params, state))
        shares = share(carry["mantissa"][:, None], bounds, self.precision)
        symbol = jnp.sum(shares[:, 1:-1] <= carry["offset"][:, None], axis=-1, dtype=jnp.int32)
        start = shares[rows, symbol]
        mantissa, shift = normalise(shares[rows, symbol + 1] - start)
        following = _bits_at(inputs["words"], 31 + carry["exponent"])
        amount = shift.astype(jnp.uint32)
        read = jnp.where(shift > 0, following >> (32 - jnp.maximum(amount, 1)), 0)
        exponent = carry["exponent"] + shift
        ended = (symbol == END) | (exponent > inputs["bits"])
        after = {
            "offset": ((carry["offset"] - start) << amount) | read,
            "mantissa": mantissa,
            "exponent": exponent,
            "context": _grown(carry["context"], self.context),
            "done": carry["done"] | ended,
        }
        outputs = {"symbol": symbol, "after": exponent, "coded": ~carry["done"]}
        return after, jnp.minimum(symbol, BYTES - 1), anew, outputs


def decode(engine: Engine, codes: Sequence[bytes]) -> list[tuple[bytes, np.ndarray]]:
    """The inverse of `encode`: (text, the bit at which each byte is known) of each code.

    Raises:
      TokenizerError: a code that no text has.
    """
    results: list[tuple[bytes, np.ndarray]] = []
    rows = lockstep.lanes(engine, [len(code) for code in codes])
    for first in range(0, len(codes), rows):
        results += _decode_rows(engine, codes[first : first + rows], rows)
    return results


def _decode_rows(engine: Engine, codes: Sequence[bytes], rows: int) -> Iterator[tuple[bytes, np.ndarray]]:
    padded, lengths = lockstep.pad([np.frombuffer(code, np.uint8) for code in codes], margin=4)
    padded = np.pad(padded, ((0, rows - len(codes)), (0, 0)))
    words = jnp.asarray(padded.view(">u4").astype(np.uint32))
    bits = np.pad(8 * lengths, (0, rows - len(codes)))
    inputs = {"words": words, "bits": jnp.asarray(bits), "start": jnp.asarray(start_cdf(engine))}
    carry = _start(rows) | {"offset": words[:, 0] >> 1, "done": jnp.arange(rows) >= len(codes)}
    outputs = lockstep.run(engine, _Decoder(engine.cdf, engine.precision, engine.context), carry, inputs, rows)
    for row in range(len(codes)):
        coded = outputs["coded"][row]
        symbols, after = outputs["symbol"][row][coded], outputs["after"][row][coded].astype(np.int64)
        shortest = -(-after[-1] // 8), -(-(after[-1] + 1) // 8)  # bytes of a code of the exponent's bits or one more
        if symbols[-1] != END or len(codes[row]) not in shortest:
            raise TokenizerError("The ids are not the code of a text: they are cut short, or another model's.")
        yield symbols[:-1].astype(np.uint8).tobytes(), after[:-1]


def _bits_at(words: jax.Array, place: jax.Array) -> jax.Array:
    """Returns the 32 bits of each row's words [B, U] from bit `place` [B]; zeros past the end."""
    rows = jnp.arange(words.shape[0])
    index, bit = place // 32, (place % 32).astype(jnp.uint32)
    first = words.at[rows, index].get(mode="fill", fill_value=0)
    second = words.at[rows, index + 1].get(mode="fill", fill_value=0)
    return (first << bit) | jnp.where(bit > 0, second >> (32 - jnp.maximum(bit, 1)), 0)
