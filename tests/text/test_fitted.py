"""Fitted tokenizers on disk: what was saved loads, what was damaged does not."""

import json
from typing import Any

import numpy as np
import pytest

from tokjax.core.errors import OutputError, SpecError, TokenizerError, UnknownNameError
from tokjax.text import Fitted, fit_tokenizer, load_tokenizer

RECORDS: Any = [b"the quick brown fox jumps over the lazy dog, and the dog jumps over the fox. " * 4]


@pytest.fixture
def bpe():
    return fit_tokenizer("bpe", RECORDS, vocab_size=280)


def test_the_end_of_document_follows_the_last_id(bpe):
    assert bpe.end_of_document == bpe.size == 280


def test_the_hash_covers_the_name_the_spec_and_the_tables(bpe):
    def changed(**fields):
        return Fitted(**{"name": bpe.name, "spec": bpe.spec, "tables": bpe.tables, **fields}).hash

    assert changed() == bpe.hash
    other_spec = type(bpe.spec)(vocab_size=280, digits="r2l")
    flat = bpe.tables["token_bytes"].copy()
    flat[-1] ^= 1
    reshaped = bpe.tables["merges"].reshape(-1)
    hashes = [
        bpe.hash,
        changed(name="other"),
        changed(spec=other_spec),
        changed(tables={**bpe.tables, "token_bytes": flat}),
        changed(tables={**bpe.tables, "merges": reshaped}),
    ]
    assert len(set(hashes)) == len(hashes)


def test_tables_are_read_only(bpe):
    with pytest.raises(ValueError, match="read-only"):
        bpe.tables["merges"][0, 0] = 1


def test_saving_again_replaces_and_leaves_no_temporary_files(bpe, tmp_path):
    directory = tmp_path / "new" / "tokenizer"
    fit_tokenizer("unigram", RECORDS, vocab_size=300).save(directory)
    bpe.save(directory)
    assert sorted(path.name for path in directory.iterdir()) == ["tables.npz", "tokenizer.json"]
    assert load_tokenizer(directory).hash == bpe.hash


def test_a_place_that_cannot_be_written_is_an_error(bpe, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="file"):
        bpe.save(tmp_path / "file")


@pytest.mark.parametrize("name", ["tables.npz", "tokenizer.json"])
def test_every_truncation_is_an_error(bpe, tmp_path, name):
    bpe.save(tmp_path)
    content = (tmp_path / name).read_bytes()
    for length in sorted({*range(0, len(content) - 2, max(1, len(content) // 60)), len(content) - 3}):
        (tmp_path / name).write_bytes(content[:length])
        with pytest.raises(TokenizerError, match=name.replace(".", r"\.")):
            Fitted.load(tmp_path)


def test_a_flipped_byte_never_loads_as_something_else(bpe, tmp_path):
    bpe.save(tmp_path)
    path = tmp_path / "tables.npz"
    content = path.read_bytes()
    for place in range(0, len(content), max(1, len(content) // 60)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        try:
            loaded = Fitted.load(tmp_path)
        except TokenizerError:
            continue
        assert loaded.hash == bpe.hash  # the byte was in a field of the archive that carries no content


def test_the_first_half_of_a_save_does_not_load(bpe, tmp_path):
    bpe.save(tmp_path / "whole")
    (tmp_path / "half").mkdir()
    (tmp_path / "whole" / "tables.npz").rename(tmp_path / "half" / "tables.npz")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json is absent"):
        Fitted.load(tmp_path / "half")
    with pytest.raises(TokenizerError, match=r"tables\.npz"):
        Fitted.load(tmp_path / "whole")


def test_tables_of_another_tokenizer_are_an_error(bpe, tmp_path):
    bpe.save(tmp_path)
    capitals: Any = [RECORDS[0].upper()]
    other = fit_tokenizer("bpe", capitals, vocab_size=280)
    other.save(tmp_path / "other")
    (tmp_path / "other" / "tables.npz").replace(tmp_path / "tables.npz")
    with pytest.raises(TokenizerError, match=f"{other.hash}.*{bpe.hash}|hash"):
        Fitted.load(tmp_path)


def test_pickled_tables_are_refused(bpe, tmp_path):
    bpe.save(tmp_path)
    np.savez(tmp_path / "tables.npz", token_bytes=np.array([{"a": 1}], dtype=object))
    with pytest.raises(TokenizerError, match="allow_pickle"):
        Fitted.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "bqe"}, "bpe"),
        ({"format": 2}, "format 2"),
        ({"spec": {"vocab_sise": 280}}, "vocab_size"),
        ({"spec": {"vocab_size": "280"}}, "vocab_size"),
        ({"spec": []}, "spec|fields"),
        ({"name": ["bpe"]}, "name"),
        ({"hash": "0" * 16}, "hash"),
    ],
)
def test_a_changed_description_is_an_error(bpe, tmp_path, change, message):
    bpe.save(tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises((TokenizerError, UnknownNameError), match=message):
        Fitted.load(tmp_path)


def test_a_name_that_needs_no_fitting_is_ready():
    assert load_tokenizer("bytes").encode(b"\x00\xff").tolist() == [0, 255]


def test_a_name_that_needs_fitting_says_how():
    with pytest.raises(TokenizerError, match="tokjax fit --tokenizer bpe --source pydocs --vocab 8192 --out DIR"):
        load_tokenizer("bpe")


def test_what_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(TokenizerError, match=r"nowhere.*bpe"):
        load_tokenizer(tmp_path / "nowhere")
    with pytest.raises(UnknownNameError, match="bpe"):
        fit_tokenizer("bpee", RECORDS)
    with pytest.raises(SpecError, match="vocab_size"):
        fit_tokenizer("bpe", RECORDS, vocabsize=300)
    with pytest.raises(TokenizerError, match="holds no tokenizer"):
        load_tokenizer(tmp_path)
