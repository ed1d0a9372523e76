"""Every recipe at the scale of its paper: as many parameters as the paper's, and a step that lowers for 16 devices."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tokjax.core.registry import systems
from tokjax.experiment.config import config_names
from tokjax.objectives.language import LanguageSystem

SCRIPT = Path(__file__).parent / "lower_paper.py"
# Parameters in millions, as far as a paper gives them.
PUBLISHED = {"lexinvariant": 150, "m1": 3, "hat": 1000}
RECIPES = [n for n in config_names() if n not in systems or issubclass(systems[n], LanguageSystem)]


@functools.cache
def lowered(name):
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=16", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), name], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_the_step_lowers_for_sixteen_devices(name):
    found = lowered(name)
    assert found["shardings"] > 10
    if name in PUBLISHED:
        assert abs(found["parameters"] / 1e6 / PUBLISHED[name] - 1) < 0.1, found
