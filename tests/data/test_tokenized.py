"""Tokenized corpora: what is stored is what encoding gives, whoever wrote it and however often it was killed."""

import functools
import itertools
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from array_record.python import array_record_module

from tokjax.core.errors import OutputError, SourceError, SpecError, TokenizerError, TokjaxError, UserError
from tokjax.data import SPLITS, load_source
from tokjax.data.documents import reopen_source
from tokjax.data.tokenized import TokenizedDocuments, layout, workers, write
from tokjax.data.tokenized.workers import ATTEMPTS, run_in_workers
from tokjax.data.tokenized.write import make_record, shard_bounds, tokenize_source, write_shard
from tokjax.data.windows import token_stream, train_batch
from tokjax.text import Fitted, fit_tokenizer, load_tokenizer

TEXTS = [f"Text {number}: the quick brown fox of {number * number}.\n".encode() * (number % 7) for number in range(150)]
TEXTS += [b"\xff\x00" * 300, "naïve 漢字".encode(), b"Text 3."]
SHARDS = 5


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A source with an empty document, bytes that are no text, and duplicates."""
    path = tmp_path_factory.mktemp("source") / "texts.array_record"
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for text in TEXTS:
        writer.write(text)
    writer.close()
    return f"array_record:{path}"


@pytest.fixture(scope="module")
def bpe(address):
    return fit_tokenizer("bpe", load_source(address), vocab_size=300)


@pytest.fixture(scope="module")
def reference(address, bpe, tmp_path_factory):
    """A finished data set, not to be changed."""
    directory = tmp_path_factory.mktemp("tokenized") / "reference"
    tokenize_source(address, bpe, directory, shards=SHARDS, workers=1)
    return directory


@pytest.fixture
def copy(reference, tmp_path):
    """A finished data set, to be changed."""
    return Path(shutil.copytree(reference, tmp_path / "copy"))


def begin(address, fitted, directory):
    """Begins a data set and returns the task that fills it."""
    documents = load_source(address)
    directory.mkdir()
    dataset = write._begin(directory, address, documents, fitted, "all", SHARDS)
    layout.write_documents(directory, documents)
    return functools.partial(write_shard, directory, dataset.identity)


def assert_same_files(first, second):
    def contents(directory):
        files = (path for path in directory.rglob("*") if path.is_file() and path.name != ".lock")
        return {str(path.relative_to(directory)): path.read_bytes() for path in files}

    assert contents(first) == contents(second)


def assert_same_stream(stored, encoded):
    for name in ("ids", "units"):
        np.testing.assert_array_equal(getattr(stored, name), getattr(encoded, name))
        assert getattr(stored, name).dtype == getattr(encoded, name).dtype
    assert stored.end_of_document == encoded.end_of_document


def test_documents_and_splits_are_those_of_the_source(address, reference):
    source, stored = load_source(address), load_source(f"tokenized:{reference}")
    assert list(stored) == list(source)
    assert (stored.fingerprint, stored.duplicates, stored.size) == (source.fingerprint, source.duplicates, source.size)
    for split in SPLITS:
        assert list(stored.split(split)) == list(source.split(split))


@pytest.mark.parametrize("split", [None, *SPLITS])
def test_stored_ids_are_what_encoding_gives(address, reference, bpe, split):
    source, stored = load_source(address), load_source(f"tokenized:{reference}")
    if split:
        source, stored = source.split(split), stored.split(split)
    encoded, read = token_stream(source, bpe), stored.token_stream(bpe)
    assert_same_stream(read, encoded)
    batches = [train_batch(stream, 3, seed=0, batch_size=2, length=16) for stream in (encoded, read)]
    np.testing.assert_array_equal(batches[0].targets, batches[1].targets)


@pytest.mark.parametrize("name", ["bytes", "words"])
def test_every_tokenizer_and_one_split(address, tmp_path, name):
    fitted = load_tokenizer(name)
    tokenize_source(address, fitted, tmp_path / "t", split="train", shards=3, workers=1)
    stored = load_source(f"tokenized:{tmp_path / 't'}")
    assert_same_stream(
        stored.split("train").token_stream(fitted), token_stream(load_source(address).split("train"), fitted)
    )
    assert list(stored) == list(load_source(address).split("train"))
    with pytest.raises(SourceError, match=r"holds only the train split .* not valid.*--split all"):
        stored.split("valid")
    with pytest.raises(SourceError, match="Did you mean 'valid'"):
        stored.split("valdi")


def test_ids_of_another_tokenizer_are_not_offered(reference, bpe):
    stored = load_source(f"tokenized:{reference}")
    assert isinstance(stored, TokenizedDocuments)
    assert stored.fitted.hash == bpe.hash
    assert stored.token_stream(load_tokenizer("bytes")) is None


@hypothesis.given(
    ids=st.lists(st.integers(0, 65_535)), size=st.sampled_from([2**16, 2**16 + 1, 2**24]),
    digest=st.binary(min_size=16, max_size=16), units=st.sampled_from([3, 300, 70_000]),
    text=st.none() | st.binary(max_size=20),
)  # fmt: skip
def test_packing_is_lossless(ids, size, digest, units, text):
    smallest = np.min_scalar_type(units)
    record = layout.Record(digest, np.asarray(ids, np.int32), np.full(len(ids), units, smallest), text)
    again = layout.unpack(layout.pack(record, size), size)
    assert (again.digest, again.text) == (digest, text)
    np.testing.assert_array_equal(again.ids, record.ids)
    np.testing.assert_array_equal(again.units, record.units)
    assert again.units.dtype == smallest


@hypothesis.given(sizes=st.lists(st.integers(0, 1000), min_size=1, max_size=40), shards=st.integers(1, 12))
def test_shards_are_consecutive_and_about_equal(sizes, shards):
    bounds = shard_bounds(np.asarray(sizes), shards)
    assert (bounds[0], bounds[-1], len(bounds)) == (0, len(sizes), shards + 1)
    assert bounds == sorted(bounds)
    for start, stop in itertools.pairwise(bounds):
        assert sum(sizes[start:stop]) <= sum(sizes) / shards + max(sizes)


class Lossy:
    """A tokenizer that may say that it loses something."""

    def __init__(self, lossless):
        self.lossless = lossless

    def size(self, tables):
        return 256

    def signature(self, tables):
        return {} if self.lossless != "here" else {"device": "cpu"}


def test_text_is_kept_where_ids_lose_it():
    lossy, lossless = (Fitted(name="lossy", spec=Lossy(value), tables={}) for value in (False, True))
    ids, units = np.array([97, 98]), np.ones(2, np.int32)
    assert make_record(lossy, b"Ab", b"", ids, units).text == b"Ab"
    assert make_record(lossless, b"ab", b"", ids, units).text is None
    assert make_record(lossless, b"abc", b"", ids, units).text == b"abc"
    only_here = Fitted(name="neural", spec=Lossy("here"), tables={})
    assert make_record(only_here, b"ab", b"", ids, units).text == b"ab"
    record = layout.Record(bytes(16), np.zeros(0, np.int32), np.zeros(0, np.uint8), b"")
    assert layout.unpack(layout.pack(record, 256), 256).text == b""


def test_ids_outside_the_vocabulary_are_an_error():
    wrong = Fitted(name="wrong", spec=Lossy(True), tables={})
    wrong.__dict__["size"] = 70
    with pytest.raises(TokenizerError, match="gave id 122 but says it has 70"):
        make_record(wrong, b"z", b"", np.array([122]), np.ones(1, np.int32))


# ---- written by many processes, any of which is killed ----


def killed_once(task, marks, number):
    """The task, in a process that is killed once at each shard: each at another point of its life."""
    mark = marks / str(number)
    if mark.exists():
        return task(number)
    mark.touch()

    def die(*_, **__):
        os.kill(os.getpid(), signal.SIGKILL)

    if number == 0:
        die()
    elif number == 1:  # in the middle of the shard
        make, calls = write.make_record, []
        write.make_record = lambda *a: die() if len(calls) > 9 else calls.append(0) or make(*a)
    elif number == 2:  # before the shard is in its place
        Path.replace = die
    elif number == 3:  # when it is, but not its index
        layout.write_index = die
    task(number)
    die()  # after the shard is finished, before it is reported


def test_killed_processes_lose_and_duplicate_nothing(address, bpe, reference, tmp_path):
    marks, directory = tmp_path / "marks", tmp_path / "t"
    marks.mkdir()
    task = begin(address, bpe, directory)
    done = []
    run_in_workers(functools.partial(killed_once, task, marks), range(SHARDS), workers=2, done=done.append)
    assert sorted(done) == list(range(SHARDS))
    assert len(list(marks.iterdir())) == SHARDS
    assert any(directory.glob(".shard-*"))  # what the killed ones left
    tokenize_source(address, bpe, directory)
    assert_same_files(directory, reference)


def always_killed(number):
    os.kill(os.getpid(), signal.SIGKILL if number else 0)


def test_a_shard_that_kills_every_process_is_given_up():
    done = []
    with pytest.raises(TokjaxError, match=f"{ATTEMPTS} processes ended at shard 1; the last was killed by signal 9"):
        run_in_workers(always_killed, [0, 1], workers=1, done=done.append)
    assert done == [0]


def refuse_interrupts(number):
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    raise SourceError("blocked" if signal.SIGINT in blocked else "not blocked")


def test_an_interrupt_is_for_the_first_process_alone():
    code = "from test_tokenized import *; run_in_workers(refuse_interrupts, [0], workers=1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent)
    assert done.stderr.endswith("SourceError: blocked\n")


def refuse(number):
    raise SourceError(f"number {number}")


def test_errors_of_a_worker_keep_their_type():
    with pytest.raises(SourceError, match="number 7"):
        run_in_workers(refuse, [7], workers=1)


def killed_at_write(task, number, writes=0):
    """The task, in a process that is killed at a file write: only so many are let through."""
    done = []
    replace = os.replace

    def replace_or_die(*arguments):
        if len(done) == writes:
            os.kill(os.getpid(), signal.SIGKILL)
        done.append(0)
        replace(*arguments)

    os.replace = replace_or_die
    task(number)


def tokenize_at(address, bpe, directory, number):
    tokenize_source(address, bpe, directory, shards=SHARDS, runner="NoRunner")


@pytest.mark.parametrize("writes", [0, 1])
def test_a_command_killed_at_its_beginning_goes_on(address, bpe, reference, tmp_path, writes):
    task = functools.partial(tokenize_at, address, bpe, tmp_path / "t")
    with pytest.raises(TokjaxError, match="killed by signal 9"):
        run_in_workers(functools.partial(killed_at_write, task, writes=writes), [0], workers=1)
    assert any((tmp_path / "t").glob(".*.json.*" if writes == 0 else "*.json"))
    tokenize_source(address, bpe, tmp_path / "t", shards=SHARDS, workers=1)
    assert_same_files(tmp_path / "t", reference)


def test_finished_shards_are_not_made_again(address, bpe, copy, reference):
    index = layout.index_path(copy, 2, SHARDS)
    index.unlink()
    before = {path.name: path.stat().st_mtime_ns for path in copy.glob("shard-*")}
    lines = []
    tokenize_source(address, bpe, copy, workers=2, say=lines.append)
    changed = {path.name for path in copy.glob("shard-*") if before.get(path.name) != path.stat().st_mtime_ns}
    assert changed == {index.name, layout.shard_path(copy, 2, SHARDS).name}
    assert lines == [f"shard 00002, {SHARDS} of {SHARDS} finished"]
    assert_same_files(copy, reference)


# ---- what does not fit, or is damaged ----


def test_a_directory_is_for_one_data_set(address, bpe, reference, tmp_path):
    for options, says in (
        ({"fitted": load_tokenizer("bytes")}, "tokenizer_hash"),
        ({"split": "train"}, "split 'all', not 'train'"),
        ({"shards": 2}, "shards 5, not 2"),
        ({"address": "stdlib"}, "fingerprint"),
    ):
        arguments = {"address": address, "fitted": bpe, **options}
        with pytest.raises(OutputError, match=says):
            tokenize_source(arguments.pop("address"), arguments.pop("fitted"), reference, **arguments)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="not empty"):
        tokenize_source(address, bpe, tmp_path)
    holder = subprocess.Popen(
        [sys.executable, "-c", "import sys; from pathlib import Path; from tokjax.core.files import only_user\n"
         "with only_user(Path(sys.argv[1])): print(flush=True); sys.stdin.read()", str(reference)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    holder.stdout.readline()
    with pytest.raises(OutputError, match="another process"):
        tokenize_source(address, bpe, reference)
    holder.communicate()


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"shards": 0}, SpecError, "--shards: got 0; use 1 to"),
        ({"shards": 1000}, SpecError, "--shards"),
        ({"workers": 0}, SpecError, "--workers"),
        ({"workers": 2, "runner": "DirectRunner"}, SpecError, "--workers"),
        ({"runner_options": ["a=b"]}, SpecError, "--beam"),
        ({"split": "tst"}, SourceError, "Did you mean 'test'"),
    ],
)
def test_impossible_options(address, bpe, tmp_path, options, error, says):
    with pytest.raises(error, match=says):
        tokenize_source(address, bpe, tmp_path / "t", **options)


def overwrite(path, change):
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)


def flip(content, place=300):  # the first document's ids
    content[place] ^= 1


SHARD, INDEX = (place(Path(), 1, SHARDS).name for place in (layout.shard_path, layout.index_path))
DAMAGES = {
    "shard missing": (lambda d: (d / SHARD).unlink(), rf"{SHARD}: missing"),
    "shard truncated": (lambda d: os.truncate(d / SHARD, 1000), rf"{SHARD}: has 1000 bytes, \d+ were written"),
    "shard changed": (lambda d: overwrite(d / SHARD, flip), rf"{SHARD}: damaged"),
    "another shard": (lambda d: shutil.copy(layout.shard_path(d, 0, SHARDS), d / SHARD), rf"{SHARD}: "),
    "index missing": (lambda d: (d / INDEX).unlink(), rf"{INDEX}: missing"),
    "index cut": (lambda d: os.truncate(d / INDEX, 100), rf"{INDEX}: cannot be read"),
    "index of another": (lambda d: foreign_index(d), rf"{INDEX}: is of another data set"),
    "tokenizer missing": (lambda d: shutil.rmtree(d / "tokenizer"), "tokenizer holds no tokenizer"),
    "another tokenizer": (lambda d: load_tokenizer("bytes").save(d / "tokenizer"), "Put that tokenizer back"),
}


def foreign_index(directory):
    dataset = layout.read_dataset(directory)
    index = layout.read_index(directory, dataset, 1)
    layout.write_index(directory, type(dataset)(**{**vars(dataset), "tokenizer_hash": "0" * 16}), 1, index)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_and_the_command_heals_it(address, bpe, copy, reference, damage):
    change, says = DAMAGES[damage]
    change(copy)
    with pytest.raises((SourceError, TokenizerError), match=says) as raised:
        load_source(f"tokenized:{copy}").token_stream(bpe)
    if "Delete it" in str(raised.value):
        Path(str(raised.value).partition(": ")[0]).unlink(missing_ok=True)
    tokenize_source(address, bpe, copy, workers=1)
    assert_same_files(copy, reference)


def test_damage_is_noticed_when_text_is_read(copy):
    overwrite(copy / SHARD, flip)
    with pytest.raises(SourceError, match=f"{SHARD}: damaged"):
        list(load_source(f"tokenized:{copy}"))


def test_no_changed_byte_passes_unnoticed(copy, bpe):
    shard, expected = copy / SHARD, load_source(f"tokenized:{copy}").token_stream(bpe)
    content, noticed = shard.read_bytes(), 0
    for place in range(0, len(content), 499):
        overwrite(shard, functools.partial(flip, place=place))
        try:
            assert_same_stream(load_source(f"tokenized:{copy}").token_stream(bpe), expected)  # it was padding
        except SourceError as error:
            noticed += SHARD in str(error)
        shard.write_bytes(content)
    assert noticed


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "cannot be read"),
        (b"[]", "cannot be read"),
        (b'{"format": 1}', "missing"),
        (b'{"format": 99}', "has format 99"),
        (None, "holds no tokenized corpus"),
    ],
)
def test_a_damaged_description(copy, content, says):
    (copy / "dataset.json").unlink() if content is None else (copy / "dataset.json").write_bytes(content)
    with pytest.raises(SourceError, match=says):
        load_source(f"tokenized:{copy}")


def test_an_unfinished_data_set_says_how_to_go_on(address, bpe, tmp_path):
    begin(address, bpe, tmp_path / "t")(0)
    with pytest.raises(SourceError, match=r"not finished.*again"):
        load_source(f"tokenized:{tmp_path / 't'}")
    with pytest.raises(SourceError, match="names no folder"):
        load_source("tokenized:")


def test_a_directory_that_was_begun_anew_refuses_the_old_workers(address, bpe, tmp_path):
    begin(address, bpe, tmp_path / "t")
    with pytest.raises(OutputError, match="another command"):
        write_shard(tmp_path / "t", "0" * 16, 0)


def test_a_source_that_changed_meanwhile_is_noticed(bpe, tmp_path):
    for number in range(9):
        (tmp_path / f"{number}.txt").write_text(f"text {number}")
    task = begin(f"file:{tmp_path}/*.txt", bpe, tmp_path / "t")
    (tmp_path / "0.txt").write_text("other")
    with pytest.raises(SourceError, match="changed"):
        task(0)


def test_reopening_reads_nothing_but_checks_what_is_read(address):
    source = load_source(address).split("test")
    known = {"indices": source.indices, "digests": source.digests, "sizes": source.sizes}
    again = reopen_source(address, **known)
    assert list(again) == list(source)
    with pytest.raises(SourceError, match="fewer records"):
        reopen_source(address, **{**known, "indices": source.indices + len(TEXTS)})
    with pytest.raises(SourceError, match="changed"):
        reopen_source(address, **{**known, "indices": source.indices[::-1]})[0]
    assert len(load_source(address)) > len(again)  # and later openings read everything again


def test_sources_made_of_others_are_reopened_as_they_were(tmp_path):
    (tmp_path / "text.txt").write_text(
        "\n\n".join(f"Paragraph {number:b}".translate({48: "o", 49: "i"}) for number in range(60))
    )
    address = f"letters:joined:100:file:{tmp_path}/text.txt?records=paragraphs"
    tokenize_source(address, load_tokenizer("bytes"), tmp_path / "t", shards=2, workers=1)
    assert list(load_source(f"tokenized:{tmp_path / 't'}")) == list(load_source(address))


def test_a_full_disk_is_an_output_error(bpe, address, tmp_path):
    resource = pytest.importorskip("resource")
    task = begin(address, bpe, tmp_path / "t")
    before, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OutputError, match=r"Cannot write .*Free space"):
            task(0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert not list((tmp_path / "t").glob("*shard*"))
    task(0)


# ---- on Apache Beam ----


def test_beam_writes_the_same_files(address, bpe, reference, tmp_path):
    pytest.importorskip("apache_beam", reason='needs pip install "tokjax[beam]"')
    tokenize_source(address, bpe, tmp_path / "t", shards=SHARDS, runner="DirectRunner", runner_options=["job_name=t"])
    assert_same_files(tmp_path / "t", reference)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"runner": "DirectRuner"}, "--runner DirectRuner"),
        ({"runner": "DirectRunner", "runner_options": ["streaming"]}, "KEY=VALUE"),
    ],
)
def test_beam_mistakes(address, bpe, tmp_path, options, says):
    pytest.importorskip("apache_beam", reason='needs pip install "tokjax[beam]"')
    with pytest.raises(SpecError, match=says):
        tokenize_source(address, bpe, tmp_path / "t", **options)


def test_beam_failures_end_with_the_reason(bpe, tmp_path):
    pytest.importorskip("apache_beam", reason='needs pip install "tokjax[beam]"')
    for number in range(9):
        (tmp_path / f"{number}.txt").write_text(f"text {number}")
    task = begin(f"file:{tmp_path}/*.txt", bpe, tmp_path / "t")
    (tmp_path / "0.txt").write_text("other")
    from tokjax.data.tokenized.beam import run_on_beam

    with pytest.raises(TokjaxError, match="changed since"):
        run_on_beam(task, range(1), runner="DirectRunner")


def test_without_beam_the_runner_says_what_to_install(address, bpe, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(UserError, match=r"tokjax\[beam\]"):
        tokenize_source(address, bpe, tmp_path / "t", runner="DirectRunner")


def test_a_worker_ends_quietly_where_nobody_reads_its_answer():
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    worker = context.Process(target=workers._serve, args=(int, theirs))
    worker.start()
    theirs.close()
    ours.send(3)
    assert ours.poll(timeout=60)  # there is an answer; closed with it unread, the pipe is reset and not at its end
    ours.close()
    worker.join(timeout=60)
    assert worker.exitcode == 0
