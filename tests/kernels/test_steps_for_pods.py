"""Whole training steps of paper size, compiled for pods, need what is recorded of them."""

import importlib.metadata
import json
from pathlib import Path

import pytest

from benchmarks.programs import CASES, row
from tokjax.sharding.topologies import why_not

RECORD = Path(__file__).parents[2] / "benchmarks" / "results" / "programs.json"
MEMORY = {"v5e": 15.75, "h100": 79.1}  # GiB that a program may take


def recorded():
    return json.loads(RECORD.read_text())


def changes(old, new):
    """Readable lines of what differs by more than a hundredth."""
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from (f"{key}, {line}" for line in changes(before, after))
        elif isinstance(before, float) and isinstance(after, float):
            if abs(after - before) > 0.01 * max(abs(before), abs(after)):
                yield (
                    f"{key}: {before} was recorded, is {after} ({after / before - 1:+.0%})"
                    if before
                    else f"{key}: {after}"
                )
        elif before != after:
            yield f"{key}: {before} was recorded, is {after}"


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def test_a_step_needs_what_is_recorded_of_it(case, compiled):
    recipe, topology, *_ = case
    reason = why_not(topology)
    version = recorded()["environment"]["versions"]["jax"]
    if reason is None and importlib.metadata.version("jax") != version:
        reason = f"{topology}: steps are recorded of jax {version}; record anew by `python -m benchmarks.programs`."
    if reason:
        compiled(f"not compiled: step of {recipe}:paper for {reason}")
        pytest.skip(reason)
    found = row(*case)
    old = next(r for r in recorded()["rows"] if (r["recipe"], r["topology"]) == (found["recipe"], topology))
    lines = list(changes(old, found))
    assert not lines, (
        f"{recipe} on {topology} is another program; record it by `python -m benchmarks.programs`:\n" + "\n".join(lines)
    )
    compiled(f"step of {recipe}:paper: {topology}, {found['temporary_gib']:.2f} GiB of temporary memory a device")


def test_steps_that_are_recorded_fit_their_devices():
    for found in recorded()["rows"]:
        size = found["argument_gib"] + found["temporary_gib"]
        assert size < MEMORY[found["topology"].partition(":")[0]], found


def test_changes_are_named():
    old = {"temporary_gib": 2.0, "teraflops": 1.0, "received_gib": {"all-gather": 1.0}, "mesh": "fsdp 4"}
    new = {
        "temporary_gib": 3.0,
        "teraflops": 1.001,
        "received_gib": {"all-gather": 0.5, "all-reduce": 0.2},
        "mesh": "fsdp 8",
    }
    assert list(changes(old, new)) == [
        "mesh: fsdp 4 was recorded, is fsdp 8",
        "received_gib, all-gather: 1.0 was recorded, is 0.5 (-50%)",
        "received_gib, all-reduce: None was recorded, is 0.2",
        "temporary_gib: 2.0 was recorded, is 3.0 (+50%)",
    ]
