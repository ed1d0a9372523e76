"""Help pages: their text without what is about the page, and a clear message for what is no page."""

import pytest

from tokjax.core.errors import SourceError
from tokjax.data import load_source

PAGE = """<?xml version="1.0" encoding="utf-8"?>
<page xmlns="http://projectmallard.org/1.0/" id="a" xml:lang="de">
  <info><desc>Nicht Teil</desc><credit><name>Jemand</name></credit><title type="sort">Auch nicht</title></info>
  <title>Mit   {title}</title>
  <p>Klicken Sie auf <gui>Einstellungen</gui>,
     um &amp; weiter.</p>
  <steps><item><p>Über <key>A</key> und B.</p></item></steps>
  <tt:div xmlns:tt="http://www.w3.org/ns/ttml"><tt:p>Untertitel</tt:p></tt:div>
</page>
"""


def test_the_text_is_titles_and_paragraphs(tmp_path):
    for title in ("eins", "zwei"):
        (tmp_path / f"{title}.page").write_text(PAGE.format(title=title))
    source = load_source(f"mallard:{tmp_path}/*.page")
    body = "\nKlicken Sie auf Einstellungen, um & weiter.\nÜber A und B."
    assert [raw.decode() for raw in source] == [f"Mit eins{body}", f"Mit zwei{body}"]


@pytest.mark.parametrize("content", [b"", b"plain text", PAGE.encode()[:200], b"<page>&nbsp;</page>", b"\xff\xfe<"])
def test_what_is_no_page_is_named(tmp_path, content):
    (tmp_path / "b.page").write_bytes(content)
    with pytest.raises(SourceError, match=r"b\.page: not a Mallard page .*Name only"):
        list(load_source(f"mallard:{tmp_path}/b.page"))
