"""What the tests of launchers share: where they are, a tiny run that they start, and how to wait for it."""

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
ENV = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}


def train(workdir: Path, *more: str) -> list[str]:
    """Arguments of a run that takes seconds."""
    return ["--config", "lm:smoke", "--workdir", str(workdir), "--quiet", *more]


def endless(workdir: Path) -> list[str]:
    """Arguments of a run that ends when it is told to."""
    return train(workdir, "--config.train.steps=1000000", "--config.train.eval_every=1000000")


def launch(name: str, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    """Starts a launcher that is a Python script."""
    return subprocess.Popen(
        [sys.executable, str(LAUNCH / name), *arguments],
        env={**ENV, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_metrics(workdir: Path, process: subprocess.Popen[str], seconds: float = 200) -> None:
    """Waits until a run has logged a step."""
    deadline = time.monotonic() + seconds
    metrics = workdir / "metrics.jsonl"
    while not metrics.exists() or not metrics.stat().st_size:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the run has logged nothing"
        time.sleep(0.2)


def saved_step(workdir: Path) -> int:
    """The newest checkpoint's step."""
    return max(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit())
