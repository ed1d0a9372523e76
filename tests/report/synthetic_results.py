"""Synthetic results in the form of `tokjax compare`, as realistic as a report needs."""

import math
import random
import re
from typing import Any

PARAGRAPH = (
    "The `asyncio` event loop runs callbacks, and each one\n"
    "\tmay <script>alert('no')</script> & schedule “others” – naïvely.\n\n"
    "def wait(timeout: float = 0.5) -> None:\n"
    '    """Blocks until *timeout* seconds have passed, or the loop is closed."""\n'
    "    if timeout < 0:\n"
    "        raise ValueError(f'negative timeout {timeout!r}')  # 日本語\n"
)

# system -> (model, vocabulary size, bits per byte, bytes per token, next-word accuracy, FLOPs per byte, parameters)
SYSTEMS: dict[str, tuple[str, int, float, float, float, float, float]] = {
    "bytes": ("lm", 257, 2.61, 1.0, 0.132, 1.9e6, 824_000),
    "bpe": ("lm", 4097, 2.24, 3.4, 0.208, 0.71e6, 1_340_000),
    "hat": ("hat", 258, 2.31, 0.84, 0.196, 0.92e6, 1_420_000),
    "digits": ("lm", 257, 2.63, 0.97, 0.128, 1.95e6, 824_000),
}


def _pieces(system: str, text: str) -> list[bytes]:
    raw = text.encode()
    if system in ("bytes", "digits"):
        return [raw[i : i + 1] for i in range(len(raw))]
    words = [m.group().encode() for m in re.finditer(r"\s?\w+|\s+|[^\w\s]", text)]
    if system == "hat":
        return [part for word in words for part in (*(word[i : i + 1] for i in range(len(word))), b"")]
    return [word[i : i + 5] for word in words for i in range(0, len(word), 5)]


def _tokens(system: str, text: str, rate: float, rng: random.Random) -> list[dict[str, Any]]:
    tokens = []
    for piece in [*_pieces(system, text), b""]:
        bits = rng.gammavariate(1.2, rate / 1.2) * max(len(piece), 0.6)
        tokens.append({"text": piece.decode("utf-8", "replace"), "hex": piece.hex(), "bits": round(bits, 4)})
    return tokens


def _row(system: str, seed: int, rng: random.Random) -> dict[str, Any]:
    model, vocab_size, bits, bytes_per_token, accuracy, flops_per_byte, params = SYSTEMS[system]
    final = bits + rng.gauss(0, 0.012)
    flops = 1e12 * (1 + rng.uniform(-0.01, 0.01))
    edges = [0, *(2**i for i in range(4, 15))]
    return {
        "system": system, "model": model, "tokenizer": "words" if system == "hat" else system,
        "vocab_size": vocab_size, "seed": seed, "bits_per_byte": final, "bytes_per_token": bytes_per_token,
        "next_word_accuracy": accuracy + rng.gauss(0, 0.004), "train_flops": flops, "flops_per_byte": flops_per_byte,
        "params": params, "seconds": 41.2 + rng.gauss(0, 2), "peak_memory_bytes": 1.1e9,
        "train_bytes": flops / 3 / flops_per_byte, "steps": 800, "length": 160, "batch_size": 32,
        "learning_rate": 0.003, "overflow": 0.0021 if system == "hat" else 0.0, "tokenizer_hash": f"{vocab_size:016x}",
        "by_position": [[edge, final * (0.93 + 0.9 * math.exp(-i / 1.6)) + rng.gauss(0, 0.01)]
                        for i, edge in enumerate(edges)],
        "curve": [[flops * i / 6, final + (6 - final) * math.exp(-3.5 * (i / 6) ** 0.6) * (1 - (i / 6) ** 3)
                   + rng.gauss(0, 0.015)] for i in range(1, 7)],
    }  # fmt: skip


def build_results(
    systems: tuple[str, ...] = ("bytes", "bpe", "hat"), *, seeds: int = 3, text: str = PARAGRAPH
) -> dict[str, Any]:
    """Returns results of `systems` with so many seeds each; the same at every call."""
    rng = random.Random(0)
    return {
        "format": 1,
        "settings": {
            "source": "pydocs", "systems": list(systems), "budget": "1e12flops", "budget_kind": "flops",
            "scale": "small", "seeds": seeds, "context_bytes": 512, "test_bytes": 200_000,
            "learning_rate_rule": "one step of sqrt(10) up and one down; best on the validation split",
        },
        "environment": {
            "tokjax": "0.1.0", "python": "3.11.7", "versions": {"jax": "0.10.2", "numpy": "2.4.6"}, "platform": "cpu",
            "device": "cpu", "devices": 1, "cpus": 2, "date": "2026-11-23",
        },
        "data": {
            "documents": 1742, "bytes": 21_345_678, "duplicates": 12, "fingerprint": "0123456789abcdef",
            "split_fingerprints": {"train": "a" * 16, "valid": "b" * 16, "test": "c" * 16},
            "test_documents": 14, "test_bytes": 198_221,
        },
        "rows": [_row(system, seed, rng) for system in systems for seed in range(seeds)],
        "sweep": [
            {"system": system, "learning_rate": 3e-3 * 10 ** (e / 2),
             "bits_per_byte": SYSTEMS[system][2] + 0.3 + 0.2 * (e - 0.2) ** 2 + rng.gauss(0, 0.01)}
            for system in systems for e in (-1, 0, 1)
        ],
        "paragraph": {
            "text": text,
            "systems": {name: _tokens(name, text, SYSTEMS[name][2], rng) for name in systems},
        },
    }  # fmt: skip
