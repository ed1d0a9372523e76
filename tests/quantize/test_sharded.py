"""Codes, averages and losses are those of the whole batch, however many devices hold it."""

import json
from pathlib import Path

import pytest
import simulated

QUANTIZERS = [
    "vq:codes=16:update=ema:init=kmeans:revival=batch",
    "vq:codes=16:revival=anchor:gradient=rotation",
    "ibq:codes=16",
    "lfq",
    "residual:depth=2:dropout=0.5/vq:codes=16:update=ema",
]


@pytest.mark.slow
def test_eight_devices_give_the_step_of_one():
    script = Path(__file__).with_name("sharded_step.py")
    found = [json.loads(line) for line in simulated.run(8, script, *QUANTIZERS, timeout=500)]
    assert [text for text, _, _ in found] == QUANTIZERS
    for text, same_codes, difference in found:
        # Sums over 160 vectors of about unit size, in another order.
        assert same_codes and difference < 1e-4, text
