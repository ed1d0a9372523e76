"""Losses that stand out are counted once each, whatever the noise, and wherever a run was interrupted."""

import json
import warnings

import numpy as np
import pytest
import tiny_system
from test_resume import interrupt, reported
from tiny_system import train

from tokjax.train import read_metrics
from tokjax.train.metrics import MetricsFile
from tokjax.train.spikes import HISTORY, LossSpikes


def noisy(steps, seed=0):
    """A loss as of training: it falls, with noise."""
    noise = np.random.default_rng(seed).normal(size=steps)
    return [float(2.0 + 3.0 * np.exp(-step / 50) + 0.05 * noise[step]) for step in range(steps)]


def judge(losses, spikes=None, start=0):
    spikes = LossSpikes() if spikes is None else spikes
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = [
            {"step": step, "loss": loss, **spikes.judge(step, loss)} for step, loss in enumerate(losses, start + 1)
        ]
    return found, [str(warning.message) for warning in caught]


def test_a_falling_noisy_loss_has_no_spike():
    for seed in range(20):
        lines, said = judge(noisy(400, seed))
        assert lines[-1]["loss_spikes"] == 0 and not said


def test_a_spike_of_three_lines_is_one_and_is_said_once():
    losses = noisy(300)
    losses[200:203] = [4.0, 5.0, 4.5]
    losses[250] = 3.5
    lines, said = judge(losses)
    assert [line["step"] for line in lines if line["loss_spike"]] == [201, 202, 203, 251]
    assert lines[-1]["loss_spikes"] == 2
    assert len(said) == 2 and said[0].startswith("step 201: loss spike, 4 where 2.") and "step 251" in said[1]


def test_a_loss_that_stays_up_is_one_spike_and_then_usual():
    lines, said = judge([1.0] * 150 + [2.0] * 150)
    assert len(said) == 1 and lines[150]["loss_spike"]
    assert not lines[150 + HISTORY // 2 + 1]["loss_spike"] and lines[-1]["loss_spikes"] == 1


def test_lower_losses_and_the_first_ones_are_no_spikes():
    lines, _ = judge([1.0, 100.0, 1.0] + [1.0] * 50 + [0.1])
    assert not any(line["loss_spike"] for line in lines)


@pytest.mark.parametrize("kept", [0, 1, 15, 200, 201, 202, 204, 299])
def test_a_resume_judges_as_if_there_had_been_none(tmp_path, kept):
    losses = noisy(300)
    losses[200:203] = [4.0, 5.0, 4.5]
    whole, _ = judge(losses)
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in whole[:250]))
    file = MetricsFile(path, kept)  # which drops the lines past it
    rest, _ = judge(losses[kept:], LossSpikes(file.kept), start=kept)
    file.close()
    assert rest[: 250 - kept] == whole[kept:250]
    if kept <= 250:
        assert rest == whole[kept:]


def test_lines_without_losses_or_of_older_versions_are_taken():
    spikes = LossSpikes([{"step": 1}, {"step": 2, "loss": None}] + [{"step": n, "loss": 1.0} for n in range(3, 40)])
    with pytest.warns(UserWarning, match="step 40: loss spike"):
        assert spikes.judge(40, 2.0) == {"loss_spike": True, "loss_spikes": 1}


def test_a_run_stopped_within_a_spike_reports_what_a_whole_one_does(tmp_path):
    def batch(step):
        rows = tiny_system.batch(step)
        return {**rows, "y": rows["y"] * (100 if step in (40, 41, 42) else 1)}

    with pytest.warns(UserWarning, match="step 41: loss spike"):
        train(tmp_path / "whole", steps=50, batch=batch, eval_every=42)
    with pytest.warns(UserWarning, match="step 41: loss spike"):
        state = train(tmp_path / "split", steps=50, batch=batch, eval_every=42, evaluate=interrupt(42))
    assert (state.stopped, int(state.step)) == ("SIGTERM", 42)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the spike that goes on was told of before
        train(tmp_path / "split", steps=50, batch=batch, eval_every=42)
    assert reported(tmp_path / "split") == reported(tmp_path / "whole")
    assert read_metrics(tmp_path / "whole")[-1]["loss_spikes"] == 1
