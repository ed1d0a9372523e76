"""A run that was stopped, however, ends in the same bits as one that was not."""

import dataclasses
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import chex
import pytest
import tiny_system
from tiny_system import train

from tokjax.train import OptimizerSpec, load_for_inference, read_evaluations, read_metrics

VOLATILE = (
    "seconds", "steps_per_second", "step_seconds", "data_wait_fraction", "rows_per_second", "targets_per_second", "mfu",
    "device_memory_gib", "host_memory_gib",
)  # fmt: skip


def reported(workdir):
    return [
        {k: v for k, v in line.items() if k not in VOLATILE}
        for line in read_metrics(workdir) + read_evaluations(workdir)
    ]


def assert_same_bits(one, other):
    one, other = (dataclasses.replace(state, stopped=None) for state in (one, other))
    chex.assert_trees_all_equal(one, other)
    chex.assert_trees_all_equal_shapes_and_dtypes(one, other)


def spawn(workdir, steps, delay):
    """Starts the tiny run in a process of its own; returns once it is about to train."""
    process = subprocess.Popen(
        [sys.executable, tiny_system.__file__, str(workdir), str(steps), str(delay)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "started\n"
    return process


def wait_for_step(workdir, step, process):
    path = Path(workdir) / "metrics.jsonl"
    while not (path.exists() and any(line["step"] >= step for line in read_metrics(workdir))):
        assert process.poll() is None, "the run ended before it was stopped"
        time.sleep(0.01)


def interrupt(at, number=signal.SIGTERM):
    """An evaluation during which a signal arrives."""

    def evaluate(state):
        if state.step == at:
            signal.raise_signal(number)
        return tiny_system.evaluate(state)

    return evaluate


@pytest.mark.parametrize(("accumulate_steps", "ema_decay"), [(1, None), (2, 0.9)])
def test_three_steps_and_three_more_are_six(tmp_path, ema_decay, accumulate_steps):
    optimizer = OptimizerSpec(ema_decay=ema_decay, accumulate_steps=accumulate_steps)
    whole = train(tmp_path / "whole", optimizer=optimizer)
    first = train(tmp_path / "split", optimizer=optimizer, evaluate=interrupt(3))
    assert (first.stopped, int(first.step)) == ("SIGTERM", 3)
    resumed = train(tmp_path / "split", optimizer=optimizer)
    assert (resumed.stopped, int(resumed.step)) == (None, 6)
    assert_same_bits(resumed, whole)
    assert reported(tmp_path / "split") == reported(tmp_path / "whole")
    assert_same_bits(train(tmp_path / "split", optimizer=optimizer), whole)  # nothing left to do


def test_a_longer_run_goes_on_where_a_shorter_one_ended(tmp_path):
    optimizer = OptimizerSpec(schedule="constant")
    whole = train(tmp_path / "whole", steps=7, optimizer=optimizer)
    train(tmp_path / "split", steps=3, optimizer=optimizer)
    config = {"system": {"name": "tiny"}, "train": {"steps": 7}}
    assert_same_bits(train(tmp_path / "split", steps=7, optimizer=optimizer, config=config), whole)


def test_an_evaluation_lost_between_saving_and_reporting_is_made_up_for(tmp_path):
    def dies(state):
        raise KeyboardInterrupt

    whole = train(tmp_path / "whole", checkpoint_every=3)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "split", checkpoint_every=3, evaluate=dies)
    assert_same_bits(train(tmp_path / "split", checkpoint_every=3), whole)
    assert reported(tmp_path / "split") == reported(tmp_path / "whole")


def test_time_limit_counts_over_resumes_and_ends_with_a_checkpoint_and_an_evaluation(tmp_path):
    def slow(step):
        time.sleep(0.05)
        return tiny_system.batch(step)

    state = train(tmp_path, steps=1000, time_limit_s=0.3, eval_every=1000, checkpoint_every=1000, batch=slow)
    steps = int(state.step)
    assert state.stopped == "time_limit" and 1 <= steps < 20
    assert [line["step"] for line in read_evaluations(tmp_path)] == [steps]
    assert load_for_inference(tmp_path)[2] == steps
    again = train(tmp_path, steps=1000, time_limit_s=0.3, eval_every=1000, checkpoint_every=1000, batch=slow)
    assert again.stopped == "time_limit" and int(again.step) == steps


def test_a_signal_after_the_last_step_stops_nothing(tmp_path):
    assert train(tmp_path, evaluate=interrupt(6)).stopped is None


def test_signal_handlers_are_put_back(tmp_path):
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    state = train(tmp_path, evaluate=interrupt(3, signal.SIGINT))
    assert state.stopped == "SIGINT"
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == before


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_stopped_process_saves_and_a_rerun_ends_in_the_same_bits(tmp_path, number, code):
    process = spawn(tmp_path / "split", 12, 0.05)
    wait_for_step(tmp_path / "split", 3, process)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code and f"stopped={signal.Signals(number).name}" in output
    stopped_at = load_for_inference(tmp_path / "split")[2]
    assert f"step={stopped_at}\n" in output and 3 <= stopped_at < 12
    assert_same_bits(train(tmp_path / "split", steps=12), train(tmp_path / "whole", steps=12))
    assert reported(tmp_path / "split") == reported(tmp_path / "whole")


@pytest.mark.slow
def test_kill_9_at_any_moment_loses_nothing_for_good(tmp_path):
    steps, saved, chance = 60, [0], random.Random(0)
    for kill in range(8):
        process = spawn(tmp_path / "split", steps, 0.02)
        if kill % 2:  # while it starts, or soon after
            time.sleep(chance.uniform(0.0, 2.0))
        else:  # while it trains, however slow the machine is
            wait_for_step(tmp_path / "split", saved[-1] + 3, process)
            time.sleep(chance.uniform(0.0, 0.3))
        process.kill()
        process.communicate()
        folders = (tmp_path / "split" / "checkpoints").glob("0*")
        saved.append(max([saved[-1], *(int(folder.name) for folder in folders)]))
        if saved[-1] + 3 >= steps:
            break
    assert len(set(saved)) > 2, "nothing was saved between the kills; the test means nothing"
    resumed = train(tmp_path / "split", steps=steps)
    assert_same_bits(resumed, train(tmp_path / "whole", steps=steps))
    assert reported(tmp_path / "split") == reported(tmp_path / "whole")
    assert not list((tmp_path / "split" / "checkpoints").glob("unfinished-*"))
