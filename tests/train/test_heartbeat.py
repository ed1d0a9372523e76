"""Every process says how far it is, in a file that is whole at any time."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
import threading

import pytest
import tiny_system
from tiny_system import train

from tokjax.core.errors import OutputError
from tokjax.train import heartbeat, read_metrics


def test_what_is_written_is_read(tmp_path):
    assert heartbeat.read(tmp_path) == []
    heartbeat.write(tmp_path, step=7, step_seconds=0.5, data_wait_fraction=0.1)
    (beat,) = heartbeat.read(tmp_path)
    assert (beat.index, beat.processes, beat.step, beat.running) == (0, 1, 7, True)
    assert (beat.host, beat.pid) == (socket.gethostname(), os.getpid())
    assert (beat.step_seconds, beat.data_wait_fraction, beat.host_memory_gib) == (0.5, 0.1, None)
    heartbeat.write(tmp_path, step=8, running=False)
    assert [(beat.step, beat.running) for beat in heartbeat.read(tmp_path)] == [(8, False)]
    assert os.listdir(tmp_path / heartbeat.FOLDER) == ["0.json"]


def test_processes_are_in_order_and_those_of_a_larger_start_before_are_left_out(tmp_path):
    heartbeat.write(tmp_path, step=1)
    (one,) = heartbeat.read(tmp_path)

    def content(index, processes, time):
        beat = dataclasses.replace(one, index=index, processes=processes, time=time)
        return json.dumps(dataclasses.asdict(beat)).encode()

    now = [content(10, 11, 5.0), *(content(n, 11, 4.0) for n in range(10))]
    assert [beat.index for beat in heartbeat.parse(now)] == list(range(11))
    before = [content(n, 4, 1.0) for n in (2, 3)]
    assert [beat.index for beat in heartbeat.parse([*before, content(0, 2, 9.0), content(1, 2, 9.0)])] == [0, 1]
    assert heartbeat.parse([b"", b"{", b"[]", b'{"index": 3}']) == []


def test_a_reader_never_sees_half_a_file(tmp_path):
    heartbeat.write(tmp_path, step=0)
    stop, seen = threading.Event(), []

    def reader():
        while not stop.is_set():
            seen.append([beat.step for beat in heartbeat.read(tmp_path)])

    thread = threading.Thread(target=reader)
    thread.start()
    for step in range(1, 200):
        heartbeat.write(tmp_path, step=step)
    stop.set()
    thread.join()
    assert all(len(steps) == 1 for steps in seen)
    assert seen == sorted(seen)


def test_a_run_beats_as_it_reports_and_says_that_it_left(tmp_path):
    beats = []

    def evaluate(state):
        beats.append(heartbeat.read(tmp_path))
        return tiny_system.evaluate(state)

    train(tmp_path, steps=5, log_every=2, eval_every=4, evaluate=evaluate)
    assert [(beat.step, beat.running) for (beat,) in beats] == [(4, True), (5, True)]
    (last,) = heartbeat.read(tmp_path)
    assert (last.step, last.running) == (5, False)
    line = read_metrics(tmp_path)[-1]
    assert [getattr(last, name) for name in heartbeat.MEASURED] == [line[name] for name in heartbeat.MEASURED]


def test_a_run_that_fails_says_that_it_left(tmp_path):
    def batch(step):
        if step == 3:
            raise ZeroDivisionError
        return tiny_system.batch(step)

    with pytest.raises(ZeroDivisionError):
        train(tmp_path, batch=batch)
    (beat,) = heartbeat.read(tmp_path)
    assert beat.step <= 3 and not beat.running


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / heartbeat.FOLDER).write_text("")
    with pytest.raises(OutputError, match=r"processes.0\.json"):
        heartbeat.write(tmp_path, step=1)


# What one of two processes runs; the second is told to trace during the evaluation after step 3.
PROCESS = """
import signal, sys, jax
address, index, workdir, folder = sys.argv[1:]
jax.distributed.initialize(address, 2, int(index))
sys.path.insert(0, folder)
import tiny_system

def batch(step):
    return {name: rows[int(index) * 4 :][:4] for name, rows in tiny_system.batch(step).items()}

def evaluate(state):
    if index == "1" and state.step == 3:
        signal.raise_signal(signal.SIGUSR1)
    return {}

tiny_system.train(workdir, batch=batch, evaluate=evaluate)
"""


@pytest.mark.slow
def test_of_two_processes_each_beats_and_traces_for_itself(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    here = os.path.dirname(tiny_system.__file__)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, address, str(index), str(tmp_path), here], stderr=subprocess.PIPE, text=True
        )
        for index in range(2)
    ]
    errors = [process.communicate(timeout=200)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    beats = heartbeat.read(tmp_path)
    assert [(beat.index, beat.processes, beat.step, beat.running) for beat in beats] == [
        (0, 2, 6, False),
        (1, 2, 6, False),
    ]
    assert beats[0].pid == processes[0].pid and beats[1].pid == processes[1].pid
    assert "process-1" in errors[1] and "tokjax: trace" not in errors[0]
    assert {path.relative_to(tmp_path / "profile").parts[:2] for path in tmp_path.rglob("*.xplane.pb")} == {
        ("step-4", "process-1")
    }
    line = read_metrics(tmp_path)[-1]
    assert line["rows_per_second"] == pytest.approx(8 * line["steps_per_second"])  # of both together
