"""Which process this is follows from what launchers set, and one that has no peers never waits for any."""

import pytest

from tokjax.core.errors import SpecError
from tokjax.sharding.clusters import ProcessSpec, find

# What `srun -n 4` sets in the third task, on the second node of an allocation, as Slurm 22.05 does.
SLURM = {
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "gpu[007-008]",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_NTASKS": "4",
    "SLURM_NODEID": "1",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
}
# What `mpirun -n 2` of Open MPI 4.1 sets in the second process.
OPEN_MPI = {
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "1",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    "OMPI_MCA_orte_hnp_uri": "1541144576.0;tcp://192.0.2.2,10.0.0.3:60299;tcp6://[fd00::2]:50151",
    "PMIX_NAMESPACE": "1541144577",
}
GKE = {"TPU_WORKER_HOSTNAMES": "w-0.s,w-1.s", "TPU_WORKER_ID": "1"}
JAX = {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}


def place(spec: ProcessSpec | None) -> tuple[str, int, int] | None:
    return None if spec is None else (spec.coordinator, spec.processes, spec.process)


def pod(attributes: dict[str, str]):
    return {"tpu_attribute": attributes.get}


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"JAX_NUM_PROCESSES": "1"},
        {"JAX_NUM_PROCESSES": "1", **SLURM},
        {"OMPI_COMM_WORLD_SIZE": "1"},
        {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"},
        {"TPU_PROCESS_ADDRESSES": "local", "TPU_WORKER_ID": "0", "TPU_SKIP_MDS_QUERY": "1"},
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "3"},
        # a batch script, and a shell of salloc, in an allocation for four tasks
        {key: SLURM[key] for key in ("SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")},
        {**SLURM, "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_ID": "4294967290"},
    ],
    ids=lambda env: ",".join(env) or "laptop",
)
def test_one_process_waits_for_nobody(env):
    assert find(env) is None


def test_a_tpu_machine_without_peers_waits_for_nobody():
    assert find({}, **pod({"worker-network-endpoints": "10.0.0.2", "agent-worker-number": "0"})) is None
    assert find({}, **pod({})) is None


def test_flags_come_first():
    spec = find({**JAX, **SLURM}, coordinator="b:2", processes=8, process=7)
    assert place(spec) == ("b:2", 8, 7)
    assert find({**JAX, **SLURM}, processes=1) is None


def test_variables():
    assert place(find(JAX)) == ("a:1", 2, 1)
    numbered_pod = {**JAX, "JAX_PROCESS_ID": "", "JOB_COMPLETION_INDEX": "0"}
    assert place(find(numbered_pod)) == ("a:1", 2, 0)


def test_slurm():
    spec = find(SLURM)
    assert place(spec) == (f"gpu007:{61440 + 16 * 77}", 4, 2)
    assert place(find({**SLURM, "JAX_COORDINATOR_ADDRESS": "login:9"})) == ("login:9", 4, 2)
    assert place(find({**SLURM, "JAX_COORDINATOR_PORT": "9"})) == ("gpu007:9", 4, 2)
    same_step = {**SLURM, "SLURM_PROCID": "0", "SLURM_NODEID": "0"}
    assert find(same_step).coordinator == spec.coordinator
    assert find({**SLURM, "SLURM_STEP_ID": "1"}).coordinator != spec.coordinator


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("n1", "n1"), ("n1,n2", "n1"), ("n[03-05],x", "n03"), ("n[3,5-7]", "n3"), ("n[3-4]-ib,x[1-2]", "n3-ib")],
)
def test_the_first_slurm_node(nodes, first):
    assert find({**SLURM, "SLURM_STEP_NODELIST": nodes}).coordinator.split(":")[0] == first


@pytest.mark.parametrize(
    ("visible", "rank", "devices"),
    [
        (None, 1, (1,)),  # not known: one each
        ("0,1,2,3", 0, (0, 1)),
        ("0,1,2,3", 1, (2, 3)),
        ("5", 1, None),  # Slurm has given each task its own
    ],
)
def test_processes_of_one_machine_share_its_gpus(visible, rank, devices):
    env = {**SLURM, "SLURM_LOCALID": str(rank)}
    if visible is not None:
        env["CUDA_VISIBLE_DEVICES"] = visible
    assert find(env).devices == devices
    assert find({**env, "JAX_LOCAL_DEVICE_IDS": "0"}).devices is None


def test_one_process_a_machine_has_all_its_gpus():
    uneven = {**SLURM, "SLURM_STEP_TASKS_PER_NODE": "3,1", "SLURM_NODEID": "1", "SLURM_PROCID": "3"}
    assert find(uneven).devices is None


def test_open_mpi():
    spec = find(OPEN_MPI)
    assert place(spec)[1:] == (2, 1)
    assert spec.coordinator.startswith("192.0.2.2:")
    assert find({**OPEN_MPI, "OMPI_COMM_WORLD_RANK": "0"}).coordinator == spec.coordinator
    assert find({**OPEN_MPI, "PMIX_NAMESPACE": "1541144578"}).coordinator != spec.coordinator
    v6 = {**OPEN_MPI, "OMPI_MCA_orte_hnp_uri": "1.0;tcp6://[fd00::2,fd00::3]:5"}
    assert find(v6).coordinator.startswith("[fd00::2]:")


def test_open_mpi_that_does_not_say_where_process_0_is():
    env = {key: value for key, value in OPEN_MPI.items() if key != "OMPI_MCA_orte_hnp_uri"}  # version 5
    assert find({**env, "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}).coordinator.startswith("127.0.0.1:")
    assert place(find({**env, "JAX_COORDINATOR_ADDRESS": "n:4"})) == ("n:4", 2, 1)
    with pytest.raises(SpecError, match="mpirun -x JAX_COORDINATOR_ADDRESS"):
        find(env)


def test_mpirun_inside_slurm_is_open_mpi():
    assert place(find({**SLURM, **OPEN_MPI}))[1:] == (2, 1)


def test_tpus_of_kubernetes():
    assert place(find(GKE)) == ("w-0.s:8482", 2, 1)
    slices = {"MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1", "MEGASCALE_COORDINATOR_ADDRESS": "j-0.s:8080"}
    assert place(find({**GKE, **slices})) == ("j-0.s:8482", 4, 3)
    assert find({**GKE, "JAX_PLATFORMS": "cpu"}) is None


def test_cloud_tpu_pods():
    attributes = {"worker-network-endpoints": "unknown:unknown:10.0.0.2,unknown:unknown:10.0.0.3"}
    attributes["agent-worker-number"] = "1"
    assert place(find({}, **pod(attributes))) == ("10.0.0.2:8482", 2, 1)
    assert place(find({}, **pod({**attributes, "worker-network-endpoints": "h0,h1"}))) == ("h0:8482", 2, 1)
    attributes["tpu-env"] = "A: 'b'\nMEGASCALE_NUM_SLICES: '2'\nMEGASCALE_SLICE_ID: '0'\n"
    attributes["tpu-env"] += "MEGASCALE_COORDINATOR_ADDRESS: '10.0.0.9:8080'\n"
    assert place(find({}, **pod(attributes))) == ("10.0.0.9:8482", 4, 1)
    assert find({"TPU_SKIP_MDS_QUERY": "1"}, **pod(attributes)) is None


@pytest.mark.parametrize(
    ("env", "flags", "says"),
    [
        ({}, {"coordinator": "a:1"}, "--processes: missing"),
        ({}, {"coordinator": "a:1", "processes": 2}, "--process: missing"),
        ({}, {"process": 0}, "--coordinator: missing"),
        ({}, {"processes": 2, "process": 0, "coordinator": "a"}, "--coordinator: got 'a'; write HOST:PORT"),
        ({}, {"processes": 2, "process": 0, "coordinator": ":80"}, "--coordinator: got ':80'"),
        ({}, {"processes": 2, "process": 0, "coordinator": "a:65536"}, "--coordinator: got"),
        (
            {},
            {"processes": 2, "process": 2, "coordinator": "a:1"},
            "--process: got 2; number the processes from 0 to 1",
        ),
        ({}, {"processes": 2, "process": -1, "coordinator": "a:1"}, "--process: got -1"),
        ({}, {"processes": 0, "process": 0, "coordinator": "a:1"}, "--processes: got 0"),
        ({}, {"processes": 1, "process": 1, "coordinator": "a:1"}, "--process: got 1"),
        ({**JAX, "JAX_PROCESS_ID": ""}, {}, "JAX_PROCESS_ID: missing"),
        ({**JAX, "JAX_NUM_PROCESSES": "two"}, {}, "JAX_NUM_PROCESSES: got 'two'"),
        ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}, {}, "JAX_COORDINATOR_ADDRESS: missing"),
        ({**JAX, "JAX_PROCESS_ID": "2"}, {}, "JAX_PROCESS_ID: got 2"),
        # set once in a batch script, and so the same in every task
        ({**SLURM, **JAX, "JAX_NUM_PROCESSES": "4"}, {}, "JAX_PROCESS_ID: got 1, but SLURM_PROCID says 2; unset"),
        ({**SLURM, "JAX_NUM_PROCESSES": "3"}, {}, "JAX_NUM_PROCESSES: got 3, but SLURM_STEP_NUM_TASKS says 4"),
        ({**SLURM, "SLURM_PROCID": ""}, {}, "SLURM_PROCID: got ''"),
        ({**OPEN_MPI, "OMPI_COMM_WORLD_RANK": "2"}, {}, "OMPI_COMM_WORLD_RANK: got 2"),
    ],
)
def test_partial_and_contradictory_settings_name_what_to_change(env, flags, says):
    with pytest.raises(SpecError) as error:
        find(env, **flags)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("coordinator", "address"),
    [("localhost:81", "127.0.0.1:81"), ("127.0.0.1:82", "127.0.0.1:82"), ("10.0.0.2:83", None), ("node1:84", None)],
)
def test_a_run_on_one_machine_listens_to_no_other(coordinator, address):
    assert ProcessSpec(coordinator=coordinator, processes=2, process=0).loopback == address
