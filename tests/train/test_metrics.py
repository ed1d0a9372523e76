"""What a run reports, and when: whole lines, one step late, and never a number that was lost."""

import json
import os
import signal
import struct
import threading
import time

import jax.numpy as jnp
import numpy as np
import pytest
import tiny_system
from tensorboardX.proto.event_pb2 import Event
from tiny_system import Tiny, train

from tokjax.core.errors import NumericsError, OutputError, SourceError, SpecError
from tokjax.train import OptimizerSpec, TrainSpec, read_metrics
from tokjax.train.checkpoint import latest
from tokjax.train.host import prefetch, stop_signals
from tokjax.train.metrics import MetricsFile, Recorder
from tokjax.train.speed import Speed, Stopwatch
from tokjax.train.step import Part, StepMetrics


def metrics(loss=1.0, aux=None, norms=(3.0, 4.0)):
    return StepMetrics(
        loss=jnp.float32(loss),
        aux=aux or {},
        gradient_norms=jnp.array(norms),
        update_norm=jnp.float32(0.5),
        learning_rate=jnp.float32(0.1),
    )


def recorder(lines):
    return Recorder(
        None,
        None,
        Speed(Stopwatch()),
        [Part("a", "a"), Part("b", "b")],
        is_logged=lambda n: n % 2 == 0,
        sinks=[lambda _, line: lines.append(line)],
    )


def test_a_step_is_reported_when_the_next_one_is_pushed():
    lines = []
    record = recorder(lines)
    record.push(2, metrics(aux={"bits": (jnp.float32(6), jnp.float32(4)), "empty": (jnp.float32(0), jnp.float32(0))}))
    assert lines == []
    record.push(3, metrics())
    (line,) = lines
    assert line["step"] == 2 and line["bits"] == 1.5 and line["grad_norm"] == 5.0 and np.isnan(line["empty"])
    record.flush()
    assert len(lines) == 1  # step 3 is not a logged one


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"norms": (1.0, np.nan)}, "step 7: .*gradient of b is not finite"),
        ({"norms": (np.inf, np.nan)}, "gradient of a is not finite"),
        ({"loss": np.inf}, "step 7: loss inf; every gradient is finite"),
    ],
)
def test_a_lost_number_stops_the_run_even_at_a_step_that_is_not_logged(values, message):
    record = recorder([])
    record.push(7, metrics(**values))
    with pytest.raises(NumericsError, match=message):
        record.flush()


def test_a_bad_update_is_never_saved(tmp_path):
    class Breaks(Tiny):
        def loss(self, params, state, batch, key):
            loss, rest = super().loss(params, state, batch, key)
            # Only the gradient of "second" is lost: its forward value is multiplied by one.
            broken = jnp.where(batch["step"] == 3, jnp.nan, 0.0)
            return loss + broken * jnp.sum(params["second"] - params["second"] + 0 * params["first"].T), rest

    def batch(step):
        return {**tiny_system.batch(step), "step": np.int32(step)}

    with pytest.raises(NumericsError, match=r"step 4.*\['first'\]"):
        train(tmp_path, steps=8, system=Breaks(), batch=batch, checkpoint_every=1)
    assert latest(tmp_path) == 3
    assert max(line["step"] for line in read_metrics(tmp_path)) == 3


def test_lines_past_the_restored_step_and_broken_ones_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [{"step": n, "loss": 1.0} for n in (1, 2, 3, 4)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 2, "lo')
    file = MetricsFile(path, 2)
    file.write({"step": 3, "loss": float("nan")})
    file.close()
    assert read_metrics(tmp_path) == [*lines[:2], {"step": 3, "loss": None}]
    assert os.listdir(tmp_path) == ["metrics.jsonl"]


def test_a_metrics_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(OutputError, match=r"metrics\.jsonl"):
        MetricsFile(tmp_path / "metrics.jsonl", 0)
    with pytest.raises(SourceError, match=r"metrics\.jsonl"):
        read_metrics(tmp_path)


def test_stopwatch_counts_no_pause_and_goes_on_from_before():
    watch = Stopwatch(100.0)
    with watch.paused():
        time.sleep(0.01)
    assert watch.seconds == 100.0  # not started yet
    watch.start()
    with watch.paused():
        before = watch.seconds
        time.sleep(0.05)
        assert watch.seconds == before
    assert 100.0 <= watch.seconds < 100.04


def test_prefetch_is_in_order_ahead_and_on_another_thread():
    seen = []

    def batch(step):
        seen.append((step, threading.current_thread().name))
        return step

    with prefetch(batch, 3, 9) as batches:
        assert next(batches) == 3
        time.sleep(0.05)
        assert [step for step, _ in seen] == [3, 4, 5]
        assert list(batches) == [4, 5, 6, 7, 8]
    assert [step for step, _ in seen] == list(range(3, 9))
    assert threading.current_thread().name not in {name for _, name in seen}


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (0, 1), (5, 5), (4, 6)])
def test_prefetch_of_short_ranges(start, stop):
    with prefetch(lambda n: n, start, stop) as batches:
        assert list(batches) == list(range(start, stop))


def test_an_error_in_a_batch_is_raised_where_it_is_read(tmp_path):
    def batch(step):
        if step == 2:
            raise ZeroDivisionError("bad record")
        return tiny_system.batch(step)

    with pytest.raises(ZeroDivisionError, match="bad record"):
        train(tmp_path, batch=batch)


def test_only_the_first_signal_is_held_back():
    with stop_signals() as signals:
        signal.raise_signal(signal.SIGINT)
        assert signals.reason == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_signals_are_left_alone_outside_the_main_thread():
    before, reasons = signal.getsignal(signal.SIGTERM), []

    def run():
        with stop_signals() as signals:
            reasons.append((signals.reason, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert reasons == [(None, before)]


def test_everything_a_run_can_show_is_shown(tmp_path, capsys):
    train(tmp_path, progress=True, tensorboard=True, profile_steps=(2, 3), log_every=2)
    numbers = tensorboard_numbers(tmp_path / "tensorboard")
    names = {"train/loss", "train/gradient_norms/first", "train/loss_spikes", "train/loss_spike", "valid/norm"}
    assert names <= numbers.keys() and "train/mfu" not in numbers
    for line in read_metrics(tmp_path):
        written = numbers["train/gradient_norms/first"][line["step"]]
        assert written == pytest.approx(line["gradient_norms"]["first"], rel=1e-6)  # float32 there
    assert "step 4/6 loss" in capsys.readouterr().err
    assert list((tmp_path / "tensorboard").glob("events*"))
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    assert [line["step"] for line in read_metrics(tmp_path)] == [2, 4, 6]
    assert {"loss", "rows", "learning_rate", "grad_norm", "seconds", "steps_per_second"} <= read_metrics(tmp_path)[
        0
    ].keys()


def tensorboard_numbers(directory):
    """Name -> step -> number, of event files: records of a length, its checksum, an event and its checksum."""
    found = {}
    for path in directory.glob("events*"):
        content = path.read_bytes()
        while content:
            (size,) = struct.unpack("<Q", content[:8])
            event = Event.FromString(content[12 : 12 + size])
            content = content[16 + size :]
            for value in event.summary.value:
                found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found


def test_every_line_is_strict_json(tmp_path):
    def refuse(constant):
        raise AssertionError(constant)

    lost = {"a": float("nan"), "b": {"c": float("inf"), "d": 1.0}}
    file = MetricsFile(tmp_path / "metrics.jsonl", 0)
    file.write({"step": 1, "loss": 1.0, "gradient_norms": lost})
    file.close()
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line, parse_constant=refuse)["gradient_norms"] == {"a": None, "b": {"c": None, "d": 1.0}}


def test_averaged_parameters_are_the_ones_evaluated(tmp_path):
    seen = []
    optimizer = OptimizerSpec(ema_decay=0.99, learning_rate=0.1, schedule="constant")
    state = train(
        tmp_path, optimizer=optimizer, evaluate=lambda s: seen.append(np.array(s.inference_params["first"])) or {}
    )
    np.testing.assert_array_equal(seen[-1], state.ema["first"])
    assert np.abs(seen[-1] - state.params["first"]).max() > 1e-3


@pytest.mark.parametrize(
    "values", [{"steps": 0}, {"log_every": 0}, {"profile_steps": (5, 2)}, {"time_limit_s": 0.0}, {"seed": -1}]
)
def test_impossible_values_name_their_field(values):
    with pytest.raises(SpecError, match=f"train.{next(iter(values))}"):
        TrainSpec(**{"steps": 5, **values})
