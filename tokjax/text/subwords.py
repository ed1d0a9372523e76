"""Subword vocabularies learned from a source: byte-pair encoding, unigram and WordPiece, all lossless over bytes.

`tokenizers` trains them over byte-level symbols, with the pieces of `pretokenize`. Ids 0 to 255 are the bytes
themselves in all three. Letters: `T` tokens, `V` vocabulary.
"""

import abc
import bisect
import collections
import dataclasses
import itertools
import json
import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import numpy as np

from tokjax.core import vocabulary
from tokjax.core.cached import cached_engine
from tokjax.core.errors import SourceError
from tokjax.core.registry import Paper, tokenizers
from tokjax.core.spec import check
from tokjax.core.types import Source, Tables, Tokenizer
from tokjax.text import pretokenize

if TYPE_CHECKING:
    import tokenizers as hf

log = logging.getLogger(__name__)

CONTINUING = "…"  # marks a WordPiece token that continues a piece; unlike BERT's "##", it is no byte's symbol
UNSEEN_SPREAD = 256 * 1e-4  # the trainer spaces the scores of symbols it never used by 1e-4, in no fixed order
SCORE_GRID = 128  # steps per nat; coarser than the noise of the trainer's unordered float sums


def byte_symbols() -> list[str]:
    """The printable character that stands for each byte, as `tokenizers` maps them: itself where it has one."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]


def symbols_to_bytes(symbols: str) -> bytes:
    """The bytes that a byte-level token's symbols stand for."""
    return bytes(_BYTE_OF[symbol] for symbol in symbols)


_SYMBOLS = byte_symbols()
_BYTE_OF = {symbol: byte for byte, symbol in enumerate(_SYMBOLS)}


def to_symbols(token: bytes) -> str:
    """The inverse of `symbols_to_bytes`."""
    return "".join(_SYMBOLS[byte] for byte in token)


def byte_level(model: Any, digits: pretokenize.Digits) -> "hf.Tokenizer":
    """Returns a `tokenizers.Tokenizer` that gives `model` the pieces of `pretokenize` as byte symbols."""
    import tokenizers as hf
    from tokenizers import pre_tokenizers

    tokenizer = hf.Tokenizer(model)
    split = pre_tokenizers.Split(hf.Regex(pretokenize.piece_pattern(digits)), "isolated")
    to_byte_symbols = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, to_byte_symbols])
    return tokenizer


def frequent_pieces(texts: Sequence[str], pattern: str, distinct_bytes: int) -> Iterator[str]:
    """Returns the pieces of `texts`, repeats included, with at most `distinct_bytes` of distinct ones.

    Where there are more, the most frequent pieces stay; of those equally frequent, the first seen.
    """
    import regex

    matches = regex.compile(pattern).findall
    counts = collections.Counter(piece for text in texts for piece in matches(text))
    sizes = itertools.accumulate(len(piece.encode()) for piece, _ in counts.most_common())
    kept = bisect.bisect_right(list(sizes), distinct_bytes)
    if kept < len(counts):
        cut = (kept, len(counts), distinct_bytes)
        log.warning("training reads the %d most frequent of %d distinct pieces (distinct_bytes=%d)", *cut)
    return (piece for piece, count in counts.most_common(kept) for _ in range(count))


def batch_encoder(tokenizer: "hf.Tokenizer") -> pretokenize.EncodeBatch:
    """Returns the function texts -> ids of each, computed in parallel."""

    def encode_batch(texts: list[str]) -> Iterator[list[int]]:
        return (encoding.ids for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False))

    return encode_batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subwords(Tokenizer):
    """A subword vocabulary of at most `vocab_size` tokens.

    Attributes:
      vocab_size: how many ids to learn, bytes included. A corpus too small for it gives fewer, with a warning.
      digits: how runs of digits are cut before the vocabulary sees them: not at all, one by one, or in threes from
        the left or the right.
    """

    vocab_size: int = 8192
    digits: pretokenize.Digits = "none"

    smallest: ClassVar[int] = 257

    def __post_init__(self):
        check(
            self.vocab_size >= self.smallest,
            "vocab_size",
            self.vocab_size,
            f"use at least {self.smallest}: the bytes come first.",
        )
        check(self.digits in pretokenize.DIGITS, "digits", self.digits, f"use one of {pretokenize.DIGITS}.")

    def fit(self, source: Source, key: jax.Array | None = None) -> Tables:
        """Learns the vocabulary from every record. `key` is not used.

        Raises:
          SourceError: `source` has no valid text.
        """
        del key
        texts = pretokenize.training_texts(source)
        first = next(texts, None)
        if first is None:
            raise SourceError("The source holds no text to learn subwords from; give one with at least one record.")
        tables = self._train([first, *texts])
        for array in tables.values():
            array.setflags(write=False)
        if self.size(tables) < self.vocab_size:
            log.warning("the corpus supports %d ids of the %d asked for", self.size(tables), self.vocab_size)
        return tables

    @abc.abstractmethod
    def _train(self, texts: list[str]) -> Tables:
        """Returns the tables learned from `texts`."""

    @abc.abstractmethod
    def _encoder(self, tables: Tables) -> pretokenize.EncodeBatch:
        """Returns the engine for `tables`."""

    def encode(self, tables: Tables, raw: bytes) -> np.ndarray:
        return pretokenize.encode_segments(raw, _engine(self, tables))

    def decode(self, tables: Tables, ids: np.ndarray) -> bytes:
        return vocabulary.decode(tables, ids)

    def units(self, tables: Tables, ids: np.ndarray) -> np.ndarray:
        return vocabulary.units(tables, ids)

    def size(self, tables: Tables) -> int:
        return vocabulary.size(tables)

    def safe_cut(self, tables: Tables, raw: bytes) -> int:
        del tables
        return pretokenize.safe_cut(raw)


@cached_engine
def _engine(spec: Subwords, tables: Tables) -> pretokenize.EncodeBatch:
    return spec._encoder(tables)


@tokenizers.register(
    "bpe",
    papers=(
        Paper(
            title="Neural Machine Translation of Rare Words with Subword Units",
            authors="Sennrich, Haddow, Birch",
            year=2016,
            url="https://arxiv.org/abs/1508.07909",
        ),
        Paper(
            title="Language Models are Unsupervised Multitask Learners",
            authors="Radford, Wu, Child, Luan, Amodei, Sutskever",
            year=2019,
            url="https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf",
        ),
    ),
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class BPE(Subwords):
    """Byte-pair encoding: merges the most frequent pair until the vocabulary is full.

    Encoding is by rank, as in `tiktoken`: a piece that is a token is that token; otherwise the adjacent pair whose
    bytes form the token of lowest id merges first. This is the learned merge list wherever every token has one
    derivation. Where one has two (its bytes also join from another pair), only the rank rule is defined by the
    bytes alone, and it is the one that counts here.

    Tables: the vocabulary, and `merges` int32 [M, 2], the pairs of ids in the order learned.
    """

    def _train(self, texts: list[str]) -> Tables:
        from tokenizers import models, trainers

        tokenizer = byte_level(models.BPE(), self.digits)
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size, min_frequency=2, show_progress=False, initial_alphabet=sorted(_SYMBOLS)
        )
        tokenizer.train_from_iterator(texts, trainer)
        learned = json.loads(tokenizer.to_str())["model"]
        ordered = [symbols_to_bytes(token) for token in sorted(learned["vocab"], key=learned["vocab"].__getitem__)]
        tokens = sorted(ordered[:256]) + ordered[256:]
        ids = {token: index for index, token in enumerate(tokens)}
        merges = [[ids[symbols_to_bytes(part)] for part in pair] for pair in learned["merges"]]
        return {**vocabulary.pack(tokens), "merges": np.array(merges, np.int32).reshape(-1, 2)}

    def _encoder(self, tables: Tables) -> pretokenize.EncodeBatch:
        ranks = {token: rank for rank, token in enumerate(vocabulary.unpack(tables))}
        return rank_encoder(ranks, pretokenize.piece_pattern(self.digits))


def rank_encoder(ranks: dict[bytes, int], pattern: str) -> pretokenize.EncodeBatch:
    """Returns the `tiktoken` engine that merges by `ranks` inside the matches of `pattern`."""
    import tiktoken

    encoding = tiktoken.Encoding("tokjax", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    return lambda texts: map(encoding.encode_ordinary, texts)


@tokenizers.register(
    "unigram",
    papers=(
        Paper(
            title="Subword Regularization: Improving Neural Network Translation Models with Multiple Subword "
            "Candidates",
            authors="Kudo",
            year=2018,
            url="https://arxiv.org/abs/1804.10959",
        ),
    ),
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class Unigram(Subwords):
    """Unigram language model: the most likely segmentation under token probabilities fitted by EM.

    Attributes:
      distinct_bytes: how many bytes of distinct pieces training reads. Its time grows faster than they do: where a
        corpus has more, it reads the most frequent pieces, with a warning.

    Tables: the vocabulary, and `scores` float64 [V], log probabilities in nats, on a grid of 1/128 so that fitting
    twice gives the same bits.
    """

    distinct_bytes: int = 2 << 20

    def __post_init__(self):
        super().__post_init__()
        check(self.distinct_bytes > 0, "distinct_bytes", self.distinct_bytes, "use a positive number of bytes.")

    def _train(self, texts: list[str]) -> Tables:
        from tokenizers import models, trainers

        pieces = frequent_pieces(texts, pretokenize.piece_pattern(self.digits), self.distinct_bytes)
        tokenizer = byte_level(models.Unigram(), self.digits)
        trainer = trainers.UnigramTrainer(
            vocab_size=self.vocab_size, show_progress=False, initial_alphabet=sorted(_SYMBOLS)
        )
        tokenizer.train_from_iterator(pieces, trainer)
        learned = json.loads(tokenizer.to_str())["model"]["vocab"]
        scores = {symbols_to_bytes(token): score for token, score in learned}
        lowest = min(scores.values())
        for token, score in scores.items():
            unseen = len(token) == 1 and score < lowest + UNSEEN_SPREAD
            scores[token] = round((lowest if unseen else score) * SCORE_GRID) / SCORE_GRID
        tokens = sorted(scores, key=lambda token: (len(token) > 1, len(token) > 1 and -scores[token], token))
        return {**vocabulary.pack(tokens), "scores": np.array([scores[token] for token in tokens], np.float64)}

    def _encoder(self, tables: Tables) -> pretokenize.EncodeBatch:
        from tokenizers import models

        symbols = map(to_symbols, vocabulary.unpack(tables))
        model = models.Unigram(list(zip(symbols, tables["scores"].tolist(), strict=True)))
        return batch_encoder(byte_level(model, self.digits))


@tokenizers.register(
    "wordpiece",
    papers=(
        Paper(
            title="Google's Neural Machine Translation System: Bridging the Gap between Human and Machine Translation",
            authors="Wu, Schuster, Chen, Le, Norouzi, et al.",
            year=2016,
            url="https://arxiv.org/abs/1609.08144",
        ),
    ),
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class WordPiece(Subwords):
    """WordPiece: the longest token first, with separate tokens at the start of a piece and inside it.

    Every byte is both a starting and a continuing token, so nothing is unknown. The vocabulary is learned by pair
    frequency, as `tokenizers` and BERT's released vocabularies do; the paper ranks pairs by likelihood gain.

    Tables: the vocabulary, and `continuing` bool [V].
    """

    smallest: ClassVar[int] = 512

    def _train(self, texts: list[str]) -> Tables:
        from tokenizers import models, trainers

        tokenizer = byte_level(models.BPE(), self.digits)
        inside = [CONTINUING + symbol for symbol in _SYMBOLS]
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size,
            min_frequency=2,
            show_progress=False,
            special_tokens=inside,  # given in full and first, so that their ids do not depend on the order of words
            initial_alphabet=sorted(_SYMBOLS),
            continuing_subword_prefix=CONTINUING,
        )
        tokenizer.train_from_iterator(texts, trainer)
        vocab = tokenizer.get_vocab()
        learned = [token for token in sorted(vocab, key=vocab.__getitem__) if vocab[token] >= 512]
        tokens = [*_SYMBOLS, *inside, *learned]
        packed = vocabulary.pack([symbols_to_bytes(token.removeprefix(CONTINUING)) for token in tokens])
        return {**packed, "continuing": np.array([token.startswith(CONTINUING) for token in tokens])}

    def _encoder(self, tables: Tables) -> pretokenize.EncodeBatch:
        from tokenizers import models

        tokens = zip(vocabulary.unpack(tables), tables["continuing"].tolist(), strict=True)
        ids = {CONTINUING * inner + to_symbols(token): index for index, (token, inner) in enumerate(tokens)}
        longest = 4 * pretokenize.PIECE
        model = models.WordPiece(ids, max_input_chars_per_word=longest, continuing_subword_prefix=CONTINUING)
        return batch_encoder(byte_level(model, self.digits))
