"""The codes of image tokenizers as a language: their statistics beside those of English, each with a shuffled control.

Chan et al. 2024 count the codes of VQ tokenizers, row by row, as linguists count words, and find that they differ from
a natural language: flatter than Zipf's law, new codes from the first images on, hardly compressible, with grammars that
explain less. Their claims are qualitative here, because their exact numbers are not at hand. Two objections to the
paper are met: codes are read by several scans, and every stream stands beside the same tokens in a random order; those
of images also beside the codes of each place in a random order. Not measured: what codes stand for (parts of objects),
alignment of embeddings with those of words, and the shape of trees.
"""

import dataclasses
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from tokjax.core.errors import SourceError
from tokjax.core.files import read_json, write_text
from tokjax.core.registry import Paper, studies
from tokjax.core.types import Source
from tokjax.data import load_source
from tokjax.data.images import Images, load_images
from tokjax.experiment.environment import describe
from tokjax.measure.growth import vocabulary_curve
from tokjax.measure.ngrams import fit_ngram, perplexity
from tokjax.measure.pcfg import fit_pcfg, pcfg_perplexity
from tokjax.measure.scans import scan
from tokjax.measure.sequences import shuffled
from tokjax.measure.token_statistics import stats
from tokjax.studies.image_runs import Training
from tokjax.studies.result import (
    Claim,
    Outcome,
    Result,
    Rows,
    Table,
    below,
    choose_sources,
    if_held,
    listed,
    shown,
    values_by,
)
from tokjax.text import fit_tokenizer

_LEVELS = {1024: "8,5,5,5", 16384: "8,8,8,6,5"}  # of as many codes as there are, or a few less
# Name -> (the quantizer, channels of a vector) of K codes.
_QUANTIZERS: dict[str, Callable[[int], tuple[str, int]]] = {
    "vq": lambda codes: (f"vq:codes={codes}:update=ema:init=kmeans:revival=batch:dead_below=0.05", 8),
    "fsq": lambda codes: (f"fsq:levels={_LEVELS[codes]}", _LEVELS[codes].count(",") + 1),
    "lfq": lambda codes: ("lfq", codes.bit_length() - 1),
}
ENGLISH, WORDS, _BYTES = "bpe", "words", "bytes"  # K subwords; words without a limit
_WORD = re.compile(rb"\w+")
_SCANS = ("raster", "hilbert")
_KEPT, _SHUFFLED, _IN_PLACE = "kept", "shuffled", "shuffled in place"
_EARLY = 0.01  # of the stream, after which the types seen are counted
_CLOSE = 0.015  # mean deviation of leading digits above which Nigrini speaks of nonconformity
_TWO_SIDED = 1.96  # standard deviations that leave 5% outside
_SENTENCE = 16  # tokens, of a grammar's
_HELD_OUT = 0.2  # of the sentences, that an induced grammar is measured on

_STREAM = {"tokenizer": "tokenizer"}
TABLES = (
    Table("tokenizer", _STREAM, {"PSNR, dB": "psnr", "codes used": "codes_used"}),
    Table(
        "counts",
        _STREAM,
        {
            "ids": "vocab_size",
            "types": "types",
            "tokens": "tokens",
            "Zipf exponent": "zipf_exponent",
            "alpha of counts": "alpha",
            "Vuong z": "vuong_z",
            "Benford deviation": "benford_deviation",
            "entropy / log2 K": "entropy_share",
            "Huffman / log2 K": "huffman_share",
        },
    ),
    Table(
        "order",
        _STREAM | {"scan": "scan", "order": "order"},
        {
            "types seen after 1%": "early_types",
            "Heaps beta": "heaps_beta",
            "LZMA / log2 K": "lzma_share",
            "unigram perplexity": "perplexity_1",
            "bigram": "perplexity_2",
            "trigram": "perplexity_3",
            "bigram gain, bits": "bigram_gain",
        },
    ),
    Table(
        "grammar",
        _STREAM,
        {"unigram perplexity": "unigram_perplexity", "grammar": "grammar_perplexity", "gain, bits": "grammar_gain"},
    ),
)


@dataclasses.dataclass(frozen=True)
class _Scale:
    """How much of everything.

    Attributes:
      size: of images.
      widths: channels of the body at each resolution.
      codes: K, of every vocabulary but bytes.
      steps: of training.
      batch_size: images.
      images: whose codes are counted, of those that were trained on; English has as many tokens.
      sentences: that a grammar is induced from and measured on.
      symbols: nonterminals and preterminals of a grammar.
      grammar_steps: of expectation-maximisation.
    """

    size: int
    widths: tuple[int, ...]
    codes: int
    steps: int
    batch_size: int
    images: int
    sentences: int
    symbols: tuple[int, int]
    grammar_steps: int

    @property
    def tokens(self) -> int:
        """Codes of an image."""
        return (self.size // 2 ** (len(self.widths) - 1)) ** 2


_SCALES = {
    "smoke": _Scale(8, (8, 16), 1024, 10, 16, 400, 40, (2, 3), 2),
    "small": _Scale(16, (16, 32), 1024, 300, 32, 4000, 640, (4, 12), 30),
    "paper": _Scale(256, (128, 128, 256, 256, 512), 16384, 250_000, 128, 50_000, 50_000, (30, 60), 50),
}
_SOURCES: dict[str, dict[str, str | None]] = {
    "smoke": {"images": "digits", "text": "pydocs"},
    "small": {"images": "photos:?size=16", "text": "pydocs"},
    "paper": {"images": None, "text": None},
}


@studies.register(
    "visual_language",
    papers=(
        Paper(
            title="Analyzing The Language of Visual Tokens",
            authors="Chan, Corona, Park, Cho, Bai, Darrell",
            year=2024,
            url="https://arxiv.org/abs/2411.05001",
        ),
    ),
)
def visual_language(
    *, scale: str, seeds: int, directory: Path, progress: bool = True, sources: Mapping[str, str] = MappingProxyType({})
) -> Result:
    """Codes of image tokenizers against English: Zipf, Heaps, Benford, entropy, n-grams and grammars, with controls.

    Roles of `sources`: `images`, an address of `load_images`; `text`, one of `load_source`. A seed is that of a
    training and of what is drawn: the order of images, the documents.
    """
    shape = _SCALES[scale]
    addresses = choose_sources(sources, _SOURCES[scale])
    images, text = load_images(addresses["images"]), load_source(addresses["text"]).split("train")
    tokens = min(shape.images, len(images.split("train"))) * shape.tokens
    rows: list[dict[str, Any]] = []
    for name in (*_QUANTIZERS, ENGLISH, WORDS, _BYTES):
        for seed in range(seeds):
            where = directory / name / str(seed)
            done = where.with_suffix(".json")
            if not done.exists():
                if name in _QUANTIZERS:
                    found = list(_of_images(shape, images, name, seed, where, progress))
                else:
                    found = list(_of_text(shape, text, name, seed, tokens))
                write_text(done, json.dumps({"rows": found}))
            rows += [{"tokenizer": name, "seed": seed, **row} for row in read_json(done, needs=("rows",))["rows"]]
    result = Result(rows=rows, claims=claims(rows), environment={**describe(), "sources": addresses})
    result.write(directory)
    return result


def _of_images(
    shape: _Scale, images: Images, name: str, seed: int, workdir: Path, progress: bool
) -> Iterator[dict[str, Any]]:
    """Yields what there is to say of one trained tokenizer and of its codes."""
    quantizer, width = _QUANTIZERS[name](shape.codes)
    system = {
        "name": "vqgan", "size": shape.size, "channels": images[0].pixels.shape[-1],
        "body": {"widths": list(shape.widths), "blocks": 1}, "code_width": width, "quantizer": quantizer,
    }  # fmt: skip
    training = Training(
        images=images, steps=shape.steps, batch_size=shape.batch_size, directory=workdir.parent, progress=progress
    )
    model = training.train(system, workdir, rate=training.rate, seed=seed, steps=shape.steps)
    codes = model.encode(model.batches(images.split("train"), limit=shape.images))
    side = math.isqrt(shape.tokens)
    grids = np.random.default_rng(seed).permutation(codes).reshape(-1, side, side)
    found = model.evaluate(images.split("test"))
    used = len(np.unique(codes)) / model.system.vocab_size
    yield {"part": "tokenizer", "psnr": found.psnr, "codes_used": used}
    streams = {order: list(scan(grids, order)) for order in _SCANS}
    yield from _of_streams(shape, streams, model.system.vocab_size, seed)
    placed = list(shuffled_in_place(scan(grids, _SCANS[0]), seed))
    yield {"part": "order", "scan": _SCANS[0], "order": _IN_PLACE} | _order(
        stats(placed, model.system.vocab_size, seed=seed), placed
    )


def shuffled_in_place(codes: np.ndarray, seed: int) -> np.ndarray:
    """Returns codes int [N, T] with those of each place in a random order: what is left where images say nothing.

    A convolution that pads with zeros gives codes of its own to the edges, so that places alone make n-grams.
    """
    return np.random.default_rng(seed).permuted(codes, axis=0)


def _of_text(shape: _Scale, text: Source, name: str, seed: int, tokens: int) -> Iterator[dict[str, Any]]:
    """Yields what there is to say of documents that are drawn until there are so many tokens."""
    encode, vocab_size = _reader(shape, text, name)
    documents: list[np.ndarray] = []
    missing = tokens
    for place in np.random.default_rng(seed).permutation(len(text)).tolist():
        documents.append(encode(text[place])[:missing])
        missing -= len(documents[-1])
        if not missing:
            break
    if missing:
        raise SourceError(f"The text lacks {missing} of {tokens} tokens; give a longer one as --source text=ADDRESS.")
    yield from _of_streams(shape, {"text": documents}, vocab_size, seed)


def _reader(shape: _Scale, text: Source, name: str) -> tuple[Callable[[bytes], np.ndarray], int]:
    """Returns what makes ids of a document, and how many ids there are."""
    if name == WORDS:
        number: dict[bytes, int] = {}
        for document in text:
            for word in _WORD.findall(document):
                number.setdefault(word, len(number))
        return lambda document: np.array([number[word] for word in _WORD.findall(document)], np.int64), len(number)
    fitted = fit_tokenizer(name, text, vocab_size=shape.codes) if name == ENGLISH else fit_tokenizer(name, text)
    return fitted.encode, fitted.size


def _of_streams(
    shape: _Scale, streams: Mapping[str, Sequence[np.ndarray]], vocab_size: int, seed: int
) -> Iterator[dict[str, Any]]:
    """Yields the rows of the same tokens by scan, and of their shuffled control; the first scan speaks for them all."""
    first, *_ = streams
    for name, rows in streams.items():
        found = stats(rows, vocab_size, seed=seed)
        if name == first:
            yield {"part": "counts", "vocab_size": vocab_size} | _counts(found)
        yield {"part": "order", "scan": name, "order": _KEPT} | _order(found, rows)
    mixed = shuffled(streams[first], seed)
    yield {"part": "order", "scan": first, "order": _SHUFFLED} | _order(stats(mixed, vocab_size, seed=seed), mixed)
    yield {"part": "grammar", "scan": first} | _grammar(shape, streams[first], vocab_size, seed)


def _counts(found: Mapping[str, float]) -> dict[str, float]:
    """What needs no order."""
    names = ("zipf_exponent", "mandelbrot_exponent", "mandelbrot_shift", "alpha", "alpha_xmin", "vuong_z")
    kept = {name: found[name] for name in (*names, "benford_deviation", "benford_p", "yule_k", "unseen_mass")}
    shares = {f"{name}_share": found[f"{name}_bits"] / found["uniform_bits"] for name in ("entropy", "huffman")}
    return {"tokens": int(found["tokens"]), "types": int(found["types"])} | kept | shares


def _order(found: Mapping[str, float], rows: Sequence[np.ndarray]) -> dict[str, float]:
    """What a shuffle changes."""
    curve = vocabulary_curve(rows)
    kept = {n: found[n] for n in ("innovation", "heaps_beta", "perplexity_1", "perplexity_2", "perplexity_3")}
    return kept | {
        "early_types": float(curve[math.ceil(_EARLY * len(curve)) - 1] / curve[-1]),
        "lzma_share": found["lzma_bits"] / found["uniform_bits"],
        "bigram_gain": math.log2(found["perplexity_1"] / found["perplexity_2"]),
    }


def _grammar(shape: _Scale, rows: Sequence[np.ndarray], vocab_size: int, seed: int) -> dict[str, float]:
    """A grammar induced from stretches of the stream, all of one length, and what it is worth on others."""
    pieces = np.stack([row[i : i + _SENTENCE] for row in rows for i in range(0, len(row) - _SENTENCE + 1, _SENTENCE)])
    drawn = np.random.default_rng(seed).permutation(pieces)[: shape.sentences]
    cut = round((1 - _HELD_OUT) * len(drawn))
    train, test = drawn[:cut], drawn[cut:]
    grammar, _ = fit_pcfg(jax.random.key(seed), train, *shape.symbols, vocab_size, shape.grammar_steps)
    found, unigram = pcfg_perplexity(grammar, test), perplexity(fit_ngram(train, 1, vocab_size), test)
    gain = math.log2(unigram / found)
    return {"grammar_perplexity": found, "unigram_perplexity": unigram, "grammar_gain": gain}


def claims(rows: Rows) -> tuple[Claim, ...]:
    """Judges each claim by the 95% intervals over seeds; it has to hold for every tokenizer of images."""

    def of(part: str, field: str, **where: str) -> dict[str, list[float]]:
        return values_by(rows, field, by="tokenizer", part=part, **where)

    def kept(field: str) -> dict[str, list[float]]:
        """Of images row by row, and of text."""
        return of("order", field, order=_KEPT, scan="raster") | of("order", field, order=_KEPT, scan="text")

    def among_images(values: Mapping[str, list[float]], form: str = ".3f") -> str:
        return listed({name: values[name] for name in _QUANTIZERS}, form)

    def compared(
        claim: str,
        paper: str,
        values: Mapping[str, list[float]],
        *,
        above: bool,
        form: str = ".3f",
        against: str = ENGLISH,
    ) -> Claim:
        """Judges that codes of images are above, or below, English."""
        text = values[against]
        pairs = [(text, values[name]) if above else (values[name], text) for name in _QUANTIZERS]
        ours = f"{among_images(values, form)}; English {against} {shown(text, form)}"
        return Claim(claim, paper, ours, _of_all([below(lower, higher) for lower, higher in pairs]))

    english = {ENGLISH: "subwords of English", WORDS: "words of English"}
    secondary = "by a secondary source, unverified"
    gain, z, deviation = kept("bigram_gain"), of("counts", "vuong_z"), of("counts", "benford_deviation")
    control = of("order", "bigram_gain", order=_SHUFFLED)
    in_place = of("order", "bigram_gain", order=_IN_PLACE)
    hilbert = of("order", "bigram_gain", order=_KEPT, scan="hilbert")
    return (
        *(
            compared(
                f"the frequency of a code falls more slowly with its rank than that of {who}: a smaller exponent",
                "unigrams are flatter than Zipf's law",
                of("counts", "zipf_exponent"),
                above=False,
                against=name,
            )
            for name, who in english.items()
        ),
        compared(
            "the tail of the counts is steeper than that of English: a larger alpha",
            f"4.37 against 1.71 {secondary}",
            of("counts", "alpha"),
            above=True,
        ),
        Claim(
            "a lognormal is closer to the counts of codes than a power law (Vuong's z below -1.96, every seed)",
            f"a lognormal, {secondary}",
            f"{among_images(z, '.2f')}; English bpe {shown(z[ENGLISH], '.2f')}",
            if_held(all(max(z[name]) < -_TWO_SIDED for name in _QUANTIZERS)),
        ),
        *(
            compared(
                f"a larger share of the types is seen after 1% of the stream than of {who}",
                "new tokens appear much faster; most after a few images",
                kept("early_types"),
                above=True,
                against=name,
            )
            for name, who in english.items()
        ),
        compared(
            "the entropy of codes is nearer to log2 K than that of English",
            "higher entropy",
            of("counts", "entropy_share"),
            above=True,
        ),
        compared(
            "a Huffman code leaves a larger share of log2 K than of English",
            "hardly compressible",
            of("counts", "huffman_share"),
            above=True,
        ),
        compared(
            "LZMA leaves a larger share of log2 K than of English",
            "hardly compressible",
            kept("lzma_share"),
            above=True,
        ),
        Claim(
            f"leading digits of counts follow Benford's law in some tokenizer (deviation up to {_CLOSE}, every seed)",
            "in some tokenizers",
            f"{among_images(deviation, '.4f')}; English bpe {shown(deviation[ENGLISH], '.4f')}",
            if_held(any(max(deviation[name]) <= _CLOSE for name in _QUANTIZERS)),
        ),
        compared(
            "the token before tells less than in English: bits from unigram to bigram perplexity",
            "weaker structure of n-grams",
            gain,
            above=False,
        ),
        Claim(
            "it tells more than in the same codes shuffled",
            "no control",
            f"{among_images(gain)}; shuffled {among_images(control)}",
            _of_all([below(control[name], gain[name]) for name in _QUANTIZERS]),
        ),
        Claim(
            "it tells more than the place does: than in codes shuffled among images, each in its place",
            "no control",
            f"{among_images(gain)}; shuffled in place {among_images(in_place)}",
            _of_all([below(in_place[name], gain[name]) for name in _QUANTIZERS]),
        ),
        Claim(
            "bits that a bigram gains along a Hilbert curve instead of row by row",
            "row by row only",
            among_images(hilbert) + "; row by row " + among_images(gain),
            "measured",
        ),
        compared(
            "an induced grammar has a higher perplexity than that of English",
            "higher (compound grammars)",
            of("grammar", "grammar_perplexity"),
            above=True,
            form=".1f",
        ),
        Claim("trees are flatter, and codes stand for parts of objects", "yes", "no trees, no masks", "not measured"),
    )


def _of_all(outcomes: Sequence[Outcome]) -> Outcome:
    """The outcome that all share; a claim that holds for some only is not reproduced."""
    if len(set(outcomes)) == 1:
        return outcomes[0]
    return "undecided" if "undecided" in outcomes else "not reproduced"
