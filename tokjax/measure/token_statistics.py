"""All statistics of a token stream, of text or images, as one row of a table.

Source: Chan et al. 2024, "Analyzing the Language of Visual Tokens", with the tests it leaves out.
"""

import math

import numpy as np

from tokjax.core.errors import SourceError
from tokjax.core.spec import check
from tokjax.measure import growth, token_entropy
from tokjax.measure.benford import benford
from tokjax.measure.heavy_tails import fit_lognormal, fit_power_law, vuong
from tokjax.measure.ngrams import fit_ngram, ngram_counts, perplexity
from tokjax.measure.sequences import Tokens, held_out, sequences, shuffled, type_counts
from tokjax.measure.zipf import fit_zipf_mandelbrot, rank_counts


def stats(
    tokens: Tokens, vocab_size: int, *, orders: int = 3, shuffle: bool = False, share: float = 0.1, seed: int = 0
) -> dict[str, float]:
    """Returns the statistics of a token stream by name, plain floats.

    Args:
      tokens: int [T], int [..., T] or a list of int [T]; no n-gram crosses from one sequence to the next.
      vocab_size: V.
      orders: n of the longest n-grams.
      shuffle: measures the same tokens in a random order instead: the control, in which only what needs no order stays.
      share: of the sequences, the last, that the perplexity is of.
      seed: of the shuffle and of the halves that ranks and their counts are from.

    Returns:
      tokens, types: how many.
      alpha, alpha_error, alpha_xmin, alpha_distance: `PowerLaw` of the counts of types.
      lognormal_mu, lognormal_sigma: `Lognormal` of the same tail; vuong_z, vuong_p: z > 0 speaks for the power law.
      zipf_exponent: of ranks, without a shift; mandelbrot_exponent, mandelbrot_shift: with one.
      heaps_beta, heaps_half_width; innovation: share of new tokens in the last tenth; yule_simon.
      yule_k, simpson, unseen_mass.
      uniform_bits: log2 V, what a token costs without a model; entropy_bits, miller_madow_bits, huffman_bits,
        adaptive_bits, lzma_bits: of a token; lzma_ratio: uniform_bits over lzma_bits.
      benford_chi_squared, benford_p, benford_deviation.
      types_N, alpha_N, conditional_bits_N for each N from 2 on, and perplexity_N from 1 on: of n-grams of N tokens.
        alpha_N is nan where all of them occur equally often, as in a short stream that is shuffled.

    Raises:
      SourceError: an empty stream, one with a single type or too few tokens to measure.
      TokenizerError: ids that are not integers, negative, or not below V.
      SpecError: `orders` below 1, or a `share` that leaves nothing.
    """
    check(orders >= 1, "orders", orders, "use at least 1.")
    rows = sequences(tokens, vocab_size)
    if shuffle:
        rows = shuffled(rows, seed)
    counts = type_counts(rows)
    if len(counts) < 2:
        raise SourceError("All tokens are one type, so there is nothing to measure; check the tokenizer.")
    found: dict[str, float] = {"tokens": int(counts.sum()), "types": len(counts)}
    found |= _tail(counts) | _ranks(rows, seed) | _growth(rows, counts) | _bits(rows, counts, vocab_size)
    law = benford(counts)
    found |= {"benford_chi_squared": law.chi_squared, "benford_p": law.p_value, "benford_deviation": law.deviation}
    train, test = held_out(rows, share)
    for n in range(1, orders + 1):
        if n > 1:
            several = ngram_counts(rows, n)
            alike = several[0] == several[-1]
            found[f"types_{n}"], found[f"alpha_{n}"] = len(several), math.nan if alike else fit_power_law(several).alpha
            found[f"conditional_bits_{n}"] = token_entropy.conditional_entropy(rows, n)
        found[f"perplexity_{n}"] = perplexity(fit_ngram(train, n, vocab_size), test)
    return {name: float(value) for name, value in found.items()}


def _tail(counts: np.ndarray) -> dict[str, float]:
    power = fit_power_law(counts)
    lognormal = fit_lognormal(counts, power.xmin)
    test = vuong(power, lognormal, counts)
    return {
        "alpha": power.alpha,
        "alpha_error": power.standard_error,
        "alpha_xmin": power.xmin,
        "alpha_distance": power.distance,
        "lognormal_mu": lognormal.mu,
        "lognormal_sigma": lognormal.sigma,
        "vuong_z": test.z,
        "vuong_p": test.p_value,
    }


def _ranks(rows: list[np.ndarray], seed: int) -> dict[str, float]:
    by_rank = rank_counts(rows, seed)
    shifted = fit_zipf_mandelbrot(by_rank)
    return {
        "zipf_exponent": fit_zipf_mandelbrot(by_rank, shift=0.0).exponent,
        "mandelbrot_exponent": shifted.exponent,
        "mandelbrot_shift": shifted.shift,
    }


def _growth(rows: list[np.ndarray], counts: np.ndarray) -> dict[str, float]:
    heaps = growth.fit_heaps(rows)
    return {
        "heaps_beta": heaps.beta.mean,
        "heaps_half_width": heaps.beta.half_width,
        "innovation": growth.innovation(rows)[-1],
        "yule_simon": growth.fit_yule_simon(counts),
        "yule_k": growth.yule_k(counts),
        "simpson": growth.simpson(counts),
        "unseen_mass": growth.unseen_mass(counts),
    }


def _bits(rows: list[np.ndarray], counts: np.ndarray, vocab_size: int) -> dict[str, float]:
    total = int(counts.sum())
    uniform, lzma = math.log2(vocab_size), token_entropy.lempel_ziv_bits(rows, vocab_size) / total
    return {
        "uniform_bits": uniform,
        "entropy_bits": token_entropy.entropy(counts),
        "miller_madow_bits": token_entropy.miller_madow(counts),
        "huffman_bits": token_entropy.huffman_bits(counts),
        "adaptive_bits": token_entropy.adaptive_bits(counts, vocab_size) / total,
        "lzma_bits": lzma,
        "lzma_ratio": uniform / lzma,
    }
