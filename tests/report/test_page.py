"""The page needs nothing but itself, escapes what it shows, and shows every token."""

import base64
import hashlib
import html.parser
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_results import PARAGRAPH, build_results

from tokjax import report
from tokjax.core.errors import OutputError, SourceError
from tokjax.report.page import page
from tokjax.report.paragraph import DARKEST, FULL_SHADE, shade, token_html

VOID = {"meta", "img", "source", "link", "br", "hr", "input"}
LOADS = ("src", "srcset", "href", "data", "poster", "action", "background")


class Reader(html.parser.HTMLParser):
    """Collects what a browser would load, run and show. Token bytes come from text, and from hexadecimal in class x."""

    def __init__(self, text):
        super().__init__()
        self.open, self.loads, self.handlers, self.tags = [], [], [], []
        self.scripts, self.sections, self.marks, self.headings = [], [], 0, []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        self.loads += [value for name, value in attributes.items() if name in LOADS]
        self.handlers += [name for name in attributes if name.startswith("on")]
        if tag not in VOID:
            self.open.append((tag, attributes.get("class", "")))
        if attributes.get("class") == "tokens":
            self.sections.append(b"")
        self.marks += attributes.get("class") == "m"

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        tag, kind = self.open[-1] if self.open else ("", "")
        if tag == "script":
            self.scripts.append(data)
        if tag in ("h1", "h3"):
            self.headings.append(data.strip())
        if ("p", "tokens") in self.open:
            self.sections[-1] += bytes.fromhex(data) if kind == "x" else data.encode()


@pytest.fixture(scope="module")
def text():
    return page(build_results())


@pytest.fixture(scope="module")
def read(text):
    return Reader(text)


def _page_without_plots(results):
    """A page in milliseconds."""
    for row in results["rows"]:
        row["curve"], row["by_position"], row["train_flops"] = [], [], None
    results["sweep"] = []
    return page(results)


def test_the_page_loads_nothing(text, read):
    assert read.loads
    assert all(load.startswith("data:image/svg+xml;base64,") for load in read.loads)
    assert not re.search(r"@import|url\(", text)
    assert not {tag for tag, _ in read.tags} & {"link", "iframe", "object", "embed", "base"}
    for load in read.loads:
        svg = base64.b64decode(load.split(",")[1]).decode()
        assert not re.search(r'href="(?!#)', svg)


def test_the_policy_allows_this_script_and_no_other(read):
    policy = next(a["content"] for tag, a in read.tags if tag == "meta" and "http-equiv" in a)
    (script,) = read.scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert read.handlers == []


def test_the_page_is_well_formed_and_accessible(text, read):
    assert read.open == []
    assert ("html", {"lang": "en"}) in read.tags
    assert re.search(r"<title>bytes, bpe, hat on pydocs: bits per byte</title>", text)
    assert any(a.get("name") == "viewport" for _, a in read.tags)
    assert all(a.get("alt") for tag, a in read.tags if tag == "img")
    assert [tag for tag, _ in read.tags].count("h1") == 1


def test_each_system_shows_the_whole_paragraph(read):
    assert read.sections == [PARAGRAPH.encode()] * 3
    assert {"bytes", "bpe", "hat"} <= set(read.headings)


def test_each_mark_is_shown(read):
    tokens = [token for tokens in build_results()["paragraph"]["systems"].values() for token in tokens]
    assert read.marks == sum(token["hex"] == "" for token in tokens) > 3


def test_the_numbers_are_on_the_page(text):
    for row in report.table.cells(build_results()).rows:
        for cell in row:
            assert f">{cell}</t" in text
    assert "0123456789abcdef" in text
    assert "hat 0.21 %" in text  # overflow is never silent


def test_text_of_every_field_is_escaped():
    evil = '"><script>alert(1)</script>&'
    results = build_results(("bytes",), text=evil)
    results["settings"]["source"] = results["environment"]["device"] = results["data"]["fingerprint"] = evil
    results["settings"]["learning_rate_rule"] = evil
    for row in results["rows"]:
        row["system"] = row["tokenizer"] = row["tokenizer_hash"] = evil
    results["paragraph"]["systems"] = {evil: results["paragraph"]["systems"]["bytes"]}
    read = Reader(_page_without_plots(results))
    assert len(read.scripts) == 1
    assert read.open == []
    assert read.handlers == []
    assert read.sections == [evil.encode()]


@given(st.lists(st.binary(max_size=6), max_size=6))
def test_tokens_of_any_bytes_are_shown_whole(pieces):
    tokens = [{"text": raw.decode("utf-8", "replace"), "hex": raw.hex(), "bits": 1.5} for raw in pieces]
    (shown,) = Reader(f'<p class="tokens">{"".join(map(token_html, tokens))}</p>').sections
    assert shown == b"".join(pieces)


@given(st.floats(0, 100), st.integers(0, 50))
def test_shade_is_linear_in_bits_per_byte_and_bounded(bits, size):
    bits_per_byte = bits / max(size, 1)
    assert shade(bits, size) == pytest.approx(DARKEST * min(bits_per_byte / FULL_SHADE, 1))


def test_tooltips_give_token_bits_and_bytes():
    assert 'title="“ the” · 6.00 bits · 4 bytes · 1.50 bits/byte"' in token_html({"text": " the", "bits": 6.0})
    assert 'title="“\\xe2” · 6.00 bits · 1 byte' in token_html({"text": "\ufffd", "hex": "e2", "bits": 6.0})
    assert 'title="end mark · 0.40 bits · 0 bytes"' in token_html({"text": "", "hex": "", "bits": 0.4})


def test_the_same_results_give_the_same_page(text):
    assert page(build_results()) == text


def test_one_seed_has_no_interval_in_the_table():
    results = build_results(seeds=1)
    assert all("±" not in cell for row in report.table.cells(results).rows for cell in row)
    assert "one seed does not tell" in _page_without_plots(results)


def test_a_page_without_a_paragraph():
    results = build_results()
    results["paragraph"] = None
    read = Reader(_page_without_plots(results))
    assert read.sections == []
    assert "readout" not in {a.get("class") for _, a in read.tags}


@pytest.mark.parametrize("missing", [None, math.nan, math.inf])
def test_numbers_that_are_missing(missing):
    results = build_results(("bytes", "bpe"))
    for row in results["rows"]:
        row["next_word_accuracy"] = row["peak_memory_bytes"] = missing
    results["rows"][0]["bits_per_byte"] = missing
    assert "bpe has the fewest" in _page_without_plots(results)


def test_write_makes_the_page_and_the_plots_and_nothing_else(tmp_path):
    results = build_results()
    path = report.write(results, tmp_path / "new")
    assert path.read_text().startswith("<!doctype html>")
    names = ["bits_per_byte_flops.png", "bits_per_byte_position.png", "report.html", "sweep.png"]
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == names


def test_write_refuses_other_results(tmp_path):
    with pytest.raises(SourceError, match="format 2"):
        report.write({**build_results(), "format": 2}, tmp_path)
    with pytest.raises(SourceError, match="no rows"):
        report.write({**build_results(), "rows": []}, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_write_says_where_it_cannot_write(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Cannot write"):
        report.write(build_results(("bytes",), seeds=1), tmp_path / "file")
