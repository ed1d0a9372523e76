"""Identities of Lester et al. 2024: ratios, uniform costs and FLOPs."""

import math

import numpy as np
import pytest

from tokjax.measure.compression import compression, flops_per_byte
from tokjax.text import fit_tokenizer, load_tokenizer

DOCUMENTS = [bytes(np.random.default_rng(seed).choice(np.frombuffer(b"aab c", np.uint8), 400)) for seed in range(8)]


def test_bytes_cost_eight_bits_and_their_entropy():
    found = compression(load_tokenizer("bytes"), DOCUMENTS, DOCUMENTS)
    assert found.bytes_per_token == 1.0
    assert found.uniform_bits_per_byte == 8.0
    shares = np.bincount(np.frombuffer(b"".join(DOCUMENTS), np.uint8)) / sum(map(len, DOCUMENTS))
    entropy = -sum(p * math.log2(p) for p in shares if p)
    assert found.unigram_bits_per_byte == pytest.approx(entropy, abs=0.02)  # 4 of 3,200 counts go to unseen bytes
    assert found.unigram_gain == 8.0 - found.unigram_bits_per_byte
    assert compression(load_tokenizer("bytes"), DOCUMENTS).unigram_gain is None


def test_the_uniform_cost_of_codes_is_their_length():
    tokenizer = fit_tokenizer("equal_info", DOCUMENTS, entropy="unigram", mode="paper")
    found = compression(tokenizer, DOCUMENTS, DOCUMENTS)
    assert tokenizer.size == 1 << 16
    windows = sum(len(ids) for ids, _ in tokenizer.encode_many(DOCUMENTS))
    assert found.uniform_bits_per_byte == pytest.approx(16 * windows / sum(map(len, DOCUMENTS)), rel=1e-12)


@pytest.mark.parametrize(("bits", "ratio", "cost"), [(16, 5.31, 3.013), (8, 5.49, 1.457), (8, 2.66, 3.008)])
def test_uniform_costs_of_the_paper(bits, ratio, cost):
    assert bits / ratio == pytest.approx(cost, abs=5e-4)
    assert math.log2(32_000) / 4.28 == pytest.approx(3.497, abs=5e-4)


@pytest.mark.parametrize(
    ("parameters", "ratio", "entropy", "expected"),
    [
        (25e6, 1.0, 0.0, 50e6),
        (25e6, 4.28, 0.0, 11.69e6),
        (25e6, 2.66, 3e6, 24.80e6),
        (25e6, 5.31, 3e6, 15.42e6),
        (2e9, 5.31, 3e6, 759.3e6),
        (2e9, 2.66, 3e6, 1510e6),
        (2e9, 4.28, 0.0, 934.84e6),
    ],
)
def test_flops_per_byte_of_the_paper(parameters, ratio, entropy, expected):
    # The paper's own entries are rounded, and it counts 2B parameters as a little more than that.
    assert flops_per_byte(parameters, ratio, entropy) == pytest.approx(expected, rel=2e-3)
