"""The commands that the script for TPU pods gives to gcloud, which a stand-in writes down."""

import subprocess

import pytest
from launching import ENV, LAUNCH

GCLOUD = """#!/bin/sh
printf '%s\\n' "$*" >> {folder}/calls
case "$*" in
    *describe*) n=$(cat {folder}/polls 2>/dev/null || echo 0); echo $((n + 1)) > {folder}/polls
                if [ $n -ge 2 ]; then echo {state}; else echo PROVISIONING; fi ;;
    *"tokjax train"*) exit {code} ;;
esac
"""
POD = {"NAME": "hat", "ZONE": "us-central1-a", "TYPE": "v5litepod-16", "VERSION": "v2-alpha-tpuv5-lite"}


def run(tmp_path, *arguments, state="ACTIVE", code=0, **variables):
    gcloud = tmp_path / "gcloud"
    gcloud.write_text(GCLOUD.format(folder=tmp_path, state=state, code=code))
    gcloud.chmod(0o755)
    env = {**ENV, "PATH": f"{tmp_path}:{ENV['PATH']}", "POLL_SECONDS": "0.1", **POD, **variables}
    done = subprocess.run([LAUNCH / "tpu_pod.sh", *arguments], env=env, capture_output=True, text=True)
    calls = tmp_path / "calls"
    return done, calls.read_text().splitlines() if calls.exists() else []


def test_all_asks_waits_installs_trains_and_gives_back(tmp_path):
    done, calls = run(tmp_path, "all", "--config", "hat:paper", "--workdir", "/mnt/my runs", SPOT="1")
    assert done.returncode == 0, done.stderr
    queued = "compute tpus queued-resources"
    assert calls[0] == (
        f"{queued} create hat --zone us-central1-a --node-id hat --accelerator-type v5litepod-16 "
        "--runtime-version v2-alpha-tpuv5-lite --spot"
    )
    assert sum("describe" in call for call in calls) == 3  # until it is active
    rest = [call for call in calls[1:] if "describe" not in call]
    assert rest[0].startswith("compute tpus tpu-vm scp ")
    assert rest[0].endswith("tokjax.tar.gz hat: --zone us-central1-a --worker all")
    assert rest[1].startswith("compute tpus tpu-vm ssh hat --zone us-central1-a --worker all --command ")
    assert any("pip install" in call and "tokjax[tpu]" in call for call in rest)
    train = "--command venv/bin/tokjax train --config hat:paper --workdir /mnt/my\\ runs"
    assert rest[-2] == f"compute tpus tpu-vm ssh hat --zone us-central1-a --worker all {train}"
    assert rest[-1] == f"{queued} delete hat --zone us-central1-a --force --quiet"


def test_a_failed_run_gives_the_machines_back_and_keeps_its_exit_code(tmp_path):
    done, calls = run(tmp_path, "all", "--config", "lm", code=3)
    assert done.returncode == 3
    assert "delete hat" in calls[-1]


def test_machines_that_are_refused(tmp_path):
    done, calls = run(tmp_path, "all", state="FAILED")
    assert done.returncode == 1 and "hat is FAILED" in done.stderr
    assert "delete hat" in calls[-1] and not any("tpu-vm" in call for call in calls)


def test_a_disk_is_mounted_before_the_run(tmp_path):
    done, calls = run(tmp_path, "train", "--config", "lm", MOUNT="sudo mount 10.0.0.2:/runs /mnt/runs")
    assert done.returncode == 0, done.stderr
    assert len(calls) == 1 and calls[0].index("sudo mount 10.0.0.2") < calls[0].index("venv/bin/tokjax train")


@pytest.mark.parametrize(
    ("arguments", "variables", "says"),
    [([], {}, "give a step"), (["trian"], {}, "no step trian"), (["create"], {"TYPE": ""}, "set TYPE")],
)
def test_mistakes_call_nothing(arguments, variables, says, tmp_path):
    done, calls = run(tmp_path, *arguments, **variables)
    assert done.returncode != 0 and says in done.stderr and not calls
