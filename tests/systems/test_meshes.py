"""Every language system trains alike on one device and on eight simulated ones, however they are arranged."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tokjax.core.registry import systems
from tokjax.objectives.language import LanguageSystem

SCRIPT = Path(__file__).parent / "mesh_losses.py"


def losses(name, source, devices):
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(SCRIPT), name, source, str(devices)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    return np.array(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in systems if issubclass(systems[n], LanguageSystem)])
def test_losses_do_not_depend_on_the_mesh(name, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(f"Paragraph {i} of the text says that {i * i} is a square." for i in range(300)))
    source = f"file:{path}?records=paragraphs"
    (expected,) = losses(name, source, 1)
    for got in losses(name, source, 8):
        np.testing.assert_allclose(got, expected, rtol=2e-4)  # sums in another order, over three Adam steps
