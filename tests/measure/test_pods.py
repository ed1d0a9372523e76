"""Arithmetic on pods: closed forms, what topologies are refused, and what more devices may not do."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokjax.core.errors import SpecError
from tokjax.measure.pods import CHIPS, PRODUCTS, STREAMS, USABLE, Weight, Work, estimate, topology

MIB = 2**20
# Two layers of a mebinumber each, split both ways, and a table that only `fsdp` splits.
WORK = Work(
    weights=(
        Weight(size=2 * MIB, layers=2, split=("fsdp", "tensor")),
        Weight(size=MIB, layers=1, split=("fsdp",)),
    ),
    number=2, flops=1e12, rows=64, micro_batches=1, recomputes=True, kept=2 * MIB, layer=10 * MIB, layers=20 * MIB,
    ends=3 * MIB, inputs=2 * MIB, state={"parameters": 12 * MIB, "optimizer": 24 * MIB},
)  # fmt: skip


def mesh(**sizes):
    return {"data": 1, "fsdp": 1, "tensor": 1, "sequence": 1} | sizes


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v9:4x4", "use a chip of v5e, v5p, v6e, h100 and a shape"),
        ("v5e", "give v5e a shape as in 'v5e:4x4'"),
        ("v5e:4x4x4", "give v5e a shape as in 'v5e:4x4'"),
        ("v5p:4x4", "give v5p a shape as in 'v5p:4x4x4'"),
        ("v5p:0x4x4", "give v5p a shape as in 'v5p:4x4x4'"),
        ("h100:two", "give h100 a shape as in 'h100:8'"),
        ("v6e:32x32", "at most 256 chips of v6e"),
        ("h100:12", "use a multiple of its 8 chips"),
    ],
)
def test_a_topology_that_cannot_be_is_named(name, message):
    with pytest.raises(SpecError, match="topology: got") as raised:
        topology(name)
    assert message in str(raised.value) and name in str(raised.value)


def test_links_of_a_mesh_axis():
    torus, sheet, box, boxes = (topology(name) for name in ("v5p:4x4x4", "v5e:4x4", "h100:8", "h100:16"))
    assert torus.devices == 64
    assert torus.speed(64, 1) == pytest.approx(6 * CHIPS["v5p"].link)  # three rings, heard from both sides
    assert torus.speed(4, 1) == pytest.approx(2 * CHIPS["v5p"].link)
    assert sheet.speed(16, 1) == pytest.approx(2 * CHIPS["v5e"].link)  # two open axes
    assert topology("v5e:16x16").speed(256, 1) == pytest.approx(4 * CHIPS["v5e"].link)
    assert box.speed(8, 1) == CHIPS["h100"].link
    assert boxes.speed(8, 1) == CHIPS["h100"].link  # within a machine
    assert boxes.speed(2, 8) == boxes.speed(16, 1) == CHIPS["h100"].network


def test_closed_forms_of_split_parameters():
    pod = topology("h100:8")
    found = estimate(WORK, mesh(fsdp=8), pod)
    numbers = 3 * MIB
    assert found.traffic["gather"] == 2 * 2 * numbers * 7 / 8  # two passes, two bytes, all but its own part
    assert found.traffic["reduce"] == 2 * numbers * 7 / 8
    assert found.traffic["tensor"] == found.traffic["sequence"] == found.exposed_seconds == 0
    assert found.hidden_seconds == pytest.approx(
        (found.traffic["gather"] + found.traffic["reduce"]) / (STREAMS * pod.chip.link)
    )
    assert found.compute_seconds == pytest.approx(4 * 1e12 / 8 / (PRODUCTS * pod.chip.flops))
    assert found.memory["gradients"] == 4 * numbers / 8
    assert found.memory["gathered parameters"] == 2 * (3 * MIB + MIB)
    assert found.memory["kept activations"] == 8 * 2 * MIB and found.memory["one layer"] == 8 * 2 * 10 * MIB
    assert found.limit == USABLE * 80e9 and found.fits
    assert found.mfu == pytest.approx(3 * 1e12 / 8 / pod.chip.flops / found.step_seconds)


def test_closed_forms_of_copied_and_tensor_parameters():
    pod = topology("h100:8")
    copied = estimate(WORK, mesh(data=8), pod)
    assert copied.traffic["gather"] == 0
    assert copied.traffic["reduce"] == 2 * 2 * 3 * MIB * 7 / 8  # an all-reduce is a scatter and a gather
    split = estimate(WORK, mesh(data=4, tensor=2), pod)
    # Five sums of what layers read, of 64 / 4 rows; the half that the other device has, there and back.
    assert split.traffic["tensor"] == 2 * 5 * 16 * 2 * MIB / 2
    assert split.traffic["reduce"] == 2 * 2 * (MIB + MIB) * 3 / 4
    assert split.exposed_seconds > 0


def test_a_model_that_is_too_large_does_not_fit():
    found = estimate(dataclasses.replace(WORK, state={"parameters": 80 * 10**9}), mesh(fsdp=8), topology("h100:8"))
    assert not found.fits and found.headroom < 0


@given(
    st.sampled_from(sorted(CHIPS)), st.integers(0, 3), st.booleans(), st.floats(0, 1e9), st.floats(0, 1e9),
    st.integers(1, 2**30),
)  # fmt: skip
def test_more_devices_never_need_more_memory_each(chip, power, recomputes, kept, layer, size):
    weights = (Weight(size=size, layers=4, split=("fsdp",)), Weight(size=100, layers=1, split=()))
    work = dataclasses.replace(WORK, weights=weights, recomputes=recomputes, kept=kept, layer=layer)
    shapes = {"v5e": "{}x1", "v6e": "{}x1", "v5p": "{}x1x1", "h100": "{}"}
    few, more = 2**power, 2 ** (power + 1)
    before, after = (estimate(work, mesh(fsdp=n), topology(f"{chip}:{shapes[chip].format(n)}")) for n in (few, more))
    for name in before.memory:
        assert after.memory[name] <= before.memory[name]
    assert after.compute_seconds < before.compute_seconds
    assert before.step_seconds <= before.slowest_seconds
    assert 0 < before.mfu < PRODUCTS


def test_parts_of_a_batch_bound_memory_and_gather_again():
    whole, parts = (
        estimate(dataclasses.replace(WORK, micro_batches=n), mesh(fsdp=8), topology("v5e:8x1")) for n in (1, 4)
    )
    assert parts.memory["one layer"] == whole.memory["one layer"] / 4
    assert parts.memory["gradients"] == 2 * whole.memory["gradients"]  # a sum beside those of a part
    assert parts.traffic["gather"] == 4 * whole.traffic["gather"]
    assert parts.compute_seconds == whole.compute_seconds
