"""What one sees of a run: from files of real runs, while they are written, cut short, far away or not there."""

import io
import json
import shutil
import subprocess
import sys
import time

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tokjax.core.errors import SourceError, SpecError
from tokjax.experiment.config import load_config
from tokjax.experiment.run import train_model
from tokjax.report import run_files
from tokjax.report.run_files import open_folder, read_run
from tokjax.report.watch import View, bars, watch
from tokjax.train import read_metrics


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n\n".join(f"Paragraph {i}: the quick brown fox jumps over {i * i} dogs." for i in range(300)))
    fields = load_config("lm:smoke").to_dict()
    fields["source"] = f"file:{path}?records=paragraphs"
    fields["tokenizer"] = {"name": "bytes"}
    fields["train"] |= {"log_every": 2, "eval_every": 10}
    fields["data"]["eval_bytes"] = 2000
    return fields


@pytest.fixture(scope="module")
def run(tmp_path_factory, config):
    path = tmp_path_factory.mktemp("run") / "w"
    train_model(config, path, progress=False)
    return path


def shown(workdir, width=100, encoding="utf-8"):
    """What `tokjax watch` prints where the output is no terminal."""
    buffer = io.BytesIO()
    file = io.TextIOWrapper(buffer, encoding=encoding)
    watch(str(workdir), console=Console(file=file, width=width))
    file.flush()
    return buffer.getvalue().decode(encoding)


def rows(text):
    """The first words of each line, and the rest."""
    return {line.split("  ")[0].strip(): " ".join(line.split("  ")[1:]).strip() for line in text.splitlines()}


def test_the_numbers_of_a_real_run_are_those_of_its_files(run):
    text, last = shown(run), read_metrics(run)[-1]
    found = rows(text)
    assert found["step 20 of 20"] == "done"
    assert text.splitlines()[0] == str(run) and text.splitlines()[1].startswith("lm, bytes, file:")
    assert found["loss"].startswith(f"{last['loss']:.4g}")
    assert found["bits per byte"].startswith(f"{last['bits_per_byte']:.4g}")
    assert found["gradient norm"].startswith(f"{last['grad_norm']:.4g}")
    assert found["host memory"].startswith(f"{last['host_memory_gib']:.2f} GiB")
    assert "MFU" not in found and "device memory" not in found  # nothing is known of them on a CPU
    for name in ("learning rate", "update norm", "step time", "data wait", "rows", "targets"):
        assert found[name], name
    assert "last checkpoint: step 20" in text
    assert "step 10, valid: bits_per_byte" in text and "step 20, valid: bits_per_byte" in text
    backbone = last["gradient_norms"]
    assert f"2 layers, {min(backbone['backbone/0'], backbone['backbone/1']):.3g} to " in text
    (process,) = [line.split() for line in text.splitlines() if "ago" in line and "left" in line]
    assert process[0] == "0" and process[2] == "20"


@pytest.mark.parametrize("width", [40, 80, 200])
def test_lines_fit_the_terminal(run, width):
    text = shown(run, width)
    assert max(map(len, text.splitlines())) <= width and "loss" in text


def test_a_terminal_that_knows_ascii_only_gets_no_more(run):
    assert "step 20 of 20  done" in shown(run, encoding="ascii")


def test_lines_that_are_being_written_are_left_out(run, tmp_path):
    shutil.copytree(run, tmp_path / "w")
    metrics = tmp_path / "w" / "metrics.jsonl"
    lines = metrics.read_bytes().splitlines(keepends=True)
    metrics.write_bytes(b"".join(lines[:-1]) + lines[-1][:100])
    status = read_run(open_folder(str(tmp_path / "w")))
    assert [line["step"] for line in status.lines] == list(range(2, 20, 2))
    (tmp_path / "w" / "processes" / "0.json").write_bytes(b'{"index')
    assert "step 18 of 20" in shown(tmp_path / "w")


def test_a_run_that_has_just_begun(run, tmp_path):
    (tmp_path / "processes").mkdir()
    shutil.copy(run / "run.json", tmp_path)
    (tmp_path / "metrics.jsonl").touch()
    text = shown(tmp_path)
    assert "step 0 of 20  starting" in text and "last checkpoint: none yet" in text


def test_nothing_there_is_an_error_that_says_so(tmp_path):
    (tmp_path / "file").touch()
    for place in (tmp_path, tmp_path / "absent", tmp_path / "file", "memory://absent"):
        with pytest.raises(SourceError, match="no run has written here"):
            watch(str(place), once=True)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(SourceError, match="cannot be read"):
        watch(str(tmp_path), once=True)


def test_a_run_elsewhere_looks_the_same(run):
    files = fsspec.filesystem("memory")
    files.put(str(run), "/runs/w", recursive=True)
    here, there = (read_run(open_folder(place)) for place in (str(run), "memory://runs/w"))
    for name in ("description", "lines", "evaluations", "checkpoint", "processes", "ended", "step"):
        assert getattr(here, name) == getattr(there, name), name
    assert shown("memory://runs/w").startswith("memory://runs/w\nlm, bytes")


@pytest.mark.parametrize("address", ["{run}", "memory://long"])
def test_of_a_long_run_the_last_whole_lines_are_read(run, tmp_path, address):
    line = read_metrics(run)[-1]
    lines = [{**line, "step": step} for step in range(1, 2001)]
    content = "".join(json.dumps(each) + "\n" for each in lines)
    assert len(content) > 2 * run_files._TAIL_BYTES
    (tmp_path / "metrics.jsonl").write_text(content)
    fsspec.filesystem("memory").pipe("/long/metrics.jsonl", content.encode())
    status = read_run(open_folder(address.format(run=tmp_path)))
    assert status.lines == lines[-len(status.lines) :]
    assert len(content) / 2000 * len(status.lines) > 0.99 * run_files._TAIL_BYTES


def test_what_is_not_installed_or_unknown_says_what_to_do(monkeypatch):
    with pytest.raises(SpecError, match="nonsense://w: Protocol not known"):
        open_folder("nonsense://w")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(SpecError, match=r"gs://b/w: .*pip install 'tokjax\[remote\]'"):
        open_folder("gs://b/w")


def synthetic(run, tmp_path, *, ages, **last):
    """A run of processes that were last heard of `ages` seconds ago; `last` replaces numbers of its last line."""
    lines = read_metrics(run)
    lines[-1] |= last
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    shutil.copy(run / "run.json", tmp_path)
    (tmp_path / "processes").mkdir()
    for index, age in enumerate(ages):
        beat = json.loads((run / "processes" / "0.json").read_text()) | {
            "index": index, "processes": len(ages), "time": time.time() - age, "running": True, "host": f"host{index}",
            "step": 18, "data_wait_fraction": 0.01 * index,
        }  # fmt: skip
        (tmp_path / "processes" / f"{index}.json").write_text(json.dumps(beat))
    return tmp_path


def test_a_process_that_is_not_heard_of_is_named_first(run, tmp_path):
    text = shown(synthetic(run, tmp_path, ages=[1, 2, 400, 3]))
    assert "1 of 4 processes silent" in text
    of_processes = [line.split() for line in text.splitlines() if " host" in line and "ago" in line]
    assert [line[0] for line in of_processes] == ["2", "3", "1", "0"]  # then who waits longest for data
    assert "silent, 6.67 min ago" in text


def test_of_many_processes_the_worst_are_listed(run, tmp_path):
    text = shown(synthetic(run, tmp_path, ages=[1] * 40 + [500]))
    assert "host40" in text and "host39" in text and "host1 " not in text and "and 25 more" in text


def test_loss_spikes_are_counted_and_placed(run, tmp_path):
    assert "spike" not in shown(run)
    assert "2 loss spikes, the last at step 20" in shown(
        synthetic(run, tmp_path, ages=[1], loss_spikes=2, loss_spike=True)
    )


def test_a_small_terminal_is_left_the_plot_out(run):
    status = read_run(open_folder(str(run)))

    def lines(height):
        console = Console(file=io.StringIO(), width=100, height=height, force_terminal=True)
        console.print(View(status))
        return console.file.getvalue().splitlines()

    assert len(lines(60)) - len(lines(24)) == 7  # title, five rows and a blank line


@pytest.mark.slow
def test_a_terminal_follows_a_run_from_before_its_beginning_to_its_end(config, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    code = (
        "import json, sys; from tokjax.experiment.run import train_model;"
        "train_model(json.load(open(sys.argv[1])), sys.argv[2], progress=False)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(path), str(tmp_path / "w")])
    try:
        console = Console(file=io.StringIO(), force_terminal=True, width=100, height=80)
        watch(str(tmp_path / "w"), interval=0.05, console=console)
    finally:
        assert process.wait(timeout=120) == 0
    text = console.file.getvalue()
    assert text.index("Looking again") < text.index("starting") < text.rindex("done")
    assert "step 20 of 20" in text


@given(st.lists(st.floats(-1e6, 1e6), max_size=200), st.integers(1, 60), st.integers(1, 5))
def test_columns_are_as_high_as_their_values(values, width, height):
    lines = bars(values, width, height, "012345678")
    assert len(lines) == height and {len(line) for line in lines} == {min(width, len(values))}
    if len(values) <= width:
        heights = [sum(int(line[column]) for line in lines) for column in range(len(values))]
        order = sorted(range(len(values)), key=values.__getitem__)
        assert [heights[i] for i in order] == sorted(heights)
        if values and max(values) > min(values):
            assert min(heights) == 1 and max(heights) == 8 * height
