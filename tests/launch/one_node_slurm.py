"""A Slurm of one node on this machine: a controller and a daemon of their own, in a directory of their own."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

TOOLS = ("sbatch", "squeue", "scontrol", "slurmctld", "slurmd")
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
AuthType=auth/none
CredType=cred/none
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool
SlurmctldPidFile={directory}/controller.pid
SlurmdPidFile={directory}/daemon.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
SchedulerParameters=sched_interval=1
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=1000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES OverSubscribe=FORCE:4 State=UP
"""


def why_not() -> str | None:
    """Returns why no Slurm can be started here, or None."""
    missing = [tool for tool in TOOLS if shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin") is None]
    if missing:
        return f"needs {', '.join(missing)} (Debian packages slurmctld, slurmd, slurm-client)"
    return None if os.getuid() == 0 else "slurmd starts tasks as root only"


@contextlib.contextmanager
def cluster(directory: Path) -> Iterator[dict[str, str]]:
    """Yields the environment in which Slurm's commands speak to it."""
    for name in ("state", "spool"):
        (directory / name).mkdir()
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        ports = one.getsockname()[1], other.getsockname()[1]
    configuration = directory / "slurm.conf"
    configuration.write_text(
        CONFIGURATION.format(
            host=socket.gethostname().split(".")[0],
            controller=ports[0],
            daemon=ports[1],
            user="root",
            directory=directory,
            cpus=os.cpu_count(),
        )
    )
    env = {**os.environ, "SLURM_CONF": str(configuration), "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    with contextlib.ExitStack() as stack:
        for daemon in ("slurmctld", "slurmd"):
            log = stack.enter_context(open(directory / f"{daemon}.log", "w"))
            process = subprocess.Popen([daemon, "-D"], env=env, stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.terminate)
        deadline = time.monotonic() + 60
        while "idle" not in (answer := subprocess.run(["sinfo", "-h"], env=env, capture_output=True, text=True)).stdout:
            if time.monotonic() > deadline:
                logs = "\n".join(path.read_text() for path in directory.glob("*.log"))
                raise RuntimeError(f"no node is ready: {answer.stdout}{answer.stderr}\n{logs}")
            time.sleep(0.5)
        yield env
