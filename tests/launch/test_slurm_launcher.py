"""The batch script on a real Slurm, of one node that the test starts."""

import subprocess
import sys
import time

import one_node_slurm
import pytest
from launching import ENV, LAUNCH, endless, saved_step, train, wait_for_metrics

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(one_node_slurm.why_not() is not None, reason=str(one_node_slurm.why_not())),
]
TWO_TASKS = ["--ntasks-per-node=2", "--overcommit"]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with one_node_slurm.cluster(tmp_path_factory.mktemp("slurm")) as env:
        yield {**ENV, **env, "PYTHONPATH": ENV["PYTHONPATH"], "PYTHON": sys.executable}


def submit(slurm, log, *arguments, options=()):
    command = ["sbatch", "--parsable", f"--output={log}", *TWO_TASKS, *options, LAUNCH / "slurm" / "train.sbatch"]
    done = subprocess.run([*map(str, command), *arguments], env=slurm, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def state(slurm, job):
    shown = subprocess.run(
        ["scontrol", "show", "job", job], env=slurm, capture_output=True, text=True, check=True
    ).stdout
    return dict(field.split("=", 1) for field in shown.split() if "=" in field)


def wait_for_end(slurm, job, log):
    deadline = time.monotonic() + 300
    while (found := state(slurm, job))["JobState"] in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING"):
        assert time.monotonic() < deadline, (found, log.read_text() if log.exists() else "")
        time.sleep(0.5)
    return found["JobState"], found["ExitCode"]


def test_slurm_takes_the_script(slurm, tmp_path):
    command = ["sbatch", "--test-only", str(LAUNCH / "slurm" / "train.sbatch"), *train(tmp_path)]
    done = subprocess.run(command, env=slurm, capture_output=True, text=True)
    assert done.returncode == 0 and "to start at" in done.stderr, done.stderr


def test_two_tasks_are_one_run(slurm, tmp_path):
    log, workdir = tmp_path / "log", tmp_path / "run"
    job = submit(slurm, log, *train(workdir))
    assert wait_for_end(slurm, job, log) == ("COMPLETED", "0:0"), log.read_text()
    assert f"0: step 20 of 20 saved in {workdir}" in log.read_text()


def test_a_mistake_is_the_exit_code_of_the_job(slurm, tmp_path):
    log = tmp_path / "log"
    job = submit(slurm, log, "--config", "lmm", "--workdir", str(tmp_path / "run"))
    assert wait_for_end(slurm, job, log) == ("FAILED", "2:0"), log.read_text()
    assert "Unknown configuration 'lmm'" in log.read_text()


def test_the_signal_before_the_end_saves(slurm, tmp_path):
    log, workdir = tmp_path / "log", tmp_path / "run"
    job = submit(slurm, log, *endless(workdir))
    with subprocess.Popen(["sleep", "infinity"], text=True) as alive:  # what the wait below watches over
        try:
            wait_for_metrics(workdir, alive)
        finally:
            alive.kill()
    subprocess.run(["scancel", "--signal=TERM", job], env=slurm, check=True)  # what --signal=TERM@120 does
    assert wait_for_end(slurm, job, log)[0] == "FAILED"
    assert f"step {saved_step(workdir)} of 1000000 saved" in log.read_text()
