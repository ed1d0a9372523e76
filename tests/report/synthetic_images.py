"""Synthetic results in the form of `tokjax compare --images`, as realistic as a report needs."""

import base64
import random
from typing import Any

import numpy as np

from tokjax.data.images.pixels import encode_png

# system -> (lengths, codes to choose from, PSNR with all codes)
SYSTEMS = {
    "vqgan": ((16,), 512, 21.4),
    "vqgan/quantizer=fsq:levels=8,5,5,5/code_width=4": ((16,), 1000, 21.9),
    "titok": ((8,), 512, 18.3),
    "flextok": ((1, 2, 4, 8, 16), 1000, 20.2),
}
SIZE = 16


def picture(rng: random.Random) -> str:
    """Returns a random image as a PNG file in base 64."""
    coarse = np.random.default_rng(rng.randrange(2**32)).integers(0, 256, (4, 4, 3), np.uint8)
    return base64.b64encode(encode_png(np.kron(coarse, np.ones((4, 4, 1), np.uint8)))).decode()


def _point(system: str, tokens: int, rng: random.Random) -> dict[str, Any]:
    lengths, vocab_size, best = SYSTEMS[system]
    psnr = best - 1.4 * np.log2(lengths[-1] / tokens) + rng.gauss(0, 0.15)
    nominal = tokens * float(np.log2(vocab_size))
    return {
        "tokens": tokens, "nominal_bits": nominal, "coded_bits": 0.86 * nominal * (1 + rng.gauss(0, 0.02)),
        "psnr": psnr, "ssim": psnr / 30, "squared_error": float(4 * 10 ** (-psnr / 10)), "codes_used": 0.8,
        "perplexity": 0.6 * vocab_size, "frechet": 2e4 / psnr**3 * (1 + rng.gauss(0, 0.05)), "kernel": 0.02,
    }  # fmt: skip


def _row(system: str, seed: int, rng: random.Random) -> dict[str, Any]:
    lengths, vocab_size, _ = SYSTEMS[system]
    points = [_point(system, tokens, rng) for tokens in lengths]
    return {
        "system": system, "model": system.split("/")[0], "quantizer": "vq", "seed": seed, "images": 400,
        "vocab_size": vocab_size, "ordered": len(lengths) > 1, **points[-1], "points": points,
        "labels": {"frechet": "FD(random_pyramid)", "kernel": "KD(random_pyramid)"},
        "features": "random_pyramid 0123456789abcdef", "train_flops": 1e12 * (1 + rng.gauss(0, 0.01)),
        "flops_per_image": 2.3e7, "params": 310_000, "seconds": 60 + rng.gauss(0, 2), "peak_memory_bytes": 1.1e9,
        "train_images": 14_000, "steps": 440, "batch_size": 32, "learning_rate": 1e-3, "curve": [[1e12, 0.03]],
        "source": "photos:?size=16", "split_hash": "c" * 16,
    }  # fmt: skip


def build_results(systems: tuple[str, ...] = tuple(SYSTEMS), *, seeds: int = 3, shown: int = 4) -> dict[str, Any]:
    """Returns results of `systems` with so many seeds each; the same at every call."""
    rng = random.Random(0)
    return {
        "format": 1,
        "kind": "images",
        "settings": {
            "source": "photos:?size=16", "systems": list(systems), "budget": "1e12flops", "budget_kind": "flops",
            "scale": "small", "seeds": seeds, "test_images": 5000,
            "learning_rate_rule": "one step of sqrt(10) up and one down; best on the validation split",
        },
        "environment": {
            "tokjax": "0.1.0", "python": "3.11.7", "versions": {"jax": "0.10.2"}, "platform": "cpu", "device": "cpu",
            "devices": 1, "cpus": 2, "date": "2026-11-26",
        },
        "data": {
            "images": 9000, "duplicates": 3, "fingerprint": "0123456789abcdef", "test_images": 400, "size": SIZE,
            "channels": 3, "split_fingerprints": {"train": "a" * 16, "valid": "b" * 16, "test": "c" * 16},
        },
        "rows": [_row(system, seed, rng) for system in systems for seed in range(seeds)],
        "sweep": [
            {"system": system, "learning_rate": 1e-3 * 10 ** (e / 2), "squared_error": 0.03 + 0.004 * e * e,
             "best_at_an_end": False}
            for system in systems for e in (-1, 0, 1)
        ],
        "examples": {
            "originals": [picture(rng) for _ in range(shown)],
            "systems": {
                system: [
                    {"tokens": tokens, "nominal_bits": tokens * float(np.log2(SYSTEMS[system][1])),
                     "psnr": [20.0 + number for number in range(shown)],
                     "images": [picture(rng) for _ in range(shown)]}
                    for tokens in SYSTEMS[system][0]
                ]
                for system in systems
            },
        },
    }  # fmt: skip
