"""The letters of another source: what is left of English for classical cryptography, and for models of 27 symbols."""

import re

from tokjax.core.errors import SourceError
from tokjax.core.registry import sources
from tokjax.data.documents import Documents, open_documents, open_inner
from tokjax.data.mixture import unweighted

_OTHER = re.compile(rb"[^a-z]+")


class _Letters:
    """The letters of each of some documents."""

    def __init__(self, documents: Documents):
        self._documents = documents

    def __len__(self) -> int:
        return len(self._documents)

    def __getitem__(self, index: int) -> bytes:
        return fold(self._documents[index])


def fold(raw: bytes) -> bytes:
    """Returns `raw` in lower case with one space for each run of what is no letter a to z, and none at its ends."""
    return _OTHER.sub(b" ", raw.lower()).strip()


@sources.register("letters")
def letters(rest: str) -> Documents:
    """The records of another source as a to z and single spaces, like text8: letters:joined:4096:pydocs.

    Raises:
      SourceError: no other source is named, or as of that source.
    """
    if not rest:
        raise SourceError("letters: names no source. Write letters:SOURCE, as in letters:joined:4096:pydocs.")
    return open_documents(
        f"letters:{rest}", _Letters(unweighted(open_inner(rest), by="letters:")), advice="Use a longer text"
    )
