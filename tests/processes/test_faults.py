"""Processes are killed at random moments, hang, are told to stop: a run loses no more than the steps since it saved."""

import collections
import json
import os
import queue
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import mounts
import numpy as np
import pytest
import several

from tokjax.core.errors import OutputError, PeerError
from tokjax.train import load_for_inference, read_evaluations, read_metrics

STEPS = 2000  # more than the killed runs get to


class Nursery:
    """Starts, within a fraction of a second each, processes that train."""

    def __init__(self, log):
        here = Path(__file__).parent
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(here.parents[1])}
        self._process = subprocess.Popen(
            [sys.executable, str(here / "nursery.py")],
            env={
                **environment,
                "NURSERY_LOG": str(log),
                "TOKJAX_HEARTBEAT_TIMEOUT": "10",
                "TOKJAX_START_TIMEOUT": "15",
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self.log = log
        self._started: queue.Queue = queue.Queue()
        self._codes: dict[int, queue.Queue] = collections.defaultdict(queue.Queue)
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        for line in self._process.stdout:
            what, number, *code = line.split()
            if what == "started":
                self._started.put(int(number))
            else:
                self._codes[int(number)].put(int(code[0]))

    def start(self, workdir, steps=STEPS, processes=1, peer_timeout_s=60.0):
        """Returns the numbers of the processes of a run."""
        port = several.free_port()
        for process in range(processes):
            request = {"workdir": str(workdir), "steps": steps, "process": process, "peer_timeout_s": peer_timeout_s}
            self._process.stdin.write(json.dumps({**request, "processes": processes, "port": port}) + "\n")
        return [self._started.get(timeout=120) for _ in range(processes)]

    def code(self, number, timeout=120):
        """The exit code of a process, once it has ended; of a signal, negative."""
        return self._codes[number].get(timeout=timeout)

    def said(self):
        """What all of them have printed."""
        return self.log.read_text() if self.log.exists() else ""

    def close(self):
        self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        finally:
            self._process.kill()


@pytest.fixture(scope="module")
def nursery(tmp_path_factory):
    nursery = Nursery(tmp_path_factory.mktemp("nursery") / "log")
    yield nursery
    nursery.close()


def saved(workdir):
    return max([0, *(int(p.name) for p in (workdir / "checkpoints").glob("0*"))])


def reported(workdir):
    lines = read_metrics(workdir) + read_evaluations(workdir)
    return [{k: v for k, v in line.items() if "loss" in k or k in ("step", "norm")} for line in lines]


def phase(workdir):
    """What a run is doing."""
    if list(workdir.glob("evaluating-*")):
        return "evaluation"
    if list((workdir / "checkpoints").glob("unfinished-*")):
        return "saving"
    return "training" if (workdir / "metrics.jsonl").exists() else "start"


def clear(workdir):
    for marker in workdir.glob("evaluating-*"):
        marker.unlink()


def opened(workdir):
    """Which metrics file there is: each start of a run replaces it."""
    path = workdir / "metrics.jsonl"
    return path.stat().st_ino if path.exists() else None


def wait_for_step(workdir, step, *, other_than=None, timeout=120):
    """Waits until a run that was started after `other_than` was opened has made a step."""
    until = time.monotonic() + timeout
    while opened(workdir) == other_than or all(line["step"] < step for line in read_metrics(workdir)):
        assert time.monotonic() < until, "the run does not get on"
        time.sleep(0.02)


def wait_for_save(workdir, step, timeout=120):
    until = time.monotonic() + timeout
    while saved(workdir) == step:
        assert time.monotonic() < until, "the run does not save"
        time.sleep(0.02)


def finish(nursery, workdir, processes):
    """Lets a run end in its own time, a little after what it has saved."""
    steps = saved(workdir) + 7
    numbers = nursery.start(workdir, steps, processes)
    assert [nursery.code(number) for number in numbers] == [0] * processes, nursery.said()[-3000:]
    return steps


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "kills"), [(1, 42), (2, 10)])
def test_kills_at_random_moments_lose_only_steps_that_were_not_saved(nursery, tmp_path, processes, kills):
    chance, hit, steps = random.Random(processes), collections.Counter(), [0]
    run, whole = tmp_path / "run", tmp_path / "whole"
    for kill in range(kills):
        before, old = saved(run), opened(run)
        numbers = nursery.start(run, STEPS, processes)
        if kill % 4:  # while it trains, saves or evaluates, however slow the machine is; else while it starts
            wait_for_step(run, before + 1, other_than=old)
        if kill % 4 > 1:
            wait_for_save(run, before)
        time.sleep(chance.uniform(0.0, 0.3))
        victim = chance.choice(numbers)
        hit[phase(run) if run.exists() else "start"] += 1
        os.kill(victim, signal.SIGKILL)
        codes = {number: nursery.code(number) for number in numbers}
        assert codes.pop(victim) == -signal.SIGKILL
        # The others have ended too, by themselves: as what has lost a peer (or by JAX, which aborts), not as a mistake.
        assert all(code in (PeerError.exit_code, -signal.SIGABRT) for code in codes.values()), codes
        steps.append(saved(run))
        clear(run)
    assert steps == sorted(steps) and len(set(steps)) > kills // 3, steps
    assert {"training", "saving", "evaluation"} <= set(hit) or processes > 1, hit
    last = finish(nursery, run, processes)
    assert [line["step"] for line in read_metrics(run)] == list(range(1, last + 1))
    (number,) = nursery.start(whole, last)
    assert nursery.code(number) == 0
    found, expected = reported(run), reported(whole)
    assert [line["step"] for line in found] == [line["step"] for line in expected]
    if processes == 1:
        assert found == expected
    for name, array in load_for_inference(whole)[0].items():
        # Two processes add up the batch in another order, over all the steps.
        np.testing.assert_allclose(load_for_inference(run)[0][name], array, atol=0 if processes == 1 else 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("known_before", [True, False])  # too little for the arrays; for the files around them
def test_a_full_disk_ends_all_processes_and_the_run_goes_on_once_there_is_space(nursery, tmp_path, known_before):
    said = len(nursery.said())
    with mounts.tmpfs(tmp_path / "disk", "size=1m") as disk:
        assert [nursery.code(number) for number in nursery.start(disk / "run", 4, processes=2)] == [0, 0]
        left = 3 if known_before else 9  # pages; opening the run takes some
        (disk / "filler").write_bytes(b"0" * (shutil.disk_usage(disk).free - left * 4096))
        first, other = (nursery.code(number) for number in nursery.start(disk / "run", 8, processes=2))
        assert first == OutputError.exit_code
        # Only one of them may have met the full disk; the other has then lost it.
        assert other == first or (not known_before and other in (PeerError.exit_code, -signal.SIGABRT))
        assert f"{disk / 'run' / 'checkpoints'}: cannot save the checkpoint of step 8" in nursery.said()[said:]
        assert saved(disk / "run") == 4
        os.remove(disk / "filler")
        assert finish(nursery, disk / "run", 2) == 11
        assert [path.name for path in (disk / "run" / "checkpoints").glob("unfinished-*")] == []


@pytest.mark.slow
def test_one_process_that_is_told_to_stop_makes_all_save(nursery, tmp_path):
    numbers = nursery.start(tmp_path, processes=2)
    wait_for_step(tmp_path, 6)
    os.kill(numbers[1], signal.SIGTERM)
    assert [nursery.code(number) for number in numbers] == [143, 143]
    assert saved(tmp_path) == read_metrics(tmp_path)[-1]["step"] >= 6


@pytest.mark.slow
def test_a_process_that_hangs_is_named_and_not_waited_for_for_ever(nursery, tmp_path):
    (tmp_path / "hangs-1").touch()
    said = len(nursery.said())
    numbers = nursery.start(tmp_path, processes=2, peer_timeout_s=8.0)
    assert [nursery.code(number) for number in numbers] == [PeerError.exit_code] * 2
    lines = nursery.said()[said:].splitlines()
    # Either may be the first whose time is over; the other one has then lost it.
    message = next(line for line in lines if "got no further for 8 s (train.peer_timeout_s)" in line)
    if "process 1 of 2" in message:
        assert "it stands at evaluate (nursery.py, line " in message and "process 0 of 2 lost another one" in str(lines)
    else:
        assert f"(pid {numbers[1]}) was at step " in message
    (tmp_path / "hangs-1").unlink()
    assert finish(nursery, tmp_path, 2) >= 7


@pytest.mark.slow
def test_a_process_that_answers_nothing_ends_the_run(nursery, tmp_path):
    said = len(nursery.said())
    numbers = nursery.start(tmp_path, processes=2)
    wait_for_step(tmp_path, 3)
    os.kill(numbers[1], signal.SIGSTOP)
    try:
        assert nursery.code(numbers[0]) != 0
        # JAX's own words, from a thread that ends the program; the number of the process is on the next line.
        assert "stopped sending heartbeats):\n1\n" in nursery.said()[said:]
    finally:
        os.kill(numbers[1], signal.SIGKILL)
    assert nursery.code(numbers[1]) == -signal.SIGKILL
