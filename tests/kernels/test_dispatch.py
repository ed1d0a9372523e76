"""What runs where: a kernel only where it compiles, XLA elsewhere, and one warning that says why."""

import warnings

import jax
import jax.numpy as jnp
import pytest

from tokjax.core import platform
from tokjax.core.errors import SpecError
from tokjax.kernels import dispatch
from tokjax.kernels.nearest_code import pallas_tpu
from tokjax.kernels.nearest_code.api import nearest


@pytest.fixture
def machine(monkeypatch):
    """Pretends that the machine has a platform, and forgets what was tried."""
    monkeypatch.setattr(dispatch, "_failures", {})
    dispatch._warn.cache_clear()
    return lambda name: monkeypatch.setattr(jax, "default_backend", lambda: name)


class Tried:
    def __init__(self, error=None):
        self.error, self.times = error, 0

    def __call__(self):
        self.times += 1
        if self.error:
            raise self.error


def choose(asked, tried, *, unsupported=None, shapes=(8, 8)):
    return dispatch.choose("op", asked, unsupported=lambda where: unsupported, trial=tried, shapes=shapes)


def test_a_cpu_takes_xla_and_interprets_a_kernel_only_when_asked():
    tried = Tried()
    assert choose(None, tried) == "xla" and choose("pallas", tried) == "pallas" and choose("xla", tried) == "xla"
    assert tried.times == 0


def test_a_kernel_that_compiles_is_taken_and_tried_once_for_its_shapes(machine):
    machine("tpu")
    tried = Tried()
    assert [choose(None, tried), choose(None, tried), choose("pallas", tried)] == ["pallas"] * 3
    assert tried.times == 1
    assert choose(None, tried, shapes=(16, 8)) == "pallas" and tried.times == 2


def test_one_that_fails_to_compile_is_named_once_and_xla_runs(machine):
    machine("tpu")
    tried = Tried(NotImplementedError("Unimplemented primitive: cumsum\nmore"))
    with pytest.warns(
        UserWarning, match=r"op: .* XLA runs instead \(NotImplementedError: Unimplemented primitive: cumsum\)"
    ):
        assert choose(None, tried) == "xla"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose(None, tried) == "xla"
    assert tried.times == 1
    with pytest.raises(SpecError, match=r"'pallas' cannot run op here: NotImplementedError: .*; use 'xla', or None"):
        choose("pallas", tried)


def test_shapes_that_it_does_not_take_need_no_trial(machine):
    machine("tpu")
    tried = Tried()
    assert choose(None, tried, unsupported="too wide") == "xla"
    with pytest.raises(SpecError, match="cannot run op here: too wide"):
        choose("pallas", tried, unsupported="too wide")
    assert tried.times == 0


class Gpu:
    device_kind = "chip"

    def __init__(self, capability):
        self.compute_capability = capability


@pytest.mark.parametrize("capability", ["8.0", "10.0", "gfx942"])  # A100, B200, MI300
def test_gpus_of_other_generations_run_xla(machine, monkeypatch, capability):
    machine("gpu")
    monkeypatch.setattr(jax, "devices", lambda *_: [Gpu(capability)])
    tried = Tried()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # there is nothing that a user could do about it
        assert choose(None, tried) == "xla" and tried.times == 0
    with pytest.raises(SpecError, match="need NVIDIA's Hopper generation, this is a chip"):
        choose("pallas", tried)


def test_an_old_jax_on_a_gpu_that_could_is_named_once(machine, monkeypatch):
    machine("gpu")
    monkeypatch.setattr(jax, "devices", lambda *_: [Gpu("9.0")])
    monkeypatch.setattr(jax.version, "__version_info__", (0, 10, 2))
    with pytest.warns(UserWarning, match=r"XLA runs .* need jax 0.11 or newer, this is .* on Python 3.12 or newer"):
        assert choose(None, Tried()) == "xla"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose(None, Tried(), shapes=(9, 9)) == "xla"
    with pytest.raises(SpecError, match=r"kernels for GPUs need jax 0.11 or newer"):
        choose("pallas", Tried())


def test_a_failure_that_was_an_error_before_is_still_warned_of(machine):
    machine("tpu")
    tried = Tried(NotImplementedError("no"))
    with pytest.raises(SpecError, match="cannot run op here"):
        choose("pallas", tried)
    with pytest.warns(UserWarning, match="XLA runs instead"):
        assert choose(None, tried) == "xla"


def test_what_is_placed_on_the_cpu_of_a_machine_with_more_runs_there(machine):
    cpu = jax.devices("cpu")[0]
    machine("tpu")
    assert platform.target() == "tpu"
    with jax.default_device(cpu):
        assert choose(None, Tried()) == "xla" and platform.target() == "cpu"


def test_for_a_chip_that_is_not_here_the_kernel_is_taken_untried(monkeypatch):
    forgotten = []
    monkeypatch.setattr(jax, "clear_caches", lambda: forgotten.append(platform.target()))
    tried = Tried()
    with platform.compiling_for("tpu"):
        assert platform.target() == "tpu"
        assert choose(None, tried) == "pallas"
    assert tried.times == 0 and platform.target() == jax.default_backend()
    assert len(forgotten) == 2  # what was traced before for here, and in between for there


def test_unknown_names_are_refused():
    with pytest.raises(SpecError, match=r"implementation: got 'palas'. Did you mean 'pallas'?"):
        choose("palas", Tried())


def test_the_kernel_that_is_tried_is_the_one_of_the_platform(machine, monkeypatch):
    machine("tpu")
    monkeypatch.setattr(pallas_tpu, "least", lambda *_, **__: 1 / 0)
    with pytest.raises(SpecError, match="'pallas' cannot run nearest_code here: ZeroDivisionError"):
        nearest(jnp.ones((4, 8)), jnp.ones((4, 8)), implementation="pallas")
