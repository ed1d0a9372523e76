"""Which form of an operation runs: by platform, shapes and version of JAX, and plain XLA where nothing better can.

A kernel is chosen automatically only where it compiles: each is tried once for its shapes, and one that fails is named
in a warning and replaced by XLA.
"""

import functools
import warnings
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor

import jax

from tokjax.core import platform
from tokjax.core.errors import SpecError, nearest

_MOSAIC_GPU = (0, 11)  # kernels for NVIDIA GPUs are written against Mosaic GPU as it is from this version of JAX on
_HOPPER = "9."  # and for this compute capability, whose instructions neither older nor newer chips have

_failures: dict[Hashable, str | None] = {}  # (operation, shapes) -> why its kernel does not compile here, or None


def choose(
    operation: str,
    asked: str | None,
    *,
    unsupported: Callable[[str], str | None],
    trial: Callable[[], object],
    shapes: Hashable,
) -> str:
    """Returns the implementation of `operation` to run: `xla` or `pallas`.

    Args:
      operation: its name, for messages.
      asked: what the caller wants; None chooses by platform, shapes and version.
      unsupported: platform -> why the kernel cannot take these shapes there, or None.
      trial: compiles the kernel for these shapes, on the machine at hand, or raises.
      shapes: what `trial` depends on; it runs once for each.

    Raises:
      SpecError: an unknown implementation, or a kernel that was asked for and cannot run.
    """
    if asked not in (None, "xla", "pallas"):
        raise SpecError(f"implementation: got {asked!r}.{nearest(asked, ('xla', 'pallas'))}")
    if asked == "xla":
        return "xla"
    where = platform.target()
    if where == "cpu":
        return asked or "xla"  # a CPU only interprets kernels, which is for tests, and slow
    reason = _unsuited(where) or unsupported(where)
    if reason is None and where == jax.default_backend():
        reason = _why_it_fails(trial, (operation, shapes))
        if reason and asked is None:
            _warn(f"{operation}: its kernel does not compile here, XLA runs instead ({reason})")
    if reason is None:
        return "pallas"
    if asked is None:
        return "xla"
    raise SpecError(f"implementation: 'pallas' cannot run {operation} here: {reason}; use 'xla', or None to choose.")


def _unsuited(where: str) -> str | None:
    """Returns why no kernel runs on the platform `where`, or None."""
    if where != "gpu":
        return None
    if where == jax.default_backend():
        device = jax.devices()[0]
        if not str(getattr(device, "compute_capability", "")).startswith(_HOPPER):
            return f"kernels for GPUs need NVIDIA's Hopper generation, this is a {device.device_kind}"
    if jax.version.__version_info__[:2] < _MOSAIC_GPU:
        reason = f"kernels for GPUs need jax {'.'.join(map(str, _MOSAIC_GPU))} or newer, this is {jax.__version__}"
        _warn(f"XLA runs where this GPU could run kernels: {reason}, on Python 3.12 or newer.")
        return reason
    return None


def _why_it_fails(trial: Callable[[], object], key: Hashable) -> str | None:
    if key not in _failures:
        # In a thread of its own the trial is under no mesh and no trace of the caller's.
        with ThreadPoolExecutor(1) as thread:
            error = thread.submit(trial).exception()
        _failures[key] = None if error is None else _first_line(error)
    return _failures[key]


@functools.cache
def _warn(message: str) -> None:
    """Warns the first time that something is to be said."""
    warnings.warn(message, stacklevel=4)


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}"
