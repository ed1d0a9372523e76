"""The same program on one device and on eight simulated ones: the same losses, and arrays that really are split."""

import json
from pathlib import Path

import numpy as np
import pytest
import simulated

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def checks(tmp_path_factory):
    printed = simulated.run(8, HERE / "eight_devices.py", folders=[HERE.parent / "train"])
    return [json.loads(line) for line in printed]


def find(checks, name):
    return next(check for check in checks if check["check"] == name)


@pytest.mark.slow
@pytest.mark.parametrize(("mesh", "parts"), [("data", 1), ("fsdp", 2), ("cube", 4), ("sequence", 2)])
def test_every_mesh_gives_the_losses_of_one_device(checks, mesh, parts):
    one, many = find(checks, "one"), find(checks, mesh)
    # Sums over the batch are taken in another order, and six steps of Adam carry the difference on.
    np.testing.assert_allclose(many["losses"], one["losses"], rtol=1e-5)
    np.testing.assert_allclose(many["first"], one["first"], atol=1e-4)
    assert set(many["parts"]) == {parts}  # the parameter, its average, and both moments of Adam
    assert many["loaded"]


@pytest.mark.slow
def test_a_run_may_move_between_meshes(checks):
    assert [(c["devices"], c["step"]) for c in checks if c["check"] == "moved"] == [(8, 6), (1, 6)]


@pytest.mark.slow
def test_constrain_lays_out_what_it_can(checks):
    assert find(checks, "constrain")["spec"]
    assert find(checks, "uneven")["sum"] == 6.0
    assert find(checks, "inside")["sum"] == 24.0


@pytest.mark.slow
def test_what_does_not_fit_is_named(checks):
    errors = find(checks, "errors")
    assert "dimensions 'batch' and 'embed'" in errors["conflict"] and "'fsdp'" in errors["conflict"]
    assert "['bias']" in errors["uneven_param"] and "size 15" in errors["uneven_param"]
    assert "batch['ids']" in errors["uneven_batch"] and "pad it to a multiple of 4" in errors["uneven_batch"]
