"""Throughput and memory of encoding and decoding files through `tokjax.text.stream`.

    python -m benchmarks.codec

Throughput is bytes of text per second from file to file. The memory row encodes a file of 1 GB (the standard
library's source, repeated) in a process of its own and gives its peak resident size, beside that of encoding 1 MB:
the difference is what the length of the file costs.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks import common
from tokjax.data import load_source
from tokjax.text import fit_tokenizer, load_tokenizer
from tokjax.text.stream import decode_stream, encode_stream

VOCABULARY = 8192
TOKENIZERS = ("bytes", "words", "bpe")
THROUGHPUT_BYTES = 32_000_000
ROUNDS = 3
SMALL, LARGE = 1_000_000, 1_000_000_000


def write_text(path: pathlib.Path, unit: bytes, size: int) -> None:
    """Writes `unit` again and again up to `size` bytes."""
    with path.open("wb") as file:
        for _ in range(size // len(unit)):
            file.write(unit)
        file.write(unit[: size % len(unit)])


def throughput(name: str, tokenizer: str, folder: pathlib.Path) -> dict[str, Any]:
    """The best MB/s of encoding and of decoding one file; fails unless the text comes back."""
    fitted = load_tokenizer(tokenizer)
    raw, ids, back = folder / "raw", folder / "ids", folder / "back"
    encode_seconds, decode_seconds = [], []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        with raw.open("rb") as reader, ids.open("wb") as writer:
            size, count = encode_stream(fitted, reader, writer)
        middle = time.perf_counter()
        with ids.open("rb") as reader, back.open("wb") as writer:
            decode_stream(fitted, reader, writer)
        encode_seconds.append(middle - start)
        decode_seconds.append(time.perf_counter() - middle)
    if raw.read_bytes() != back.read_bytes():
        raise SystemExit(f"{name}: the text did not come back")
    return {
        "tokenizer": name,
        "measure": "throughput",
        "megabytes": size / 1e6,
        "bytes_per_token": size / count,
        "encode_megabytes_per_second": size / 1e6 / min(encode_seconds),
        "decode_megabytes_per_second": size / 1e6 / min(decode_seconds),
    }


def peak_memory(tokenizer: str, path: pathlib.Path) -> dict[str, float]:
    """Encodes `path` in a new process; returns its peak resident megabytes and its seconds."""
    command = [sys.executable, "-m", "benchmarks.codec", tokenizer, str(path)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def encode_alone(tokenizer: str, path: str) -> None:
    """The child process of `peak_memory`."""
    fitted = load_tokenizer(tokenizer)
    start = time.perf_counter()
    with open(path, "rb") as reader, open(os.devnull, "wb") as writer:
        encode_stream(fitted, reader, writer)
    seconds = time.perf_counter() - start
    print(json.dumps({"megabytes": peak_resident_bytes() / 1e6, "seconds": seconds}))


def peak_resident_bytes() -> int:
    """The high-water mark of this program alone; `getrusage` would count what its parent held before it started."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def main() -> None:
    rows = []
    unit = b"\n".join(load_source("stdlib"))
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        fit_tokenizer("bpe", load_source("pydocs"), vocab_size=VOCABULARY).save(folder / "bpe")
        paths = {name: str(folder / "bpe") if name == "bpe" else name for name in TOKENIZERS}
        write_text(folder / "raw", unit, THROUGHPUT_BYTES)
        rows += [throughput(name, path, folder) for name, path in paths.items()]
        write_text(folder / "small", unit, SMALL)
        write_text(folder / "large", unit, LARGE)
        for name, path in paths.items():
            small, large = peak_memory(path, folder / "small"), peak_memory(path, folder / "large")
            rows.append(
                {
                    "tokenizer": name,
                    "measure": "memory",
                    "megabytes": LARGE / 1e6,
                    "peak_megabytes": large["megabytes"],
                    "peak_megabytes_for_1_megabyte": small["megabytes"],
                    "seconds": large["seconds"],
                }
            )
    common.write("codec", rows)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        encode_alone(*sys.argv[1:])
    else:
        main()
