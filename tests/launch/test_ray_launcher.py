"""The launcher for Ray on a real cluster of two nodes on this machine."""

import os
import signal

import pytest
from launching import ENV, endless, launch, saved_step, train, wait_for_metrics

pytest.importorskip("ray", reason="needs ray (pip install 'tokjax[ray]')")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address():
    from ray.cluster_utils import Cluster

    os.environ["PYTHONPATH"], before = ENV["PYTHONPATH"], os.environ.get("PYTHONPATH")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    yield cluster.address
    cluster.shutdown()
    os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)


def test_two_workers_are_one_run(address, tmp_path):
    process = launch("ray_train.py", "--workers", "2", *train(tmp_path), RAY_ADDRESS=address)
    out, error = process.communicate(timeout=400)
    assert process.returncode == 0, out + error
    assert f"[0] step 20 of 20 saved in {tmp_path}" in out


def test_a_failure_is_the_exit_code(address, tmp_path):
    arguments = ["--config", "lmm", "--workdir", str(tmp_path)]
    process = launch("ray_train.py", "--workers", "2", *arguments, RAY_ADDRESS=address)
    out, error = process.communicate(timeout=200)
    assert process.returncode == 2, error
    assert "Unknown configuration 'lmm'" in out + error


def test_sigterm_saves(address, tmp_path):
    process = launch("ray_train.py", "--workers", "2", *endless(tmp_path), RAY_ADDRESS=address)
    wait_for_metrics(tmp_path, process)
    process.send_signal(signal.SIGTERM)
    out, error = process.communicate(timeout=200)
    assert process.returncode == 143, out + error
    assert f"step {saved_step(tmp_path)} of 1000000 saved" in out


def test_more_workers_than_there_is_room_for(address, tmp_path):
    options = ["--workers", "9", "--wait", "2"]
    process = launch("ray_train.py", *options, *train(tmp_path), RAY_ADDRESS=address)
    _, error = process.communicate(timeout=200)
    assert process.returncode == 2 and "no place for 9" in error


def test_without_a_cluster():
    process = launch("ray_train.py", "--workers", "1", RAY_ADDRESS="127.0.0.1:1")
    _, error = process.communicate(timeout=200)
    assert process.returncode == 2 and "no Ray cluster" in error, error
