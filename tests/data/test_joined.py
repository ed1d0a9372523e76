"""Short records laid end to end."""

import pytest

from tokjax.core.errors import SourceError, UnknownNameError
from tokjax.data import load_source


@pytest.fixture
def paragraphs(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(f"Paragraph {number} is short." for number in range(100)))
    return f"file:{path}?records=paragraphs"


@pytest.mark.parametrize("size", [1, 100, 10_000])
def test_nothing_is_lost_and_documents_are_as_long_as_asked(paragraphs, size):
    records, joined = list(load_source(paragraphs)), load_source(f"joined:{size}:{paragraphs}")
    documents = list(joined)
    assert b"\n\n".join(documents) == b"\n\n".join(records)
    assert all(len(document) >= min(size, joined.size) for document in documents[:-1])
    assert len(documents) == {1: 100, 100: 20, 10_000: 1}[size]


def test_mistakes_are_named(paragraphs):
    for wrong in ("joined:4096", "joined:many:pydocs", "joined:0:pydocs"):
        with pytest.raises(SourceError, match="joined:BYTES:SOURCE"):
            load_source(wrong)
    with pytest.raises(UnknownNameError):
        load_source("joined:10:pydoc")
