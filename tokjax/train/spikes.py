"""Which losses stand out from those before them."""

import statistics
import warnings
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

HISTORY = 100  # logged steps that a loss is compared with
_FEWEST = 20  # before there are as many, none stands out
_SPREADS = 6.0
_NORMAL = 1.4826  # standard deviations of a normal distribution in a median absolute deviation
_LEAST = 0.01  # of the median: the spread is never taken for less, as losses may hardly differ


class LossSpikes:
    """Judges one logged loss after the other, against the `HISTORY` before it.

    A loss is a spike above the median by more than 6 spreads, where a spread is 1.4826 median absolute deviations and
    at least 1 % of the median. Neither moves much for a few outliers. Losses that stay up are one spike, and end as one
    when the median has come up to them.
    """

    def __init__(self, lines: Iterable[Mapping[str, Any]] = ()):
        """Goes on after `lines`, as of metrics.jsonl; the last `HISTORY` of them are enough."""
        self._losses: deque[float] = deque(maxlen=HISTORY)
        self._above, self._count = False, 0
        for line in lines:
            self._add(line.get("loss"))
            self._above, self._count = line.get("loss_spike", False), line.get("loss_spikes", 0)

    def judge(self, step: int, loss: float) -> dict[str, bool | int]:
        """Returns 'loss_spike', whether `loss` is one, and 'loss_spikes', how many there were so far.

        Warns of a new one, with the `step` it begins at.
        """
        above = self._stands_out(loss)
        if above and not self._above:
            self._count += 1
            usual = statistics.median(self._losses)
            warnings.warn(f"step {step}: loss spike, {loss:.4g} where {usual:.4g} was usual.", stacklevel=2)
        self._above = above
        self._add(loss)
        return {"loss_spike": above, "loss_spikes": self._count}

    def _add(self, loss: float | None) -> None:
        if loss is not None and loss == loss:
            self._losses.append(loss)

    def _stands_out(self, loss: float) -> bool:
        if len(self._losses) < _FEWEST:
            return False
        median = statistics.median(self._losses)
        spread = _NORMAL * statistics.median(abs(each - median) for each in self._losses)
        return loss > median + _SPREADS * max(spread, _LEAST * abs(median))
