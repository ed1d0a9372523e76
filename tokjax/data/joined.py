"""Short records of another source laid end to end, for models that need long documents."""

from tokjax.core.errors import SourceError
from tokjax.core.registry import sources
from tokjax.data.documents import Documents, open_documents, open_inner
from tokjax.data.mixture import unweighted

_BETWEEN = b"\n\n"


class _Joined:
    """Runs of neighbouring documents, each run as one record."""

    def __init__(self, documents: Documents, size: int):
        self._documents = documents
        self._starts = [0]
        total = 0
        for index, bytes_ in enumerate(documents.sizes.tolist()):
            total += bytes_
            if total >= size and index + 1 < len(documents):
                self._starts.append(index + 1)
                total = 0

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> bytes:
        stop = (*self._starts, len(self._documents))[index + 1]
        return _BETWEEN.join(map(self._documents.__getitem__, range(self._starts[index], stop)))


@sources.register("joined")
def joined(rest: str) -> Documents:
    """Neighbouring records of another source as one, of about N bytes, as in joined:4096:pydocs.

    Splits are of the joined documents: a record is in one of them only, but not in the split that it is in by itself.

    Raises:
      SourceError: no such size, or as of the other source.
    """
    size, colon, address = rest.partition(":")
    if not colon or not size.isdigit() or int(size) < 1:
        raise SourceError(f"joined:{rest}: write joined:BYTES:SOURCE, as in joined:4096:pydocs.")
    inner = unweighted(open_inner(address), by="joined:")
    return open_documents(f"joined:{rest}", _Joined(inner, int(size)), advice="Use fewer bytes")
