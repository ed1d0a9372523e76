"""Documents: distinct, split by content alone, checked on every read."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokjax.core.errors import SourceError, UnknownNameError
from tokjax.core.types import Source
from tokjax.data import SPLITS, describe, load_source
from tokjax.data.documents import open_documents
from tokjax.text import fit_tokenizer

records = st.lists(st.binary(max_size=12), min_size=1, max_size=30).filter(any)


@given(records)
def test_duplicates_go_and_the_first_stays(raw):
    source = open_documents("test", raw)
    assert isinstance(source, Source)
    assert list(source) == list(dict.fromkeys(raw))
    assert source.duplicates == len(raw) - len(source)
    assert source.size == sum(map(len, source))
    assert source[-1] == source[len(source) - 1]


@pytest.mark.parametrize("tokenizer", ["characters", "bpe"])
def test_a_list_in_memory_is_a_source_that_tokenizers_fit_to(tokenizer):
    """They see the documents themselves, in order: the same tables as from the list."""
    raw = [f"Größe {number} naïve ひ".encode() for number in range(40)]
    source = open_documents("documents", raw)
    assert len(source) == len(raw) and source.fingerprint == open_documents("others", list(source)).fingerprint
    fitted = [fit_tokenizer(tokenizer, text, vocab_size=280) for text in (source, raw)]
    assert fitted[0].hash == fitted[1].hash and fitted[0].size > 256


@given(records, st.randoms())
def test_split_depends_on_content_alone(raw, random):
    shuffled = random.sample(raw, len(raw))
    for name in SPLITS:
        one, other = (open_documents("test", order).split(name) for order in (raw, shuffled))
        assert {one[i] for i in range(len(one))} == {other[i] for i in range(len(other))}


def test_split_shares_are_as_promised():
    source = open_documents("test", [str(number).encode() for number in range(20_000)])
    for name, share in SPLITS.items():
        # Five standard deviations of a binomial count; the hash is fixed, so this never flickers.
        assert abs(len(source.split(name)) - 20_000 * share) < 5 * (20_000 * share * (1 - share)) ** 0.5


@given(records, records)
def test_fingerprint_tells_sequences_apart(one, other):
    same = list(dict.fromkeys(one)) == list(dict.fromkeys(other))
    assert (open_documents("a", one).fingerprint == open_documents("b", other).fingerprint) == same


def test_fingerprint_is_sha256_of_digests():
    digests = b"".join(hashlib.blake2b(raw, digest_size=16).digest() for raw in (b"x", b"y"))
    assert open_documents("test", [b"x", b"y", b"x"]).fingerprint == hashlib.sha256(digests).hexdigest()[:16]


def test_record_that_changed_is_an_error():
    raw = [b"one", b"two"]
    source = open_documents("test", raw)
    raw[1] = b"new"
    assert source[0] == b"one"
    with pytest.raises(SourceError, match="document 1 changed"):
        source[1]


@pytest.mark.parametrize("raw", [[], [b""], [b"", b""]])
def test_nothing_to_read_is_an_error(raw):
    with pytest.raises(SourceError, match=r"test: nothing to read.*Add documents"):
        open_documents("test", raw)


def test_empty_split_raises_when_read():
    source = open_documents("test", [b"one"], advice="Add verses")
    empty = [split for split in map(source.split, SPLITS) if not len(split)]
    assert len(empty) == 2
    for split in empty:
        for read in (iter, lambda documents: documents[0]):
            with pytest.raises(SourceError, match=r"only 1 document\. Add verses"):
                read(split)


def test_unknown_split_gives_the_nearest():
    with pytest.raises(SourceError, match="Did you mean 'valid'"):
        open_documents("test", [b"one"]).split("validation")


def test_describe_adds_up():
    shown = describe(open_documents("test", [b"a", b"bb", b"a"]))
    assert (shown["name"], shown["documents"], shown["bytes"], shown["duplicates"]) == ("test", 2, 3, 1)
    assert sum(split["documents"] for split in shown["splits"].values()) == 2
    assert sum(split["bytes"] for split in shown["splits"].values()) == 3


def test_unknown_source_says_how_to_name_files(tmp_path):
    with pytest.raises(UnknownNameError, match="Did you mean 'pydocs'"):
        load_source("pydoc")
    with pytest.raises(UnknownNameError, match="write 'file:"):
        load_source(str(tmp_path))
