"""How fast a run steps, what it waits for and how much memory it holds; nothing here waits for a device."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from tokjax.measure.cost import peak_device_memory_bytes, peak_memory_bytes
from tokjax.measure.peaks import peak_flops
from tokjax.train.step import StepMetrics

_GIB = 2.0**30


class Stopwatch:
    """Seconds spent stepping, over all resumes: evaluation, saving and compilation do not count."""

    def __init__(self, seconds: float = 0.0, clock: Callable[[], float] = time.perf_counter):
        self._before = seconds
        self._since: float | None = None
        self._clock = clock

    def start(self) -> None:
        """Starts counting."""
        self._since = self._clock()

    @property
    def seconds(self) -> float:
        """Total so far."""
        return self._before + (0.0 if self._since is None else self._clock() - self._since)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stops counting within a block, if it has started."""
        running = self._since is not None
        self._before, self._since = self.seconds, None
        try:
            yield
        finally:
            if running:
                self.start()


class Feed:
    """What the loop was given of data, and how long it waited for it.

    Attributes:
      waited: seconds in all that a batch was asked for and not there yet.
      rows: of a batch of this process, 0 before the first; its arrays are [rows, ...].
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self.waited = 0.0
        self.rows = 0
        self._clock = clock

    def take(self, wait: Callable[[], Any]) -> Any:
        """Returns the batch that `wait` gives."""
        asked = self._clock()
        batch = wait()
        self.waited += self._clock() - asked
        shapes = [np.shape(leaf) for leaf in jax.tree.leaves(batch)]
        self.rows = next((shape[0] for shape in shapes if shape), 0)
        return batch


class Speed:
    """Measures the steps between two reports."""

    def __init__(
        self,
        watch: Stopwatch,
        feed: Feed | None = None,
        *,
        start: int = 0,
        parts: int = 1,
        flops: float | None = None,
        peak: float | None = None,
    ):
        """Starts at once.

        Args:
          watch: seconds of stepping.
          feed: where batches come from.
          start: steps already made.
          parts: of a batch, of which this process makes one.
          flops: FLOPs of the forward and backward pass over one batch of all processes, None if unknown.
          peak: peak FLOP/s of all devices together, None if unknown.
        """
        self.watch = watch
        self._feed = Feed() if feed is None else feed
        self._parts, self._flops, self._peak = parts, flops, peak
        self._targets: float | None = None
        self._last = (start, watch.seconds, self._feed.waited)

    def count(self, metrics: StepMetrics) -> None:
        """Takes the host metrics of a step made."""
        if "loss" in metrics.aux:
            self._targets = (self._targets or 0.0) + float(metrics.aux["loss"][1])

    def lap(self, step: int) -> dict[str, float | None]:
        """Returns means over the steps since the last call, up to `step`, and the memory held at most so far.

        Those of time and data wait are of this process; rows and targets are of all processes together.
        """
        (before, started, had_waited), self._last = self._last, (step, self.watch.seconds, self._feed.waited)
        targets, self._targets = self._targets, None
        steps, seconds = step - before, max(self._last[1] - started, 1e-9)
        share = None if self._flops is None or self._peak is None else self._flops * steps / seconds / self._peak
        device_memory = peak_device_memory_bytes()
        return {
            "seconds": self._last[1],
            "steps_per_second": steps / seconds,
            "step_seconds": seconds / steps,
            "data_wait_fraction": (self._last[2] - had_waited) / seconds,
            "rows_per_second": self._feed.rows * self._parts * steps / seconds,
            "targets_per_second": None if targets is None else targets / seconds,
            "mfu": share,
            "device_memory_gib": None if device_memory is None else device_memory / _GIB,
            "host_memory_gib": peak_memory_bytes() / _GIB,
        }


def mesh_peak_flops(mesh: Mesh) -> float | None:
    """Returns the peak bfloat16 FLOP/s of all devices of `mesh` together, or None where one is not known."""
    peaks = [peak_flops(device.device_kind) for device in mesh.devices.flat]
    known = [peak for peak in peaks if peak is not None]
    return sum(known) if len(known) == len(peaks) else None
