"""Plans: exact where arithmetic can be, close to what compilers say where it cannot, and of use where nothing fits."""

import functools
import json
from pathlib import Path

import pytest
import simulated

from benchmarks.plan import CASES, estimated
from tokjax.core.errors import SpecError, UnknownNameError
from tokjax.experiment.config import load_config, override
from tokjax.experiment.plan import make_plan, mesh_name, meshes, parse_mesh
from tokjax.experiment.work import traced_step, work_on
from tokjax.measure.pods import GIB, topology

SCRIPT = Path(__file__).parent / "planned_on_eight.py"
RECORD = Path(__file__).parents[2] / "benchmarks" / "results" / "plan.json"
DEEP = (
    "system.tied=False", "system.backbone.layers=8", "system.backbone.remat=True", "system.backbone.scan_layers=True",
)  # fmt: skip
KEY = 8  # bytes of the key, which programs without randomness leave out
# Recipe, mesh, changes -> bytes of arguments that the program does not read, and so does not have.
EXACT = {
    ("lm:smoke", "fsdp=8"): KEY,
    ("lm:smoke", "fsdp=4,tensor=2", "optimizer.ema_decay=0.9"): KEY,
    ("hat:smoke", "data=2,fsdp=4"): KEY,
    ("titok:smoke", "data=4,fsdp=2"): KEY + 4 * 32 // 8,  # and the labels of a device's images
}
SPLIT, COPIED, TENSOR = (("lm:smoke", mesh, *DEEP) for mesh in ("fsdp=8", "data=8", "data=4,tensor=2"))


@functools.cache
def on_eight_devices():
    cases = [*EXACT, SPLIT, COPIED, TENSOR]
    printed = simulated.run(8, SCRIPT, json.dumps(cases), timeout=900)
    return dict(zip(cases, json.loads(printed[-1]), strict=True))


@functools.cache
def plan(name, pod, *changes, mesh=None):
    config = override(load_config(name), changes).to_dict()
    return make_plan(name, config, topology(pod), mesh and parse_mesh(mesh, topology(pod).devices))


@pytest.mark.slow
@pytest.mark.parametrize("case", EXACT, ids=lambda case: " ".join(case))
def test_state_is_the_bytes_of_the_programs_arguments(case):
    found = on_eight_devices()[case]
    assert found["state"] - EXACT[case] == found["arguments"]


@pytest.mark.slow
def test_traffic_of_split_parameters_is_that_of_the_program():
    found = on_eight_devices()[SPLIT]
    # Two tables stand outside the layers: one is gathered once, of the other vectors travel instead.
    assert found["received"]["all-gather"] == pytest.approx(found["traffic"]["gather"], rel=0.15)
    # A CPU has no reduce-scatter: it sums everything everywhere, at twice the traffic.
    assert found["received"]["all-reduce"] == pytest.approx(2 * found["traffic"]["reduce"], rel=0.1)


@pytest.mark.slow
def test_traffic_of_copied_parameters_is_that_of_the_program():
    found = on_eight_devices()[COPIED]
    assert found["traffic"]["gather"] == 0
    # The rest are sums of metrics.
    assert found["received"] == {"all-reduce": pytest.approx(found["traffic"]["reduce"], rel=0.01)}


@pytest.mark.slow
def test_traffic_of_split_layers_is_that_of_the_program():
    found = on_eight_devices()[TENSOR]
    sums = found["traffic"]["reduce"] + found["traffic"]["tensor"]
    assert found["received"]["all-reduce"] == pytest.approx(sums, rel=0.05)
    assert found["received"]["all-gather"] < 0.01 * sums  # no weight and no activation is put together again


def test_the_fastest_mesh_that_fits_is_recommended():
    found = plan("lm:paper", "h100:8", "optimizer.accumulate_steps=4")
    fitting = [one.estimate.step_seconds for one in found.candidates if one.estimate and one.estimate.fits]
    assert found.fits and not found.advice and found.best.estimate.step_seconds == min(fitting)
    assert {"fsdp=8", "data=8", "fsdp=4,tensor=2"} <= {one.name for one in found.candidates}


def test_where_nothing_fits_what_would_is_said():
    found = plan("lm_7b:paper", "v5e:2x4")
    assert not found.fits and found.best.estimate.bytes == min(
        one.estimate.bytes for one in found.candidates if one.estimate
    )
    smaller, larger = found.advice
    assert smaller == "no batch fits v5e:2x4, however small"
    assert larger.startswith("v5e:4x4 fits with optimizer.accumulate_steps=64: ")


@pytest.mark.parametrize("mesh", [None, "fsdp=8,tensor=2"])
def test_advice_is_true(mesh):
    found = plan("lm_7b:paper", "v5e:4x4", mesh=mesh)
    change, said = found.advice[0].split(" fits: ")
    again = plan("lm_7b:paper", "v5e:4x4", change, mesh=mesh)
    assert not found.fits and again.fits
    assert said.startswith(f"{again.best.estimate.bytes / GIB:.1f} GiB") and said.endswith(f"on {again.best.name}")
    half = change.split("=")[0] + "=" + str(int(change.split("=")[1]) // 2)
    assert not plan("lm_7b:paper", "v5e:4x4", half, mesh=mesh).fits  # in fewer parts it does not fit


def test_recomputing_keeps_less_and_costs_a_pass():
    once, again = (
        plan("lm:paper", "h100:8", f"system.backbone.remat={remat}", mesh="fsdp=8").best.estimate
        for remat in (False, True)
    )
    assert again.memory["kept activations"] < once.memory["kept activations"] / 10
    assert again.compute_seconds == pytest.approx(once.compute_seconds * 4 / 3)


def test_layers_are_the_inputs_that_recomputation_keeps():
    step = traced_step(load_config("lm:paper").to_dict(), "tpu")
    one = {"data": 1, "fsdp": 1, "tensor": 1, "sequence": 1}
    work = work_on(step, one)
    assert work.kept == work.inputs == 24 * 2048 * 1024 * 2  # layers, positions, channels, bytes
    assert work.layer > 16 * 2048 * 2048 * 4  # the scores of its heads among other things
    assert sum(weight.size for weight in work.weights) == step.parameters
    assert work.flops == 256 * step.flops and work.number == 2
    split = work_on(step, one | {"tensor": 2})
    assert split.kept == work.kept and split.layer < 0.6 * work.layer


@pytest.mark.slow
def test_images_and_encoders_are_planned_too():
    for name in ("titok_l32:paper", "vqgan:paper", "maskgit:paper", "byte2word:paper", "megabyte:paper"):
        found = plan(name, "v5p:2x2x1").best.estimate
        assert found.bytes > 0 and found.step_seconds > 0, name


@pytest.mark.parametrize(
    ("name", "pod", "changes", "mesh", "message"),
    [
        ("lm:smoke", "v5e:4x4", (), "tensor=4,data=4", r"\['backbone'\].*does not|which 4 devices .* do not divide"),
        ("lm:smoke", "v5e:4x4", (), "fsdp=16", r"batch.ids: dimension 0 .* which 16 devices"),
        ("lm:smoke", "v5e:8x8", (), None, "no mesh fits lm:smoke; with fsdp=64, batch.ids"),
        ("lm:paper", "v5e:4x4", ("optimizer.accumulate_steps=3",), None, "make data.batch_size a multiple of 48"),
        ("lm:paper", "v5e:4x4", ("data.batch_size=0",), None, "data.batch_size: got 0"),
        ("code_lm:paper", "v5e:4x4", (), None, "system.vocab_size: missing"),
    ],
)
def test_what_cannot_be_planned_is_named(name, pod, changes, mesh, message):
    with pytest.raises(SpecError, match=message):
        plan(name, pod, *changes, mesh=mesh)


def test_a_system_that_does_not_exist_is_named():
    with pytest.raises(UnknownNameError, match="lmm"):
        make_plan("mine", load_config("lm:smoke").to_dict() | {"system": {"name": "lmm"}}, topology("h100:1"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fsdp=5", "does not fit 16 devices"),
        ("fdsp=4", "no axis 'fdsp'. Did you mean 'fsdp'"),
        ("tensor=many", "tensor needs a number of devices"),
        ("fsdp=-1,tensor=-1", "only one axis can take the rest"),
    ],
)
def test_a_mesh_that_cannot_be_is_named(text, message):
    with pytest.raises(SpecError, match=message):
        parse_mesh(text, 16)


def test_meshes_use_every_device_once():
    assert parse_mesh("fsdp=4", 16) == {"data": 4, "fsdp": 4, "tensor": 1, "sequence": 1}
    assert parse_mesh("fsdp=-1", 16)["fsdp"] == 16
    for devices in (1, 4, 8, 64, 256):
        names = [mesh_name(mesh) for mesh in meshes(devices)]
        assert len(set(names)) == len(names)
        for mesh in meshes(devices):
            assert mesh == parse_mesh(mesh_name(mesh), devices)


def recorded():
    return json.loads(RECORD.read_text())["rows"]


def test_estimates_are_near_what_compilers_say():
    """State but for the padding of TPUs' tiles; temporary memory within a factor of 2; traffic the least there is.

    Where layers are run again TPUs gather their weights again, and on v5p gathers are sums, which bring twice as much.
    """
    most = {"h100": 1.02, "v5e": 1.6, "v5p": 2.5}
    for row in recorded():
        assert 0.99 < row["compiled_state_gib"] / row["state_gib"] < 1.35, row
        assert 0.5 <= row["compiled_temporary_gib"] / row["temporary_gib"] < 1.5, row
        assert row["compiled_traffic_gib"] > 0.95 * row["traffic_gib"], row
        assert row["compiled_traffic_gib"] < most[row["topology"].partition(":")[0]] * row["traffic_gib"], row


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda number: " ".join(CASES[number][:3]))
def test_the_record_is_of_todays_estimates(number):
    now = estimated(*CASES[number])
    assert {name: recorded()[number][name] for name in now} == now
