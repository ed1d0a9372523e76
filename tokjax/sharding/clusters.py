"""Which of how many processes this one is: pure functions of flags, variables and what clusters set."""

import dataclasses
import re
import zlib
from collections.abc import Callable, Mapping

from tokjax.core.errors import SpecError
from tokjax.core.spec import check

FLAGS = ("--coordinator", "--processes", "--process")
VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_TPU_PORT = 8482
_FIRST_OF_EPHEMERAL_PORTS = 61440


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProcessSpec:
    """One process's place among those of a run.

    Attributes:
      coordinator: HOST:PORT where process 0 listens.
      processes: how many the run has.
      process: the number of this one, from 0.
      devices: which of the GPUs it sees are its own, where several processes share a machine; None for all.
      names: what the first three are called where they come from, for messages.
    """

    coordinator: str
    processes: int
    process: int
    devices: tuple[int, ...] | None = None
    names: tuple[str, str, str] = dataclasses.field(default=FLAGS, compare=False)

    @property
    def loopback(self) -> str | None:
        """127.0.0.1:PORT where all processes are on this machine, which then listens to no other; else None."""
        host, _, port = self.coordinator.rpartition(":")
        return f"127.0.0.1:{port}" if host in ("localhost", "127.0.0.1") else None

    def __post_init__(self):
        host, _, port = self.coordinator.rpartition(":")
        fits = bool(host) and port.isdigit() and 0 < int(port) < 2**16
        check(fits, self.names[0], self.coordinator, "write HOST:PORT, as in 10.0.0.2:8476.")
        check(self.processes >= 1, self.names[1], self.processes, "give the number of processes, 1 or more.")
        within = f"number the processes from 0 to {self.processes - 1}, as {self.names[1]} is {self.processes}."
        check(0 <= self.process < self.processes, self.names[2], self.process, within)


def find(
    env: Mapping[str, str],
    *,
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    tpu_attribute: Callable[[str], str | None] | None = None,
) -> ProcessSpec | None:
    """Returns the place of this process among those of its run, or None where it is the only one.

    The flags count before the variables `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`, and those
    before what Open MPI, Slurm or a TPU pod says; the variables may state a part and leave the rest to the cluster.
    Where the number of processes is stated to be 1, nothing else is looked at.

    Args:
      env: the environment's variables.
      coordinator: flag, HOST:PORT.
      processes: flag.
      process: flag.
      tpu_attribute: name of a metadata attribute -> its value or None, on a Cloud TPU machine.

    Raises:
      SpecError: a setting is missing, impossible, or contradicts the cluster.
    """
    if (coordinator, processes, process) != (None, None, None):
        return _stated(FLAGS, coordinator, processes, process)
    address = env.get(VARIABLES[0]) or None
    count, number = (_whole(env, name) if env.get(name) else None for name in VARIABLES[1:])
    if count == 1:
        return _stated(VARIABLES, address, count, number)
    cluster = _open_mpi(env) or _slurm(env) or _tpu_of_kubernetes(env) or _cloud_tpu(env, tpu_attribute)
    if cluster is None:
        if (address, count, number) == (None, None, None):
            return None
        if number is None and env.get("JOB_COMPLETION_INDEX"):  # set in the pods of a Kubernetes Job that are numbered
            number = _whole(env, "JOB_COMPLETION_INDEX")
        return _stated(VARIABLES, address, count, number)
    for name, stated, said_by, said in (
        (VARIABLES[1], count, cluster.names[1], cluster.processes),
        (VARIABLES[2], number, cluster.names[2], cluster.process),
    ):
        if stated not in (None, said):
            raise SpecError(
                f"{name}: got {stated}, but {said_by} says {said}; unset {name}, or give {', '.join(FLAGS)}."
            )
    return cluster


def _stated(
    names: tuple[str, str, str], address: str | None, count: int | None, number: int | None
) -> ProcessSpec | None:
    if count == 1 and number in (None, 0):
        return None
    for name, value in zip(names, (address, count, number), strict=True):
        if value is None:
            raise SpecError(
                f"{name}: missing; give {names[0]} (HOST:PORT of process 0), {names[1]} (how many) and {names[2]} "
                f"(which one, from 0) together, or none of them; {names[1]} 1 alone is a run of one process."
            )
    assert address is not None and count is not None and number is not None
    return ProcessSpec(coordinator=address, processes=count, process=number, names=names)


def _open_mpi(env: Mapping[str, str]) -> ProcessSpec | None:
    names = ("Open MPI's address", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK")
    if env.get(names[1], "1") == "1":
        return None
    size, rank = _whole(env, names[1]), _whole(env, names[2])
    local_size, local_rank = _whole(env, "OMPI_COMM_WORLD_LOCAL_SIZE"), _whole(env, "OMPI_COMM_WORLD_LOCAL_RANK")
    launcher = re.search(r"tcp://([^,:]+)|tcp6://\[([^,\]]+)", env.get("OMPI_MCA_orte_hnp_uri", ""))  # before version 5
    if local_size == size:
        host = "127.0.0.1"
    elif launcher:
        host = launcher[1] or f"[{launcher[2]}]"
    elif env.get(VARIABLES[0]):
        host = ""
    else:
        raise SpecError(
            f"{VARIABLES[0]}: missing; this Open MPI does not say where process 0 is. "
            f"Tell all of them: mpirun -x {VARIABLES[0]}=HOST:PORT ..."
        )
    return ProcessSpec(
        coordinator=_address(env, host, zlib.crc32(env.get("PMIX_NAMESPACE", "").encode())),
        processes=size,
        process=rank,
        devices=_share(env, local_rank, local_size),
        names=names,
    )


def _slurm(env: Mapping[str, str]) -> ProcessSpec | None:
    """The tasks of one `srun`; SLURM_NTASKS also stands in scripts and shells that are a single process."""
    names = ("SLURM_STEP_NODELIST", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID")
    if env.get(names[1], "1") == "1" or names[0] not in env:
        return None
    size, rank, local_rank = _whole(env, names[1]), _whole(env, names[2]), _whole(env, "SLURM_LOCALID")
    # The first of 'node[007-9,12]-ib,other' is node007-ib.
    first = re.match(r"([^\[,]+)(?:\[(\d+)[^\]]*\]([^\[,]*))?", env[names[0]])
    host = "".join(part or "" for part in first.groups()) if first else ""
    job = 16 * _whole(env, "SLURM_JOB_ID") + _whole(env, "SLURM_STEP_ID")
    tasks = [  # of each node, from '4(x2),3'
        int(count)
        for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", env.get("SLURM_STEP_TASKS_PER_NODE", str(size)))
        for _ in range(int(times or 1))
    ]
    node = int(env.get("SLURM_NODEID", 0))
    return ProcessSpec(
        coordinator=_address(env, host, job),
        processes=size,
        process=rank,
        devices=_share(env, local_rank, tasks[min(node, len(tasks) - 1)]),
        names=names,
    )


def _tpu_of_kubernetes(env: Mapping[str, str]) -> ProcessSpec | None:
    """TPU nodes of GKE, whose webhook tells each container of its peers; several slices with what a JobSet adds."""
    name = next((name for name in ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES") if env.get(name)), None)
    if name is None or not _may_use_tpus(env):
        return None
    return _slices(env, env[name].split(","), env.get("TPU_WORKER_ID", "0"), env.get, (name, name, "TPU_WORKER_ID"))


def _cloud_tpu(env: Mapping[str, str], attribute: Callable[[str], str | None] | None) -> ProcessSpec | None:
    """Cloud TPU machines, which ask the metadata server; a machine that has no peers gets None."""
    if attribute is None or "TPU_SKIP_MDS_QUERY" in env or not _may_use_tpus(env):
        return None
    names = ("worker-network-endpoints", "worker-network-endpoints", "agent-worker-number")
    endpoints, number = attribute(names[0]), attribute(names[2])
    if not endpoints or not number:
        return None
    tpu_env = dict(re.findall(r"^(\w+): *'?([^'\n]*)'?$", attribute("tpu-env") or "", re.MULTILINE))
    hosts = [endpoint.split(":")[-1] for endpoint in endpoints.split(",")]  # HOST, or NAME:NUMBER:HOST
    return _slices(env, hosts, number, lambda name: env.get(name) or tpu_env.get(name), names)


def _slices(
    env: Mapping[str, str],
    workers: list[str],
    worker: str,
    read: Callable[[str], str | None],
    names: tuple[str, str, str],
) -> ProcessSpec | None:
    slices = int(read("MEGASCALE_NUM_SLICES") or 1)
    if len(workers) * slices == 1:
        return None
    host = (read("MEGASCALE_COORDINATOR_ADDRESS") or workers[0]).split(":")[0]
    check(worker.isdigit(), names[2], worker, "give a whole number.")
    return ProcessSpec(
        coordinator=_address(env, host, None),
        processes=len(workers) * slices,
        process=int(worker) + len(workers) * int(read("MEGASCALE_SLICE_ID") or 0),
        names=names,
    )


def _may_use_tpus(env: Mapping[str, str]) -> bool:
    platforms = env.get("JAX_PLATFORMS", "")
    return not platforms or "tpu" in platforms.split(",")


def _address(env: Mapping[str, str], host: str, job: int | None) -> str:
    """Returns the stated address, or `host` with a port that all processes of a job derive and other jobs hardly do."""
    if env.get(VARIABLES[0]):
        return env[VARIABLES[0]]
    default = _TPU_PORT if job is None else _FIRST_OF_EPHEMERAL_PORTS + job % 4096
    return f"{host}:{env.get('JAX_COORDINATOR_PORT') or default}"


def _share(env: Mapping[str, str], rank: int, size: int) -> tuple[int, ...] | None:
    """Returns which of the visible GPUs are those of process `rank` of `size` on this machine, or None for all."""
    if size == 1 or env.get("JAX_LOCAL_DEVICE_IDS"):  # which JAX reads itself
        return None
    if "CUDA_VISIBLE_DEVICES" not in env:
        return (rank,)
    each = len(env["CUDA_VISIBLE_DEVICES"].split(",")) // size
    return tuple(range(rank * each, (rank + 1) * each)) or None  # each sees one GPU: the cluster has shared them out


def _whole(env: Mapping[str, str], name: str) -> int:
    value = env.get(name, "")
    check(value.isdigit(), name, value, "give a whole number.")
    return int(value)
