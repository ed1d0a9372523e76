"""Speed, memory and building of `compiled`, beside byte-pair encoding of the same size on the same text, in one run.

    python -m benchmarks.compiled

`compiled` is the whole call, bytes to an int32 array. `tiktoken` is `encode_ordinary` on text that is already a str,
to a list, with what `bpe` of the same size learned from the same records (`vocabulary` says how many they support).
Rounds alternate and the best counts. The traced rows run on the default JAX device, rows of `ROW` bytes, their text
and ids already there. `small documents` are texts of 2,000 bytes, one call each.
"""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import tiktoken

from benchmarks import common
from tokjax.coding import match, strings
from tokjax.coding.automaton import automaton
from tokjax.coding.entropy import fit_entropy
from tokjax.core import vocabulary
from tokjax.core.types import Source
from tokjax.data import load_source
from tokjax.text import Fitted, fit_tokenizer
from tokjax.text.pretokenize import piece_pattern

VOCABULARY, LARGEST = 1 << 16, 1 << 17
BYTES = 8_000_000
ROW, LANES = 8192, (1, 8)
DOCUMENT = 2000
ROUNDS = 7


def seconds(call: Callable[[], Any]) -> tuple[float, float]:
    """Returns (CPU seconds, wall-clock seconds)."""
    start = time.process_time(), time.perf_counter()
    call()
    return time.process_time() - start[0], time.perf_counter() - start[1]


def best(calls: dict[str, Callable[[], Any]]) -> dict[str, tuple[float, float]]:
    """The best CPU and the best wall-clock seconds of each call, after one that is not counted."""
    rounds = [{name: seconds(call) for name, call in calls.items()} for _ in range(ROUNDS + 1)][1:]
    return {name: tuple(min(row[name][kind] for row in rounds) for kind in (0, 1)) for name in calls}  # type: ignore[misc]


def speed(name: str, raw: bytes, compiled: Fitted, bpe: Fitted) -> list[dict[str, Any]]:
    """Rows of one text: MB/s of encoding and decoding, on the host and traced."""
    ranks = {token: rank for rank, token in enumerate(vocabulary.unpack(bpe.tables))}
    direct = tiktoken.Encoding("direct", pat_str=piece_pattern("none"), mergeable_ranks=ranks, special_tokens={})
    text = raw.decode()
    documents = [raw[start : start + DOCUMENT] for start in range(0, len(raw) // 4, DOCUMENT)]
    small = [document.decode("utf-8", "ignore") for document in documents]
    many = functools.partial(compiled.spec.encode_many, compiled.tables)
    ids, bpe_ids = compiled.encode(raw), direct.encode_ordinary(text)
    calls: dict[str, tuple[int, Callable[[], Any]]] = {
        "compiled encode": (len(raw), lambda: compiled.encode(raw)),
        "tiktoken encode": (len(raw), lambda: direct.encode_ordinary(text)),
        "compiled encode, small documents": (len(raw) // 4, lambda: [compiled.encode(part) for part in documents]),
        "compiled encode_many, small documents": (len(raw) // 4, lambda: list(many(documents))),
        "tiktoken encode, small documents": (len(raw) // 4, lambda: [direct.encode_ordinary(part) for part in small]),
        "compiled decode": (len(raw), lambda: compiled.decode(ids)),
        "tiktoken decode": (len(raw), lambda: direct.decode_bytes(bpe_ids)),
        **traced(raw, compiled),
    }
    if compiled.decode(ids) != raw:
        raise SystemExit(f"{name}: the text did not come back")
    times = best({engine: call for engine, (_, call) in calls.items()})
    rate = {engine: size / 1e6 / times[engine][0] for engine, (size, _) in calls.items()}
    return [
        {
            "text": name,
            "measure": engine,
            "vocabulary": bpe.size if engine.startswith("tiktoken") else compiled.size,
            "bytes_per_token": len(raw) / len(bpe_ids if engine.startswith("tiktoken") else ids),
            "megabytes_per_cpu_second": rate[engine],
            "megabytes_per_second": calls[engine][0] / 1e6 / times[engine][1],
            "cpu_speed_over_tiktoken": rate[engine] / rate[peer(engine)],
        }
        for engine in calls
    ]


def peer(engine: str) -> str:
    """The tiktoken call that a call is compared with."""
    name = engine.split(" ", 1)[1].replace("encode_many", "encode")
    return f"tiktoken {name}" if not engine.startswith("traced") else f"tiktoken {name.split(',')[0]}"


def run(function: Callable[..., Any], *arguments: Any, **static: Any) -> None:
    """Calls a jitted function and waits for its arrays."""
    jax.block_until_ready(function(*arguments, **static))


def traced(raw: bytes, compiled: Fitted) -> dict[str, tuple[int, Callable[[], Any]]]:
    """The jitted calls on all whole rows of `raw`; fails unless they give the host's ids and the text."""
    table = jax.device_put(automaton(compiled.tables))
    rows = len(raw) // ROW
    size = rows * ROW
    text = jax.device_put(np.frombuffer(raw[:size], np.uint8).reshape(rows, ROW))
    length = jax.device_put(np.full(rows, ROW, np.int32))
    encode = jax.jit(match.match_traced, static_argnames="lanes")
    calls: dict[str, tuple[int, Callable[[], Any]]] = {}
    for lanes in LANES:
        ids, count = encode(table, text, length, lanes=lanes)
        for row in (0, rows // 2, rows - 1):
            expected = compiled.encode(raw[row * ROW : (row + 1) * ROW])
            if not np.array_equal(ids[row, : count[row]], expected):
                raise SystemExit("the traced ids are not those of the host")
        name = f"traced encode, {rows} rows of {lanes} lanes"
        calls[name] = size, functools.partial(run, encode, table, text, length, lanes=lanes)
    longest = int(count.max())
    ids = ids[:, :longest]
    if not np.array_equal(match.decode_traced(table, ids, count, size=ROW)[0], text):
        raise SystemExit("the traced text is not what was encoded")
    calls[f"traced decode, {rows} rows"] = (
        size,
        functools.partial(run, match.decode_traced, table, ids, count, size=ROW),
    )
    return calls


def building(name: str, source: Source) -> list[dict[str, Any]]:
    """Rows of one source: CPU seconds of each step and bytes of each representation, at two sizes."""
    rows = []
    start = time.process_time()
    model = fit_entropy("ngram", source)
    fit = time.process_time() - start
    for size in (VOCABULARY, LARGEST):
        times = [time.process_time()]
        tokens = strings.most_probable(model.next_probabilities, size)
        times.append(time.process_time())
        tables = strings.from_strings(tokens)
        found = automaton(tables)
        times.append(time.process_time())
        rows.append(
            {
                "text": name,
                "measure": "building",
                "vocabulary": len(tokens),
                "longest_string": max(map(len, tokens)),
                "entropy_model_seconds": fit,
                "best_first_seconds": times[1] - times[0],
                "automaton_seconds": times[2] - times[1],
                "saved_bytes": sum(array.nbytes for array in tables.values()),
                "transition_bytes": found.edges.nbytes,
                "dense_transition_bytes": 4 * 256 * len(tokens),
                "automaton_bytes": sum(array.nbytes for array in jax.tree.leaves(found)),
            }
        )
    return rows


def main() -> None:
    rows = []
    for name, source in (("prose", load_source("pydocs")), ("source code", load_source("stdlib"))):
        rows += building(name, source)
        compiled, bpe = (fit_tokenizer(kind, source, vocab_size=VOCABULARY) for kind in ("compiled", "bpe"))
        joined = b"\n".join(source)[:BYTES]
        rows += speed(name, joined.decode("utf-8", "ignore").encode(), compiled, bpe)
    common.write("compiled", rows)


if __name__ == "__main__":
    main()
