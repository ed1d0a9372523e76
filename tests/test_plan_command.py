"""`tokjax plan` as a user meets it."""

import json
import subprocess
import sys

import pytest

from tokjax.sharding.topologies import why_not


def plan(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "tokjax", "plan", *arguments], capture_output=True, text=True, timeout=500
    )


def test_the_answer_is_a_table_with_the_best_mesh_marked():
    done = plan("--config", "lm:paper", "--topology", "h100:8", "--config.optimizer.accumulate_steps=4")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("lm:paper fits h100:8 on the mesh ")
    assert "fsdp=4,tensor=2" in done.stdout and " * " in done.stdout and "kept activations" in done.stdout


def test_json_says_what_would_fit():
    done = plan("--config", "lm_7b:paper", "--topology", "v5e:4x4", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["devices"] == 16 and found["recommended"] is None and found["compiled"] is None
    assert round(found["parameters"] / 1e9, 1) == 7.0
    assert all("optimizer.accumulate_steps" in line for line in found["advice"]) and found["advice"]
    one = found["meshes"][0]
    assert one["bytes"] == sum(one["memory"].values()) > one["limit"] and not one["fits"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--config", "lm:paper", "--topology", "v9:4x4"), "topology: got 'v9:4x4'; use a chip of v5e"),
        (("--config", "lmm", "--topology", "v5e:4x4"), "Did you mean 'lm'?"),
        (("--config", "lm:paper", "--topology", "v5e:4x4", "--mesh", "fsdp=5"), "does not fit 16 devices"),
        (("--config", "lm:paper", "--topology", "v5e:4x4", "--config.data.rows=5"), "config.data has no field 'rows'"),
    ],
)
def test_mistakes_are_one_line(arguments, message):
    done = plan(*arguments)
    assert done.returncode == 2 and message in done.stderr
    assert done.stderr.count("\n") == 1 and not done.stdout


@pytest.mark.skipif(why_not("h100:4") is None, reason="the compiler is installed")
def test_compiling_without_a_compiler_says_what_to_install():
    done = plan("--config", "lm:smoke", "--topology", "h100:4", "--compile")
    assert done.returncode == 2 and "pip install 'tokjax[compile]'" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(why_not("h100:4") is not None, reason="the compiler is not installed")
def test_what_the_compiler_says_stands_beside_the_estimate():
    done = plan("--config", "lm:smoke", "--topology", "h100:4", "--mesh", "fsdp=4", "--compile", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    [one] = found["meshes"]
    state = sum(one["memory"][name] for name in one["given"])
    assert state - 8 == found["compiled"]["arguments"]  # the program reads no key
    assert found["compiled"]["traffic"]["all-gather"] > 0


def test_help_says_what_compiling_needs():
    done = plan("--help")
    assert done.returncode == 0 and "--compile" in done.stdout and "extra `compile`" in done.stdout
