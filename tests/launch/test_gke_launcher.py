"""What is rendered for GKE holds against the schema of Kubernetes, and JobSet's own fields against its reference."""

import subprocess
import sys

import pytest
from launching import ENV, LAUNCH

yaml = pytest.importorskip("yaml", reason="needs PyYAML")
kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate")
COMMON = ["--name", "hat", "--image", "registry/tokjax:1", "--claim", "runs"]
TPU = ["tpu", *COMMON, "--accelerator", "tpu-v5-lite-podslice", "--topology", "4x4"]
GPU = ["gpu", *COMMON, "--accelerator", "nvidia-h100-80gb", "--hosts", "2"]
TRAIN = ["--config", "hat:paper", "--workdir", '/runs/it\'s "mine" $HOME: x']


def render(*arguments):
    command = [sys.executable, str(LAUNCH / "gke" / "render.py"), *arguments]
    return subprocess.run(command, env=ENV, capture_output=True, text=True)


def job_of(*arguments):
    done = render(*arguments)
    assert done.returncode == 0, done.stderr
    job_set = yaml.safe_load(done.stdout)
    assert job_set["apiVersion"] == "jobset.x-k8s.io/v1alpha2" and job_set["kind"] == "JobSet"
    assert set(job_set) == {"apiVersion", "kind", "metadata", "spec"}
    assert set(job_set["spec"]) == {"failurePolicy", "replicatedJobs"}
    assert type(job_set["spec"]["failurePolicy"].pop("maxRestarts")) is int
    mistake = {"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    assert job_set["spec"]["failurePolicy"] == {"rules": [mistake]}
    [replicated] = job_set["spec"]["replicatedJobs"]
    assert set(replicated) == {"name", "replicas", "template"} and type(replicated["replicas"]) is int
    return job_set["metadata"]["name"], replicated


@pytest.mark.parametrize("arguments", [TPU, [*TPU, "--spot", "--slices", "2"], GPU, [*GPU, "--spot"]])
def test_the_job_is_one_of_kubernetes(arguments):
    name, replicated = job_of(*arguments, *TRAIN)
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": replicated["template"]["spec"]}
    kubernetes_validate.validate(job, "1.32", strict=True)
    pod = job["spec"]["template"]["spec"]
    assert pod["containers"][0]["command"] == ["tokjax", "train", *TRAIN]
    assert ("cloud.google.com/gke-spot" in pod["nodeSelector"]) == ("--spot" in arguments)
    job["spec"]["completion"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, "1.32", strict=True)


@pytest.mark.parametrize(
    ("topology", "chips", "hosts"), [("4x4", 4, 4), ("2x2", 4, 1), ("2x4", 8, 1), ("4x4x8", 4, 32)]
)
def test_a_pod_for_each_host_of_a_slice(topology, chips, hosts):
    _, replicated = job_of(*TPU, "--topology", topology, "--chips", str(chips), "--slices", "3", *TRAIN)
    spec = replicated["template"]["spec"]
    assert (replicated["replicas"], spec["parallelism"], spec["completions"]) == (3, hosts, hosts)
    assert spec["template"]["spec"]["containers"][0]["resources"]["limits"] == {"google.com/tpu": chips}


def test_gpu_pods_find_each_other():
    from tokjax.sharding.clusters import find

    name, replicated = job_of(*GPU, *TRAIN)
    spec = replicated["template"]["spec"]
    assert spec["completionMode"] == "Indexed"  # which makes Kubernetes set JOB_COMPLETION_INDEX
    variables = {v["name"]: v["value"] for v in spec["template"]["spec"]["containers"][0]["env"]}
    places = [find({**variables, "JOB_COMPLETION_INDEX": str(index)}) for index in range(spec["completions"])]
    assert [(place.process, place.processes) for place in places] == [(0, 2), (1, 2)]
    # the name that JobSet gives pod 0 of the only job, in the headless service that it makes
    assert places[0].coordinator.split(":")[0] == f"{name}-{replicated['name']}-0-0.{name}"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([*TPU, "--topology", "4"], "--topology 4: write the chips"),
        ([*TPU, "--topology", "3x3"], "not whole hosts of 4 chips"),
        (["tpu", *COMMON, "--accelerator", "a"], "--topology None"),
        ([*GPU, "--name", "Hat"], "--name Hat"),
        (["gpu"], "--name"),
    ],
)
def test_mistakes_name_the_option(arguments, says):
    done = render(*arguments)
    assert done.returncode == 2 and says in done.stderr and not done.stdout
