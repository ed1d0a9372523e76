"""Word splitting in MB/s against UAX #29 in the `regex` package and, where installed, the Rust `hat-splitter`.

Run `python -m benchmarks.splitter`; writes results/splitter.json. All peers split the same text into pieces on one
thread. The peers get text already decoded, which is in their favour, and return lists of strings; the word splitter
starts from bytes and is timed both for lengths (what the tokenizer uses) and for a list.
"""

import importlib.metadata
import importlib.util
import time
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.common import write
from tokjax.core.registry import sources
from tokjax.text.splitter import piece_lengths, split
from tokjax.text.unicode_tables import unicode_tables

CAP = 100  # bytes per word, as in the released hierarchical models
MEGABYTES = 4
REPEATS = 7


def best_seconds(functions: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    """Returns the best of `REPEATS` wall-clock times of each; rounds take turns, so that a busy moment hits all."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(REPEATS):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    return {name: min(measured) for name, measured in times.items()}


def peers(raw: bytes) -> dict[str, Callable[[], int] | str]:
    """Returns a function per peer that splits `raw` and gives the number of pieces, or why the peer is left out."""
    import regex

    text = raw.decode("utf-8", "replace")
    tables = unicode_tables()
    boundary = regex.compile(r"(?w)\b")
    found: dict[str, Callable[[], int] | str] = {
        "tokjax piece_lengths, cap 100": lambda: len(piece_lengths(raw, CAP, tables)),
        "tokjax piece_lengths, cap 16": lambda: len(piece_lengths(raw, 16, tables)),
        "tokjax split to a list, cap 100": lambda: len(split(raw, CAP, tables)),
        f"regex {importlib.metadata.version('regex')} split": lambda: len(boundary.split(text)),
    }
    if importlib.util.find_spec("hat_splitter"):
        from hat_splitter import HATSplitter

        rust = HATSplitter()
        name = f"hat-splitter {importlib.metadata.version('hat-splitter')}"
        found[name] = lambda: len(rust.split_with_limit(text, CAP))
    else:
        found["hat-splitter"] = "not installed: its licence is non-commercial, so it is never a dependency"
    return found


def main() -> None:
    """Times every peer on prose and on code. `ratio` is the speed over that of `regex` on the same corpus."""
    rows: list[dict[str, Any]] = []
    for corpus, name in (("prose", "pydocs"), ("code", "stdlib")):
        raw = b"\n\n".join(sources[name](""))[: MEGABYTES * 1_000_000]
        run = peers(raw)
        times = best_seconds({peer: function for peer, function in run.items() if callable(function)})
        baseline = next(time for peer, time in times.items() if peer.startswith("regex"))
        for peer, function in run.items():
            row: dict[str, Any] = {"peer": peer, "corpus": f"{corpus} ({name})", "bytes": len(raw)}
            if callable(function):
                row |= {
                    "pieces": function(),
                    "MB/s": len(raw) / times[peer] / 1e6,
                    "ratio": baseline / times[peer],
                }
            else:
                row |= {"skipped": function}
            rows.append(row)
    write("splitter", rows)


if __name__ == "__main__":
    main()
