"""Help pages of the GNOME desktop as a source: the same manual in more than forty languages, on most Linux machines."""

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from tokjax.core.errors import SourceError
from tokjax.core.registry import sources
from tokjax.data.address import matching_files
from tokjax.data.documents import Documents, open_documents
from tokjax.data.files import read_file

_NAMESPACE = "{http://projectmallard.org/1.0/}"
_BLOCKS = {f"{_NAMESPACE}{name}" for name in ("title", "subtitle", "p", "screen", "code")}
_ABOUT = f"{_NAMESPACE}info"  # authors, links and licence of a page


class _Pages:
    """The text of one page a record, read on access."""

    def __init__(self, paths: list[Path]):
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> bytes:
        return page_text(self._paths[index])


@sources.register("mallard")
def mallard(rest: str) -> Documents:
    """Help pages in the Mallard format, as of GNOME's manuals: mallard:/usr/share/help/de/gnome-help/*.page.

    A document is the text of a page, a line for each title and paragraph. Debian has these pages in `gnome-user-docs`.

    Raises:
      SourceError: a path that cannot be used, or a file that is no such page.
    """
    return open_documents(f"mallard:{rest}", _Pages(matching_files("mallard", rest)), advice="Add pages")


def page_text(path: Path) -> bytes:
    """Returns the titles and paragraphs of a page, UTF-8, a line each.

    Raises:
      SourceError: the file cannot be read, or is not well-formed XML.
    """
    try:
        root = ElementTree.fromstring(read_file(path))
    except ElementTree.ParseError as error:
        raise SourceError(f"{path}: not a Mallard page ({error}). Name only the .page files.") from error
    return "\n".join(filter(None, _lines(root))).encode()


def _lines(element: ElementTree.Element) -> Iterator[str]:
    """Yields the text of each title and paragraph in order, white space as single spaces."""
    if element.tag in _BLOCKS:
        yield " ".join("".join(element.itertext()).split())
    elif element.tag != _ABOUT:
        for child in element:
            yield from _lines(child)
