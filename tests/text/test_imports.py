"""Imported tokenizers: the ids of the engine they come from, measured losslessness, self-contained tables."""

import base64
import io
import itertools
import json
import pydoc_data.topics
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from tokjax.core import vocabulary
from tokjax.core.errors import TokenizerError
from tokjax.text import Fitted, fit_tokenizer, load_tokenizer
from tokjax.text.imports import PATTERNS
from tokjax.text.pretokenize import SEGMENT
from tokjax.text.stream import decode_stream, encode_stream

TEXTS = [text for _, text in sorted(pydoc_data.topics.topics.items())[:24]]
few = hypothesis.settings(max_examples=60, deadline=None)
HARD = [b"", "naïve 漢字 🙂".encode(), b"\xff\x00\xfe \xed\xa0\x80", b"  a\n\n b\t", bytes(range(256))]


def rank_file(tokens):
    lines = (base64.b64encode(token) + b" " + str(rank).encode() for rank, token in enumerate(tokens))
    return b"\n".join(lines) + b"\n"


@pytest.fixture(scope="module")
def tokens():
    """The bytes in an order of their own, then learned tokens: ids below 256 are not the bytes themselves."""
    records: Any = [text.encode() for text in TEXTS]
    fitted = fit_tokenizer("bpe", records, vocab_size=600)
    learned = vocabulary.unpack(fitted.tables)
    return learned[:256][::-1] + learned[256:]


@pytest.fixture(scope="module")
def files(tokens, tmp_path_factory):
    """One file per kind of import."""
    import tokenizers as hf
    from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

    directory = tmp_path_factory.mktemp("imports")
    (directory / "cl100k_small.tiktoken").write_bytes(rank_file(tokens))

    byte_level = hf.Tokenizer(models.BPE())
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    byte_level.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=500, show_progress=False, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"]
    )
    byte_level.train_from_iterator(TEXTS, trainer)
    byte_level.save(str(directory / "byte_level.json"))
    byte_level.normalizer = normalizers.NFKC()
    byte_level.save(str(directory / "normalized.json"))

    bert = hf.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    bert.normalizer = normalizers.BertNormalizer()
    bert.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    bert.decoder = decoders.WordPiece()
    bert.train_from_iterator(
        TEXTS, trainers.WordPieceTrainer(vocab_size=400, show_progress=False, special_tokens=["[UNK]"])
    )
    bert.save(str(directory / "bert.json"))
    return directory


@pytest.fixture(scope="module")
def sentencepiece_file(tmp_path_factory):
    sentencepiece = pytest.importorskip("sentencepiece")
    model = io.BytesIO()
    lines = iter([line for text in TEXTS for line in text.splitlines() if line])
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines, model_writer=model, vocab_size=500, byte_fallback=True, minloglevel=2
    )
    path = tmp_path_factory.mktemp("sp") / "small.model"
    path.write_bytes(model.getvalue())
    return path


def check(tokenizer, raw):
    ids = tokenizer.encode(raw)
    back = tokenizer.decode(ids)
    assert ids.dtype == np.int32 and (len(ids) == 0 or 0 <= ids.min() <= ids.max() < tokenizer.size)
    assert tokenizer.units(ids).sum() == len(back)
    if tokenizer.spec.lossless:
        assert back == raw


@pytest.mark.parametrize(
    ("name", "kind", "lossless"),
    [
        ("cl100k_small.tiktoken", "tiktoken_file", True),
        ("byte_level.json", "hf_json", True),
        ("normalized.json", "hf_json", False),
        ("bert.json", "hf_json", False),
    ],
)
def test_losslessness_is_as_measured(files, name, kind, lossless, tmp_path):
    tokenizer = load_tokenizer(files / name)
    assert (tokenizer.name, tokenizer.spec.lossless) == (kind, lossless)
    for raw in (*HARD, *(text.encode() for text in TEXTS)):
        check(tokenizer, raw)
    tokenizer.save(tmp_path)
    loaded = Fitted.load(tmp_path)
    assert loaded.hash == tokenizer.hash and loaded.spec.lossless == lossless
    np.testing.assert_array_equal(loaded.encode(HARD[1]), tokenizer.encode(HARD[1]))


@few
@hypothesis.given(raw=st.one_of(st.binary(max_size=80), st.text(max_size=60).map(str.encode)))
def test_lossless_imports_return_any_bytes(files, raw):
    for name in ("cl100k_small.tiktoken", "byte_level.json"):
        check(load_once(files / name), raw)


_LOADED: dict[str, Fitted] = {}


def load_once(path):
    return _LOADED.setdefault(str(path), load_tokenizer(path) if str(path) not in _LOADED else _LOADED[str(path)])


@pytest.mark.parametrize("name", ["byte_level.json", "normalized.json", "bert.json"])
def test_hf_ids_are_those_of_tokenizers(files, name):
    import tokenizers as hf

    reference = hf.Tokenizer.from_file(str(files / name))
    tokenizer = load_tokenizer(files / name)
    for text in TEXTS:
        assert tokenizer.encode(text.encode()).tolist() == reference.encode(text, add_special_tokens=False).ids
    assert tokenizer.size == reference.get_vocab_size()


def test_byte_level_decoding_is_that_of_tokenizers(files):
    import tokenizers as hf

    reference, tokenizer = hf.Tokenizer.from_file(str(files / "byte_level.json")), load_once(files / "byte_level.json")
    ids = tokenizer.encode(TEXTS[0].encode())
    assert tokenizer.decode(ids).decode() == reference.decode(ids.tolist(), skip_special_tokens=False)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_tiktoken_ids_are_those_of_tiktoken(tokens, pattern, tmp_path):
    import tiktoken

    (tmp_path / "ranks.tiktoken").write_bytes(rank_file(tokens))
    ranks = {token: rank for rank, token in enumerate(tokens)}
    reference = tiktoken.Encoding("x", pat_str=PATTERNS[pattern], mergeable_ranks=ranks, special_tokens={})
    tokenizer = load_tokenizer(tmp_path / "ranks.tiktoken", pattern=pattern)
    text = "".join(TEXTS)
    assert len(text) > SEGMENT  # so that segments are joined
    assert tokenizer.encode(text.encode()).tolist() == reference.encode_ordinary(text)


@few
@hypothesis.given(
    text=st.one_of(st.text(max_size=40), st.text("aZ'sTrR \t\n\r09.!/漢éǅ\u0301\u3000", max_size=40)),
    pattern=st.sampled_from(sorted(PATTERNS)),
)
def test_patterns_cut_as_the_published_ones(text, pattern):
    from tiktoken_ext import openai_public

    name = {"gpt2": "r50k_base", "cl100k": "cl100k_base", "o200k": "o200k_base"}[pattern]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openai_public, "load_tiktoken_bpe", lambda *_, **__: {})
        published = getattr(openai_public, name)()["pat_str"]
    assert cuts(PATTERNS[pattern], text) == cuts(published, text)


def cuts(pattern, text):
    """Where tiktoken cuts `text`: with every piece of it in the vocabulary, each is one token."""
    import tiktoken

    data = text.encode()
    pieces = {data[i:j] for i, j in itertools.combinations(range(len(data) + 1), 2)}
    singles = [bytes([byte]) for byte in range(256)]
    ranks = {token: rank for rank, token in enumerate([*singles, *sorted(pieces - set(singles))])}
    encoding = tiktoken.Encoding("x", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    return [encoding.decode_single_token_bytes(token) for token in encoding.encode_ordinary(text)]


@pytest.mark.parametrize("name", ["cl100k_small.tiktoken", "byte_level.json", "bert.json"])
@pytest.mark.parametrize("block", [100, 100_000])
def test_streams_give_the_ids_of_the_whole(files, name, block):
    tokenizer = load_once(files / name)
    raw = "".join(TEXTS).encode() + b"don't  \n 12 \xff" + "漢".encode() * SEGMENT + b" the end "
    writer, back = io.BytesIO(), io.BytesIO()
    encode_stream(tokenizer, io.BytesIO(raw), writer, block=block)
    np.testing.assert_array_equal(np.frombuffer(writer.getvalue(), "<u2"), tokenizer.encode(raw))
    writer.seek(0)
    decode_stream(tokenizer, writer, back)
    assert back.getvalue() == tokenizer.decode(tokenizer.encode(raw))


def test_sentencepiece_ids_are_those_of_the_model(sentencepiece_file, tmp_path):
    import sentencepiece

    reference = sentencepiece.SentencePieceProcessor(model_file=str(sentencepiece_file))
    tokenizer = load_tokenizer(sentencepiece_file)
    assert tokenizer.name == "sentencepiece" and not tokenizer.spec.lossless
    for text in TEXTS:
        ids = tokenizer.encode(text.encode())
        assert ids.tolist() == reference.encode(text)
        assert tokenizer.decode(ids).decode().removeprefix(" ") == reference.decode(ids.tolist())
    for raw in HARD:
        check(tokenizer, raw)
    tokenizer.save(tmp_path)
    assert Fitted.load(tmp_path).hash == tokenizer.hash


def test_special_tokens_decode_to_their_text(files):
    tokenizer = load_once(files / "byte_level.json")
    raw = b"one<|endoftext|>two"
    assert len(tokenizer.encode(b"<|endoftext|>")) == 1 and tokenizer.decode(tokenizer.encode(raw)) == raw


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.json", b"{}", "x.json"),
        ("x.json", b"\xff", "x.json"),
        ("x.json", json.dumps({"model": {"type": "BPE"}}).encode(), "x.json"),
        ("gpt2.tiktoken", b"", "256 of the 256 bytes"),
        ("gpt2.tiktoken", b"IQ== 0\nnot a rank\n", "line 2"),
        ("gpt2.tiktoken", b"IQ== 0\nIg== 0\n", "rank 0 twice"),
        ("gpt2.tiktoken", b"IQ== 0\n@@@ 1\n", "line 2"),
        ("x.tiktoken", b"IQ== 0\n", "gpt2"),
        ("x.model", b"garbage", "x.model"),
        ("x.txt", b"", "'.txt'"),
    ],
)
def test_damaged_and_unknown_files_are_errors(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(tmp_path / name)


def test_an_import_cannot_be_fitted(files):
    with pytest.raises(TokenizerError, match="load_tokenizer"):
        load_once(files / "bert.json").spec.fit([])
