"""Codes, averages and losses are those of the whole batch, however many devices hold it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

QUANTIZERS = [
    "vq:codes=16:update=ema:init=kmeans:revival=batch",
    "vq:codes=16:revival=anchor:gradient=rotation",
    "ibq:codes=16",
    "lfq",
    "residual:depth=2:dropout=0.5/vq:codes=16:update=ema",
]


@pytest.mark.slow
def test_eight_devices_give_the_step_of_one():
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8",
    }
    script = Path(__file__).parent / "sharded_step.py"
    done = subprocess.run(
        [sys.executable, script, *QUANTIZERS], env=environment, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [text for text, _, _ in found] == QUANTIZERS
    for text, same_codes, difference in found:
        # Sums over 160 vectors of about unit size, in another order.
        assert same_codes and difference < 1e-4, text
