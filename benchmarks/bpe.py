"""Speed of BPE encoding against its peers on the same vocabulary and text, in one run.

    python -m benchmarks.bpe

`tokjax` is the whole call, bytes to an int32 array. `tiktoken` is `encode_ordinary` on text that is already a str,
to a list. `tokenizers` is `encode_batch_fast` over the same segments, on every core. Their ids are checked to be equal.
Rounds alternate between the three and the best counts. Ratios are of CPU time, which other processes disturb least;
`tokenizers` divides its own over the cores, so its wall-clock speed is given too.
"""

import itertools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tiktoken
import tokenizers as hf
from tokenizers import models

from benchmarks import common
from tokjax.core import vocabulary
from tokjax.data import load_source
from tokjax.text import Fitted, fit_tokenizer
from tokjax.text.pretokenize import piece_pattern, segments
from tokjax.text.subwords import byte_level, to_symbols

VOCABULARY = 8192
BYTES = 4_000_000
ROUNDS = 9


def engines(fitted: Fitted) -> tuple[tiktoken.Encoding, hf.Tokenizer]:
    """The same vocabulary in the peers, each built by its own public API."""
    tokens = vocabulary.unpack(fitted.tables)
    symbols = [to_symbols(token) for token in tokens]
    merges = [(symbols[left], symbols[right]) for left, right in fitted.tables["merges"].tolist()]
    direct = tiktoken.Encoding(
        "direct",
        pat_str=piece_pattern("none"),
        mergeable_ranks=dict(zip(tokens, itertools.count(), strict=False)),
        special_tokens={},
    )
    return direct, byte_level(models.BPE(dict(zip(symbols, itertools.count(), strict=False)), merges), "none")


def seconds(call: Callable[[], Any]) -> tuple[float, float]:
    """Returns (CPU seconds, wall-clock seconds)."""
    start = time.process_time(), time.perf_counter()
    call()
    return time.process_time() - start[0], time.perf_counter() - start[1]


def measure(name: str, raw: bytes, fitted: Fitted) -> list[dict[str, Any]]:
    """Rows of one text: MB/s of each engine and its ratio to direct tiktoken."""
    direct, peer = engines(fitted)
    text = raw.decode()
    parts = [part.decode() for part in segments(raw)]
    calls: dict[str, Callable[[], Any]] = {
        "tokjax": lambda: fitted.encode(raw),
        "tiktoken": lambda: direct.encode_ordinary(text),
        "tokenizers": lambda: [encoding.ids for encoding in peer.encode_batch_fast(parts, add_special_tokens=False)],
    }
    ids = fitted.encode(raw)
    if ids.tolist() != calls["tiktoken"]() or not np.array_equal(ids, np.concatenate(calls["tokenizers"]())):
        raise SystemExit(f"{name}: the engines disagree")
    rounds = [{engine: seconds(call) for engine, call in calls.items()} for _ in range(ROUNDS)]
    cpu = {engine: min(row[engine][0] for row in rounds) for engine in calls}
    wall = {engine: min(row[engine][1] for row in rounds) for engine in calls}
    return [
        {
            "text": name,
            "engine": engine,
            "megabytes": len(raw) / 1e6,
            "bytes_per_token": len(raw) / len(ids),
            "megabytes_per_cpu_second": len(raw) / 1e6 / cpu[engine],
            "megabytes_per_second": len(raw) / 1e6 / wall[engine],
            "cpu_speed_over_tiktoken": cpu["tiktoken"] / cpu[engine],
        }
        for engine in calls
    ]


def main() -> None:
    prose, code = load_source("pydocs"), load_source("stdlib")
    fitted = fit_tokenizer("bpe", prose, vocab_size=VOCABULARY)
    rows = []
    for name, source in (("prose", prose), ("source code", code)):
        joined = b"\n".join(source)[:BYTES]
        rows += measure(name, joined.decode("utf-8", "ignore").encode(), fitted)
    common.write("bpe", rows)


if __name__ == "__main__":
    main()
