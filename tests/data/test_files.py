"""Local files: spans give back what was written; each mistake gets a message that names the file and the remedy."""

import builtins
import gzip
import json
import tracemalloc

import pytest
import zstandard
from array_record.python import array_record_module
from hypothesis import given, settings
from hypothesis import strategies as st

from tokjax.core.errors import SourceError
from tokjax.data import load_source
from tokjax.data.address import split_options
from tokjax.data.files import _paragraphs

COMPRESS = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}


def write_array_record(path, records):
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


@pytest.mark.parametrize("suffix", COMPRESS)
def test_files_are_read_whole_in_order_of_their_paths(tmp_path, suffix):
    contents = {"b/2.bin": b"\xff\x00 second", "a.txt": b"first\n", "b/c/3.txt": b"third"}
    for name, content in contents.items():
        path = tmp_path / (name + suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(COMPRESS[suffix](content))
    source = load_source(f"file:{tmp_path}/**")
    assert list(source) == [contents[name] for name in sorted(contents)]
    assert list(load_source(f"file:{tmp_path}/*")) == [b"first\n"]


@pytest.mark.parametrize("suffix", COMPRESS)
def test_paragraphs_are_split_at_blank_lines(tmp_path, suffix):
    text = b"\n\n one\ntwo\n \t\nthree\r\n\r\n\r\nfour\r\nfive"
    for name in ("a", "b"):
        (tmp_path / (name + suffix)).write_bytes(COMPRESS[suffix](text + name.encode()))
    source = load_source(f"file:{tmp_path}/*?records=paragraphs")
    assert list(source) == [b" one\ntwo", b"three", b"four\r\nfivea", b"four\r\nfiveb"]
    assert source.duplicates == 2
    assert source[3] == b"four\r\nfiveb"


@given(st.lists(st.sampled_from([b"", b" ", b"x", b"yy z"]), max_size=12))
def test_paragraphs_hold_every_line_that_is_not_blank(tmp_path_factory, lines):
    content, path = b"\n".join(lines), tmp_path_factory.mktemp("lines") / "text"
    path.write_bytes(content)
    found = [content[start:stop] for start, stop in _paragraphs(path)]
    assert [line for text in found for line in text.split(b"\n")] == [line for line in lines if line.strip()]
    assert len(found) == len([block for block in content.replace(b" \n", b"\n").split(b"\n\n") if block.strip()])


def test_a_large_file_is_read_line_by_line(tmp_path):
    path, lines = tmp_path / "x.jsonl", 6_000
    path.write_text("".join(json.dumps({"text": f"{n} " * 80}) + "\n" for n in range(lines)))
    tracemalloc.start()
    try:
        source = load_source(f"jsonl:{path}")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(source) == lines
    assert peak < path.stat().st_size / 2  # what is kept of a line is a fifth of these


@pytest.mark.parametrize("suffix", COMPRESS)
def test_jsonl_reads_the_field_of_each_line(tmp_path, suffix):
    texts = ["plain", "two\nlines", "naïve 語", "\ud800 alone"]
    lines = "\n\n".join(json.dumps({"body": text, "n": n}) for n, text in enumerate(texts))
    (tmp_path / f"x.jsonl{suffix}").write_bytes(COMPRESS[suffix](lines.encode()))
    source = load_source(f"jsonl:{tmp_path}/*?field=body")
    assert list(source) == [text.encode("utf-8", "surrogatepass") for text in texts]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.binary(min_size=1, max_size=20), max_size=5), min_size=1, max_size=3).filter(any))
def test_array_record_reads_every_record(tmp_path_factory, files):
    folder = tmp_path_factory.mktemp("records")
    for number, records in enumerate(files):
        write_array_record(folder / f"{number}.array_record", records)
    expected = list(dict.fromkeys(record for records in files for record in records))
    assert list(load_source(f"array_record:{folder}/*")) == expected


def test_one_file_advises_paragraphs(tmp_path):
    (tmp_path / "book.txt").write_bytes(b"a\n\nb\n\nc")
    source = load_source(f"file:{tmp_path}/book.txt")
    empty = next(split for split in map(source.split, ("valid", "test")) if not len(split))
    with pytest.raises(SourceError, match=r"only 1 document\..*book\.txt\?records=paragraphs'"):
        iter(empty)


def test_name_with_glob_characters_is_a_name(tmp_path):
    (tmp_path / "a[1].txt").write_bytes(b"one")
    (tmp_path / "a1.txt").write_bytes(b"other")
    assert list(load_source(f"file:{tmp_path}/a[1].txt")) == [b"one"]


def test_question_mark_without_option_is_part_of_the_pattern():
    assert split_options("file", "a?.txt", records="files") == ("a?.txt", {"records": "files"})
    assert split_options("file", "a?.txt?records=x", records="files") == ("a?.txt", {"records": "x"})


def test_file_that_disappears_is_an_error(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one")
    source = load_source(f"file:{tmp_path}/a.txt")
    (tmp_path / "a.txt").unlink()
    with pytest.raises(SourceError, match=r"a\.txt: cannot be read"):
        source[0]


MISTAKES = {
    "file:": ("names no files", {}),
    "file:{0}": ("is a folder.*/\\*\\*'", {}),
    "file:{0}/*.txt": ("matches no file", {}),
    "file:{0}/a.txt": ("nothing to read", {"a.txt": b""}),
    "file:{0}/a.txt?records=lines": ("expected 'files' or 'paragraphs'", {"a.txt": b"x"}),
    "file:{0}/a.txt?record=files": ("Did you mean 'records'", {"a.txt": b"x"}),
    "file:{0}/blank.txt?records=paragraphs": ("found no records", {"blank.txt": b"\n \n"}),
    "file:{0}/cut.gz": (r"cut\.gz: not a complete gzip", {"cut.gz": gzip.compress(b"x" * 99, mtime=0)[:-4]}),
    "file:{0}/not.gz": (r"not\.gz: not a complete gzip", {"not.gz": b"plain"}),
    "file:{0}/cut.zst": (r"cut\.zst: not a complete Zst", {"cut.zst": COMPRESS[".zst"](b"x" * 99)[:-2]}),
    "file:{0}/not.zst": (r"not\.zst: not a complete Zst", {"not.zst": b"plain"}),
    "jsonl:{0}/a": (r"a, line 3: not valid JSON", {"a": b'{"text": "x"}\n\n{"text": '}),
    "jsonl:{0}/b": (r"b, line 1: no field 'text'. Did you mean 'txt'", {"b": b'{"txt": "x"}'}),
    "jsonl:{0}/c": (r"c, line 1: expected an object", {"c": b'["text"]'}),
    "jsonl:{0}/d": (r"d, line 1: field 'text' holds int", {"d": b'{"text": 1}'}),
    "jsonl:{0}/e": (r"e, line 1: not valid JSON", {"e": b"\xff\xfe"}),
    "array_record:{0}/a": ("a: not an ArrayRecord file", {"a": bytes(100_000)}),
}


@pytest.mark.parametrize("uri", MISTAKES)
def test_mistakes_name_the_file_and_the_remedy(tmp_path, uri):
    message, files = MISTAKES[uri]
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=message):
        load_source(uri.format(tmp_path))


def test_damaged_array_record_is_an_error(tmp_path):
    path = tmp_path / "a"
    write_array_record(path, [bytes([n]) * 3000 for n in range(64)])
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(SourceError, match="not an ArrayRecord file, or damaged"):
        load_source(f"array_record:{path}")


@pytest.mark.parametrize(
    ("missing", "uri", "content"),
    [("zstandard", "file:{0}/a.zst", b"x"), ("array_record", "array_record:{0}/a.zst", b"x")],
)
def test_missing_package_says_what_to_install(tmp_path, monkeypatch, missing, uri, content):
    (tmp_path / "a.zst").write_bytes(content)
    real_import = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == missing:
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SourceError, match=r'pip install "tokjax\[data\]"'):
        load_source(uri.format(tmp_path))
