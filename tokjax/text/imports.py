"""Tokenizers made elsewhere: Hugging Face `tokenizer.json`, tiktoken rank files and SentencePiece models.

The tables hold the file itself, so a checkpoint needs nothing else. Each id stands for fixed bytes and decoding joins
them; whether that gives back every input is measured on import and kept in the spec as `lossless`.
"""

import base64
import binascii
import dataclasses
import json
import pathlib
import re
from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np

from tokjax.core import vocabulary
from tokjax.core.cached import cached_engine
from tokjax.core.errors import TokenizerError
from tokjax.core.types import Source, Tables, Tokenizer
from tokjax.text import pretokenize
from tokjax.text.subwords import batch_encoder, byte_symbols, rank_encoder, symbols_to_bytes

Pattern = Literal["gpt2", "cl100k", "o200k"]

_CONTRACTION = "'(?:s|t|re|ve|m|ll|d)"
_CASELESS = f"(?i:{_CONTRACTION})"
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_PREFIX = r"[^\p{L}\p{N}\r\n]?"
PATTERNS: dict[str, str] = {
    "gpt2": "|".join((_CONTRACTION, r" ?\p{L}+", r" ?\p{N}+", r" ?[^\s\p{L}\p{N}]+", r"\s+(?!\S)", r"\s+")),
    "cl100k": "|".join(
        (
            _CASELESS,
            rf"{_PREFIX}\p{{L}}+",
            r"\p{N}{1,3}",
            r" ?[^\s\p{L}\p{N}]+[\r\n]*",
            r"\s+$",
            r"\s*[\r\n]+",
            r"\s+(?!\S)",
            r"\s+",
        )
    ),
    "o200k": "|".join(
        (
            rf"{_PREFIX}{_UPPER}*{_LOWER}+{_CASELESS}?",
            rf"{_PREFIX}{_UPPER}+{_LOWER}*{_CASELESS}?",
            r"\p{N}{1,3}",
            r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
            r"\s*[\r\n]+",
            r"\s+(?!\S)",
            r"\s+",
        )
    ),
}

_REPLACEMENT = "\ufffd".encode()  # what an unknown piece decodes to
_BYTE_TOKEN = re.compile("<0x([0-9A-Fa-f]{2})>")
_WORD_MARK = "▁"  # SentencePiece's space

# Text on which a tokenizer that changes its input shows it: case, accents, spaces, controls, rare scripts.
_PROBES = (
    b"",
    b"a",
    b" a",
    b"a ",
    b"  Two  spaces\t\ttabs \r\n\n lines \n",
    "Ünïcödé e\u0301 \u212b \ufb01 \uff21 \u00bd".encode(),
    "漢字かな한글 ไทย العربية 🙂👩‍👩‍👧".encode(),
    "".join(map(chr, range(0x80))).encode(),
    "".join(map(chr, range(0x80, 0x800))).encode(),
    "▁ ## Ġ <unk> <s> [UNK] <|endoftext|> don't can't".encode(),
    bytes(range(256)),
    b"\xf0\x9f\x99 \xed\xa0\x80 \xff\xfe",
)


class Imported(Tokenizer):
    """Base of imported tokenizers: fixed bytes per id, nothing to fit."""

    def fit(self, source: Source, key: jax.Array | None = None) -> Tables:
        """Raises TokenizerError: an imported tokenizer is read from its file."""
        raise TokenizerError("An imported tokenizer is not fitted; read it with load_tokenizer(PATH).")

    def decode(self, tables: Tables, ids: np.ndarray) -> bytes:
        return vocabulary.decode(tables, ids)

    def units(self, tables: Tables, ids: np.ndarray) -> np.ndarray:
        return vocabulary.units(tables, ids)

    def size(self, tables: Tables) -> int:
        return vocabulary.size(tables)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TiktokenFile(Imported):
    """A tiktoken rank file: one base64 token and its rank on each line.

    A stretch of `pretokenize.SEGMENT` bytes with no space between two ASCII letters is cut as `encode_segments` says;
    everywhere else the ids are those of tiktoken on the whole text.

    Attributes:
      pattern: which model family's pieces the ranks were learned on.
      lossless: always, since every byte has a rank.
    """

    pattern: Pattern = "cl100k"
    lossless: bool = True  # type: ignore[misc]

    def encode(self, tables: Tables, raw: bytes) -> np.ndarray:
        engine, byte_ids = _tiktoken_engine(self, tables)
        return pretokenize.encode_segments(raw, engine, pretokenize.word_boundary, byte_ids)

    def safe_cut(self, tables: Tables, raw: bytes) -> int:
        del tables
        return pretokenize.safe_cut(raw, pretokenize.word_boundary)


@cached_engine
def _tiktoken_engine(spec: TiktokenFile, tables: Tables) -> tuple[pretokenize.EncodeBatch, list[int]]:
    ranks = {token: rank for rank, token in enumerate(vocabulary.unpack(tables)) if token}
    return rank_encoder(ranks, PATTERNS[spec.pattern]), [ranks[bytes([byte])] for byte in range(256)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class HFJson(Imported):
    """A Hugging Face tokenizer.json, whatever its model and normalizer. Special tokens are not added.

    Attributes:
      lossless: whether the probe texts came back unchanged.
    """

    lossless: bool = False  # type: ignore[misc]

    def encode(self, tables: Tables, raw: bytes) -> np.ndarray:
        engine, byte_ids = _hf_engine(None, tables)
        if byte_ids is None:
            ids = next(iter(engine([raw.decode("utf-8", "replace")])))
            return np.array(ids, np.int32)
        runs = pretokenize.valid_runs(raw)
        return pretokenize.encode_runs(runs, engine, byte_ids)

    def safe_cut(self, tables: Tables, raw: bytes) -> int:
        del tables, raw
        return 0  # its pieces may depend on any later text


@cached_engine
def _hf_engine(spec: None, tables: Tables) -> tuple[pretokenize.EncodeBatch, list[int] | None]:
    del spec
    import tokenizers as hf

    tokenizer = hf.Tokenizer.from_str(tables["content"].tobytes().decode())
    tokenizer.no_padding()
    tokenizer.no_truncation()
    byte_level = _decoder_kind(json.loads(tables["content"].tobytes())) == "ByteLevel"
    byte_ids = [index for index in map(tokenizer.token_to_id, byte_symbols()) if index is not None]
    return batch_encoder(tokenizer), byte_ids if byte_level and len(byte_ids) == 256 else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class SentencePieceModel(Imported):
    """A SentencePiece model file. Start and end pieces are not added.

    Attributes:
      lossless: whether the probe texts came back unchanged; they rarely do, for it normalizes and adds a space.
    """

    lossless: bool = False  # type: ignore[misc]

    def encode(self, tables: Tables, raw: bytes) -> np.ndarray:
        processor = _sentencepiece_engine(None, tables)
        return np.array(processor.encode(raw.decode("utf-8", "replace"), out_type=int), np.int32)

    def safe_cut(self, tables: Tables, raw: bytes) -> int:
        del tables, raw
        return 0  # normalization may depend on any later text


@cached_engine
def _sentencepiece_engine(spec: None, tables: Tables) -> Any:
    del spec
    return _sentencepiece_processor(tables["content"].tobytes())


def _sentencepiece_processor(content: bytes) -> Any:
    try:
        import sentencepiece
    except ImportError as error:
        raise TokenizerError(
            "SentencePiece models need the package sentencepiece: pip install 'tokjax[data]'"
        ) from error
    processor = sentencepiece.SentencePieceProcessor()
    processor.LoadFromSerializedProto(content)
    return processor


def read_tiktoken(content: bytes, *, pattern: Pattern) -> tuple[TiktokenFile, Tables]:
    """Reads a rank file.

    Raises:
      ValueError: a line that is not a base64 token and a rank, a rank twice, or a byte without a rank.
    """
    ranks: dict[int, bytes] = {}
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            index = int(rank)
            decoded = base64.b64decode(token, validate=True)
        except (ValueError, binascii.Error) as error:
            raise ValueError(f"line {number} is not a base64 token and a rank") from error
        if index in ranks or not decoded or not 0 <= index < 1 << 24:
            raise ValueError(f"line {number} has an empty token, or the rank {index} twice or out of range")
        ranks[index] = decoded
    missing = {bytes([byte]) for byte in range(256)} - set(ranks.values())
    if missing:
        raise ValueError(f"{len(missing)} of the 256 bytes have no rank, so not every text can be encoded")
    tokens = [ranks.get(index, b"") for index in range(max(ranks) + 1)]
    return TiktokenFile(pattern=pattern), vocabulary.pack(tokens)


def read_hf_json(content: bytes) -> tuple[HFJson, Tables]:
    """Reads a tokenizer.json and measures whether it is lossless.

    Raises:
      ValueError: content that `tokenizers` does not accept.
    """
    import tokenizers as hf

    try:
        tokenizer = hf.Tokenizer.from_str(content.decode())
    except Exception as error:  # the binding raises the bare class
        raise ValueError(str(error)) from error
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    description = json.loads(content)
    to_bytes = _token_bytes(_decoder_kind(description), description["model"])
    tokens = [b""] * (max(vocab.values()) + 1)
    for token, index in vocab.items():
        tokens[index] = token.encode() if token in added else to_bytes(token)
    tables = {**vocabulary.pack(tokens), "content": np.frombuffer(content, np.uint8).copy()}
    return HFJson(lossless=_round_trips(HFJson(), tables)), tables


def read_sentencepiece(content: bytes) -> tuple[SentencePieceModel, Tables]:
    """Reads a SentencePiece model and measures whether it is lossless.

    Raises:
      ValueError: content that `sentencepiece` does not accept.
      TokenizerError: the package is not installed.
    """
    try:
        processor = _sentencepiece_processor(content)
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    tokens = []
    for index in range(processor.get_piece_size()):
        piece = processor.id_to_piece(index)
        if processor.is_control(index) or processor.is_unused(index):
            tokens.append(b"")
        elif processor.is_unknown(index):
            tokens.append(_REPLACEMENT)
        else:
            tokens.append(_marked_bytes(piece))
    tables = {**vocabulary.pack(tokens), "content": np.frombuffer(content, np.uint8).copy()}
    return SentencePieceModel(lossless=_round_trips(SentencePieceModel(), tables)), tables


IMPORTS: dict[str, type[Imported]] = {
    "hf_json": HFJson,
    "tiktoken_file": TiktokenFile,
    "sentencepiece": SentencePieceModel,
}


def import_file(path: pathlib.Path, *, pattern: Pattern | None = None) -> tuple[str, Imported, Tables]:
    """Reads a tokenizer file by its extension: .json, .tiktoken or .model.

    Args:
      path: the file.
      pattern: for .tiktoken only; by default the one that the file's name holds.

    Returns:
      (kind, spec, tables).

    Raises:
      TokenizerError: an unknown extension, damaged content, or a rank file whose pattern is not known.
    """
    content = path.read_bytes()
    try:
        if path.suffix == ".json":
            return "hf_json", *read_hf_json(content)
        if path.suffix == ".tiktoken":
            return "tiktoken_file", *read_tiktoken(content, pattern=pattern or _pattern_in(path))
        if path.suffix == ".model":
            return "sentencepiece", *read_sentencepiece(content)
    except ValueError as error:
        raise TokenizerError(f"{path} cannot be imported: {error}.") from error
    raise TokenizerError(f"{path}: cannot tell its kind from {path.suffix!r}; use .json, .tiktoken or .model.")


def _pattern_in(path: pathlib.Path) -> Pattern:
    for name in ("gpt2", "cl100k", "o200k"):
        if name in path.name:
            return name  # type: ignore[return-value]
    raise TokenizerError(
        f"{path}: a rank file does not say how text is cut before its ranks apply; give pattern='gpt2', 'cl100k' or "
        "'o200k', or put that in the file's name, as in cl100k_base.tiktoken."
    )


def _round_trips(spec: Imported, tables: Tables) -> bool:
    return all(spec.decode(tables, spec.encode(tables, probe)) == probe for probe in _PROBES)


def _decoder_kind(description: dict[str, Any]) -> str:
    """The first decoder in a tokenizer.json that says how tokens become text."""
    decoder = description.get("decoder") or {}
    for part in [decoder, *decoder.get("decoders", [])]:
        if part.get("type") in ("ByteLevel", "Metaspace", "ByteFallback", "WordPiece"):
            return part["type"]
    return ""


def _token_bytes(decoder: str, model: dict[str, Any]) -> Callable[[str], bytes]:
    """How one token of a tokenizer.json becomes bytes."""
    if decoder == "ByteLevel":
        symbols = frozenset(byte_symbols())
        return lambda token: symbols_to_bytes(token) if symbols.issuperset(token) else token.encode()
    if decoder in ("Metaspace", "ByteFallback"):
        return _marked_bytes
    if decoder == "WordPiece":
        mark = model.get("continuing_subword_prefix", "##")
        return lambda token: token.removeprefix(mark).encode() if token.startswith(mark) else b" " + token.encode()
    return str.encode


def _marked_bytes(piece: str) -> bytes:
    match = _BYTE_TOKEN.fullmatch(piece)
    return bytes([int(match[1], 16)]) if match else piece.replace(_WORD_MARK, " ").encode()
