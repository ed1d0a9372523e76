"""Real processes on this machine find each other, however they were told; one missing or wrong ends all with code 2."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

HEARTBEAT_S = 5
JOINS = """
import sys
import jax
from jax.experimental import multihost_utils
from tokjax.core.errors import TokjaxError
from tokjax.sharding import start_processes
try:
    with start_processes():
        total = multihost_utils.process_allgather(jax.numpy.int32(1 + jax.process_index())).sum()
        print(jax.process_index(), jax.process_count(), total, flush=True)
        {then}
except TokjaxError as error:
    print(f"tokjax: error: {{error}}", file=sys.stderr)
    sys.exit(error.exit_code)
"""
TRAIN = [sys.executable, "-m", "tokjax", "train", "--config", "lm:smoke"]
pytestmark = pytest.mark.slow


def free_port() -> int:
    with socket.create_server(("localhost", 0)) as server:
        return server.getsockname()[1]


def start(command, **variables):
    env = {key: value for key, value in os.environ.items() if not key.startswith(("JAX_COORD", "JAX_PROC", "JAX_NUM"))}
    env |= {"TOKJAX_START_TIMEOUT": "60", "PYTHONPATH": str(Path(__file__).parents[2]), **variables}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def joining(then="", **variables):
    return start([sys.executable, "-c", JOINS.format(then=then or "pass")], **variables)


def jax_variables(port, process, processes=2):
    return {
        "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
        "JAX_NUM_PROCESSES": str(processes),
        "JAX_PROCESS_ID": str(process),
    }


def results(*processes):
    ended = [(*process.communicate(timeout=200), process.returncode) for process in processes]
    for out, error, _ in ended:
        assert "Traceback" not in error, error + out
    return ended


def slurm_variables(port, process):
    return {
        "SLURM_JOB_ID": str(port), "SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": str(process), "SLURM_LOCALID": str(process),
    }  # fmt: skip


def open_mpi_variables(port, process):
    return {
        "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": str(process), "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
        "OMPI_COMM_WORLD_LOCAL_RANK": str(process), "PMIX_NAMESPACE": str(port),
    }  # fmt: skip


@pytest.mark.parametrize("variables", [jax_variables, slurm_variables, open_mpi_variables])
def test_two_processes_are_one_run(variables):
    port = free_port()
    ended = results(*(joining(**variables(port, process)) for process in (1, 0)))
    assert [(out.split()[-3:], code) for out, _, code in ended] == [(["1", "2", "3"], 0), (["0", "2", "3"], 0)], ended


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="needs mpirun (Debian package openmpi-bin)")
def test_mpirun():
    options = ["--allow-run-as-root", "--oversubscribe", "-n", "2"]
    [(out, error, code)] = results(start(["mpirun", *options, sys.executable, "-c", JOINS.format(then="pass")]))
    assert code == 0, error
    assert {"0 2 3", "1 2 3"} <= set(out.splitlines())


@pytest.mark.parametrize("present", [0, 1])
def test_a_peer_that_does_not_come_is_named(present, tmp_path):
    port = free_port()
    flags = ["--coordinator", f"localhost:{port}", "--processes", "2", "--process", str(present)]
    [(_, error, code)] = results(start([*TRAIN, "--workdir", str(tmp_path), *flags], TOKJAX_START_TIMEOUT="2"))
    assert code == 2
    assert f"localhost:{port} within 2 s" in error and "--coordinator" in error
    assert ("process 1 did not come" if present == 0 else "process 1 of 2 could not reach process 0") in error


def test_a_wrong_number_of_processes_ends_all():
    port = free_port()
    ended = results(joining(**jax_variables(port, 0, 2)), joining(**jax_variables(port, 1, 3)))
    for _, error, code in ended:
        assert code == 2 and "process 1 was told that there are 3 processes, process 0 that there are 2" in error


def test_one_number_given_twice_ends_all():
    port = free_port()
    ended = results(*(joining(**jax_variables(port, process, 4)) for process in (0, 1, 1)))
    for _, error, code in ended:
        assert code == 2 and "two processes are number 1" in error


def test_a_port_in_use_is_an_error():
    with socket.create_server(("", 0)) as other:
        [(_, error, code)] = results(joining(**jax_variables(other.getsockname()[1], 0)))
    assert code == 2 and "cannot listen" in error and "another port" in error


def test_what_else_connects_is_ignored():
    port = free_port()
    first = joining(**jax_variables(port, 0))
    while True:
        try:
            with socket.create_connection(("localhost", port)) as stranger:
                stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
            break
        except OSError:
            assert first.poll() is None
            time.sleep(0.05)
    ended = results(first, joining(**jax_variables(port, 1)))
    assert [code for *_, code in ended] == [0, 0], ended


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_in_one_process_keeps_its_exit_code_and_ends_the_other(failing):
    then = f"""
        from tokjax.core.errors import SpecError
        if jax.process_index() == {failing}:
            raise SpecError("wrong")
        multihost_utils.sync_global_devices("never")
    """
    port = free_port()
    processes = [joining(then.strip(), **jax_variables(port, process)) for process in (0, 1)]
    _, error = processes[failing].communicate(timeout=100)
    assert processes[failing].returncode == 2 and error.splitlines()[-1] == "tokjax: error: wrong", error
    other = processes[1 - failing]
    other.communicate(timeout=200)
    assert other.returncode != 0


def test_a_hung_peer_is_not_waited_for():
    then = 'import time; time.sleep(500 * jax.process_index()); multihost_utils.sync_global_devices("never")'
    port = free_port()
    seconds = {"TOKJAX_HEARTBEAT_TIMEOUT": str(HEARTBEAT_S)}
    processes = [joining(then, **jax_variables(port, process), **seconds) for process in (0, 1)]
    for process in processes:
        assert process.stdout is not None
        while not process.stdout.readline().endswith("2 3\n"):
            pass
    processes[1].send_signal(signal.SIGSTOP)
    try:
        _, error = processes[0].communicate(timeout=200)
    finally:
        processes[1].kill()
        processes[1].communicate()
    assert processes[0].returncode != 0 and "heartbeat" in error.lower(), error
