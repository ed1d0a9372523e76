"""The launcher of this machine and of hosts over SSH: all processes, one exit code, signals that reach everyone."""

import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from launching import endless, launch, saved_step, train, wait_for_metrics

pytestmark = pytest.mark.slow


def test_two_processes_are_one_run(tmp_path):
    process = launch("local.py", "--processes", "2", *train(tmp_path))
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    assert out.splitlines()[-1] == f"[0] step 20 of 20 saved in {tmp_path}"
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps)) and steps[-1] == 20  # one of them writes


def test_a_failure_is_shown_by_process_and_is_the_exit_code(tmp_path):
    process = launch("local.py", "--processes", "2", "--config", "lmm", "--workdir", str(tmp_path))
    _, error = process.communicate(timeout=100)
    assert process.returncode == 2
    lines = error.splitlines()
    assert any(line.startswith(("[0] tokjax: error: Unknown", "[1] tokjax: error: Unknown")) for line in lines), error
    assert all(line.startswith(("[0] ", "[1] ")) for line in lines)


def test_a_killed_process_ends_the_others(tmp_path):
    launcher = launch("local.py", "--processes", "2", *endless(tmp_path), TOKJAX_HEARTBEAT_TIMEOUT="10")
    wait_for_metrics(tmp_path, launcher)
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children")
    if not children.exists():
        launcher.terminate()
        launcher.communicate()
        pytest.skip("needs /proc to find the processes")
    first, second = map(int, children.read_text().split())
    os.kill(second, signal.SIGKILL)
    launcher.communicate(timeout=200)
    assert launcher.returncode not in (0, None)
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)


def test_sigterm_saves_and_the_same_command_goes_on(tmp_path):
    launcher = launch("local.py", "--processes", "2", *endless(tmp_path))
    wait_for_metrics(tmp_path, launcher)
    launcher.send_signal(signal.SIGTERM)
    out, error = launcher.communicate(timeout=200)
    assert launcher.returncode == 143, error  # not done: a scheduler starts it again
    step = saved_step(tmp_path)
    assert f"step {step} of 1000000 saved" in out
    again = launch("local.py", "--processes", "1", *train(tmp_path, f"--config.train.steps={step + 10}"))
    out, error = again.communicate(timeout=300)
    assert again.returncode == 0, error
    assert f"step {step + 10} of {step + 10} saved" in out


def test_no_processes():
    launcher = launch("local.py", "--processes", "0")
    assert "--processes" in launcher.communicate()[1] and launcher.returncode == 2


@pytest.fixture
def ssh(tmp_path):
    """A directory for PATH, with an ssh that knows how to reach a server of this test's."""
    server = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    if server is None or os.getuid():
        pytest.skip("needs sshd (Debian package openssh-server), and root to start it")
    Path("/run/sshd").mkdir(exist_ok=True)  # which the system's own start-up of sshd makes
    for key in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / key)], check=True)
    with socket.create_server(("localhost", 0)) as probe:
        port = probe.getsockname()[1]
    (tmp_path / "sshd").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {tmp_path}/host\nAuthorizedKeysFile {tmp_path}/user.pub\n"
        "StrictModes no\nPasswordAuthentication no\nPermitRootLogin yes\n"
    )
    (tmp_path / "config").write_text(
        f"Host localhost\n Port {port}\n IdentityFile {tmp_path}/user\n User {getpass.getuser()}\n"
        f" StrictHostKeyChecking no\n UserKnownHostsFile {tmp_path}/known\n LogLevel ERROR\n"
    )
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {tmp_path}/config "$@"\n')
    (tmp_path / "bin" / "ssh").chmod(0o755)
    daemon = subprocess.Popen([server, "-D", "-e", "-f", str(tmp_path / "sshd")], stderr=subprocess.DEVNULL)
    yield f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    daemon.terminate()
    daemon.wait()


def test_sigterm_reaches_other_hosts(tmp_path, ssh):
    workdir = tmp_path / "run"
    launcher = launch("local.py", "--hosts", "localhost,localhost", *endless(workdir), PATH=ssh)
    wait_for_metrics(workdir, launcher)
    launcher.send_signal(signal.SIGTERM)
    out, error = launcher.communicate(timeout=200)
    assert launcher.returncode == 143, error
    assert f"[0] step {saved_step(workdir)} of 1000000 saved" in out


def test_a_host_that_cannot_be_reached(tmp_path, ssh):
    launcher = launch("local.py", "--hosts", "nosuchhost.invalid", *train(tmp_path / "run"), PATH=ssh)
    _, error = launcher.communicate(timeout=100)
    assert launcher.returncode == 255 and "[0] ssh: Could not resolve hostname" in error
