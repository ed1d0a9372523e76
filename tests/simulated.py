"""Programs that see several devices: a process of their own, since JAX fixes their number when it starts."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def environment(devices, *folders):
    """The environment of a program with so many simulated devices, which finds the project and modules in `folders`."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    paths = [str(ROOT), *map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": os.pathsep.join(paths)}


def run(devices, script, *arguments, folders=(), timeout=300):
    """Returns the lines that a script prints on so many simulated devices; fails where it does."""
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        env=environment(devices, *folders),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()
