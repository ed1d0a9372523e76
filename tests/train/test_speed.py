"""What a run says of its pace: exact numbers under a clock that only the test moves."""

import threading

import jax
import numpy as np
import pytest
from tiny_system import Tiny, train

from tokjax.measure.cost import train_flops_per_step
from tokjax.measure.peaks import peak_flops
from tokjax.sharding import MeshSpec, make_mesh
from tokjax.train import read_metrics
from tokjax.train.host import prefetch
from tokjax.train.speed import Feed, Speed, Stopwatch, mesh_peak_flops
from tokjax.train.step import StepMetrics


class Clock:
    now = 0.0

    def __call__(self):
        return self.now

    def advance(self, seconds):
        self.now += seconds


def counted(targets):
    zero = np.float32(0)
    aux = {} if targets is None else {"loss": (np.float32(1), np.float32(targets))}
    return StepMetrics(loss=zero, aux=aux, gradient_norms=zero, update_norm=zero, learning_rate=zero)


def test_four_steps_that_wait_for_half_a_second_and_compute_for_one_and_a_half():
    clock = Clock()
    watch, feed = Stopwatch(100.0, clock), Feed(clock)
    flops = train_flops_per_step(Tiny(), 8, 1)
    assert flops == 3 * 4 * 8 * 8 * 16
    speed = Speed(watch, feed, start=10, flops=flops, peak=2 * flops)
    watch.start()

    def wait():
        clock.advance(0.5)
        return {"step": np.int32(0), "x": np.zeros((8, 3))}

    for _ in range(4):
        feed.take(wait)
        clock.advance(1.5)
        speed.count(counted(30))
    with watch.paused():
        clock.advance(1000.0)  # an evaluation
    line = speed.lap(14)
    assert line["seconds"] == 108.0 and line["step_seconds"] == 2.0 and line["steps_per_second"] == 0.5
    assert line["data_wait_fraction"] == 0.25
    assert line["rows_per_second"] == 4.0 and line["targets_per_second"] == 15.0
    assert line["mfu"] == 0.25  # half of what is possible in a second, over two seconds

    clock.advance(1.0)
    speed.count(counted(7))
    line = speed.lap(15)  # of this step alone
    assert line["step_seconds"] == 1.0 and line["data_wait_fraction"] == 0.0 and line["targets_per_second"] == 7.0


def test_what_cannot_be_known_is_none():
    watch = Stopwatch(0.0, clock := Clock())
    speed = Speed(watch, flops=1e9, peak=None)
    watch.start()
    clock.advance(1.0)
    speed.count(counted(None))
    line = speed.lap(1)
    assert line["mfu"] is None and line["targets_per_second"] is None and line["device_memory_gib"] is None
    assert line["host_memory_gib"] > 0.01  # an interpreter with jax


def test_peaks_are_of_the_devices_of_the_mesh():
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops(jax.devices("cpu")[0].device_kind) is None
    assert mesh_peak_flops(make_mesh(MeshSpec())) is None


def test_waiting_is_measured_where_batches_are_read():
    class Asked(Clock):
        """Lets the batch be made only once its reader has asked for it."""

        def __init__(self):
            self.asked = threading.Event()

        def __call__(self):
            before = self.now
            self.asked.set()
            return before

    clock = Asked()
    feed = Feed(clock)

    def slow(step):
        assert clock.asked.wait(60)
        clock.advance(2.0)
        return np.zeros((5, 2))

    with prefetch(slow, 0, 1, feed=feed) as batches:
        assert next(batches).shape == (5, 2)
    assert feed.waited == 2.0 and feed.rows == 5


def test_a_run_reports_its_pace_in_every_line(tmp_path):
    train(tmp_path, log_every=2)
    lines = read_metrics(tmp_path)
    for before, line in zip([{"seconds": 0.0}, *lines], lines, strict=False):
        assert line["step_seconds"] == pytest.approx((line["seconds"] - before["seconds"]) / 2)
        assert line["step_seconds"] == pytest.approx(1 / line["steps_per_second"])
        assert 0 <= line["data_wait_fraction"] <= 1
        assert line["rows_per_second"] == pytest.approx(8 * line["steps_per_second"])
        assert line["targets_per_second"] == pytest.approx(7 * line["steps_per_second"])  # one row of each is masked
        assert line["mfu"] is None and line["device_memory_gib"] is None


def test_gradient_norms_of_blocks_make_up_the_whole(tmp_path):
    state = train(tmp_path)
    for line in read_metrics(tmp_path):
        assert set(line["gradient_norms"]) == set(state.params)
        assert np.linalg.norm(list(line["gradient_norms"].values())) == pytest.approx(line["grad_norm"])
        assert all(norm > 0 for norm in line["gradient_norms"].values())


def test_rows_are_those_of_all_parts_of_a_batch_however_many_processes_make_one():
    clock = Clock()
    watch, feed = Stopwatch(0.0, clock), Feed(clock)
    speed = Speed(watch, feed, parts=3)
    watch.start()
    feed.take(lambda: {"x": np.zeros((8, 3))})
    clock.advance(2.0)
    speed.count(counted(None))
    assert speed.lap(1)["rows_per_second"] == 12.0
