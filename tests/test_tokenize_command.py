"""`tokjax tokenize` as a user meets it: real processes, real kills, and a run that trains on what it wrote."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tokjax.core.errors import CheckpointError, SpecError
from tokjax.data import load_source
from tokjax.data.windows import token_stream
from tokjax.experiment.config import load_config, override
from tokjax.experiment.run import prepare_tokenizer, training_stream
from tokjax.text import load_tokenizer

SHARDS = 12


def start(*arguments, **options):
    command = [sys.executable, "-m", "tokjax", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, **options)


def tokjax(*arguments, code=0):
    process = start(*arguments)
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, err.decode()
    return (out + err).decode()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Enough text that each shard takes a moment."""
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(1, 9))) for _ in range(3000)]
    with path.open("w") as file:
        for _ in range(600):
            print(json.dumps({"text": " ".join(draw.choices(words, k=draw.randint(1, 1000)))}), file=file)
    return f"jsonl:{path}"


@pytest.fixture(scope="module")
def bpe(source, tmp_path_factory):
    path = tmp_path_factory.mktemp("bpe") / "bpe"
    tokjax("fit", "--tokenizer", "bpe", "--source", source, "--vocab", 300, "--split", "test", "--out", path)
    return path


@pytest.fixture(scope="module")
def command(source, bpe):
    return ("tokenize", "--source", source, "--tokenizer", bpe, "--shards", SHARDS, "--workers", 2, "--out")


@pytest.fixture(scope="module")
def reference(command, tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenized") / "reference"
    assert "600 documents" in tokjax(*command, path)
    return path


def contents(directory):
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def finished(directory):
    return {path.name: path.stat().st_mtime_ns for path in directory.glob("shard-*.npz")}


def wait_until(condition, timeout=60):
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.002)


def workers_of(pid):
    """The worker processes of a command that is running."""
    found = []
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            status = Path(f"/proc/{process}/status").read_text()
            line = Path(f"/proc/{process}/cmdline").read_text()
        except OSError:
            continue
        if f"PPid:\t{pid}\n" in status and "spawn_main" in line:
            found.append(int(process))
    return found


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


linux = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="finds the workers in /proc")


@linux
def test_killed_workers_lose_and_duplicate_nothing(command, reference, tmp_path):
    directory = tmp_path / "t"
    killed: list[int] = []
    process = start(*command, directory)
    while process.poll() is None:
        being_written = list(directory.glob(".shard-*"))
        if being_written and len(killed) < 3:
            for worker in workers_of(process.pid)[:1]:
                os.kill(worker, signal.SIGKILL)
                killed.append(worker)
            wait_until(lambda: not alive(killed[-1]))
        time.sleep(0.002)
    assert process.returncode == 0, process.stderr.read().decode()
    assert killed
    assert contents(directory) == contents(reference)


@linux
@pytest.mark.parametrize("way", ["killed", "interrupted"])
def test_a_stopped_command_goes_on(command, reference, tmp_path, way):
    directory = tmp_path / "t"
    process = start(*command, directory)
    wait_until(lambda: len(finished(directory)) >= 2)
    workers = workers_of(process.pid)
    if way == "killed":
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, err = process.communicate(timeout=60)
    assert process.returncode == (-signal.SIGKILL if way == "killed" else 130)
    assert b"Traceback" not in err
    if way == "interrupted":
        assert b"the same command goes on" in err
    wait_until(lambda: not any(map(alive, workers)), timeout=20)
    before = finished(directory)
    assert 2 <= len(before) < SHARDS
    tokjax(*command, directory)
    assert contents(directory) == contents(reference)
    assert before.items() <= finished(directory).items()


def test_what_does_not_fit_is_one_line(command, reference, source, bpe, tmp_path):
    shown = tokjax(*command[:5], "--shards", 3, "--out", reference, code=2)
    assert f"shards {SHARDS}, not 3" in shown and len(shown.splitlines()) == 1
    shown = tokjax("tokenize", "--source", source, "--tokenizer", "bpe", "--out", tmp_path / "t", code=2)
    assert "tokjax fit" in shown


def test_training_text_is_never_encoded_again(reference, source, bpe):
    fitted, train = load_tokenizer(bpe), load_source(f"tokenized:{reference}").split("train")
    expected = token_stream(load_source(source).split("train"), fitted)

    class NoEncoder:
        hash, end_of_document, size = fitted.hash, fitted.end_of_document, fitted.size

    stream = training_stream(train, NoEncoder())
    np.testing.assert_array_equal(stream.ids, expected.ids)
    np.testing.assert_array_equal(stream.units, expected.units)
    other = load_tokenizer("bytes")
    np.testing.assert_array_equal(training_stream(train, other).ids, token_stream(train, other).ids)


def test_a_run_without_tokenizer_takes_the_one_of_its_source(reference, source, bpe, tmp_path):
    stored = load_source(f"tokenized:{reference}")
    for _ in range(2):  # begun, and gone on with
        assert prepare_tokenizer({}, stored, tmp_path / "w").hash == load_tokenizer(bpe).hash
    with pytest.raises(SpecError, match=r"tokenizer\.name: missing"):
        prepare_tokenizer({}, load_source(source), tmp_path / "other")
    load_tokenizer("bytes").save(tmp_path / "bytes" / "tokenizer")
    with pytest.raises(CheckpointError, match="another tokenizer than the source"):
        prepare_tokenizer({}, stored, tmp_path / "bytes")


def test_recipes_may_leave_the_tokenizer_out(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from tokjax.experiment.config import load_config\n"
        "def get_config(variant):\n    config = load_config('lm:' + variant).unlock()\n"
        "    del config.tokenizer\n    return config\n"
    )
    assert "tokenizer" not in load_config(f"{path}:smoke")
    assert override(load_config("lm:smoke"), ["tokenizer={}", "system.name=hat"]).tokenizer.to_dict() == {}


@pytest.mark.slow
def test_a_run_on_stored_ids_is_the_run_on_the_text(reference, source, tmp_path):
    def train(workdir, address):
        tokjax(
            "train", "--config", "lm:smoke", "--workdir", workdir, "--quiet", f"--config.source={address}",
            f"--config.tokenizer.name={reference / 'tokenizer'}",
        )  # fmt: skip
        last = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
        return last["loss"], last["bits_per_byte"]

    assert train(tmp_path / "ids", f"tokenized:{reference}") == train(tmp_path / "text", source)
    assert "bits_per_byte" in tokjax("eval", "--workdir", tmp_path / "ids", "--json")
