"""What a system costs: FLOPs per byte, parameters, peak memory.

FLOPs are counted analytically by each system (XLA counts the body of a loop once) and checked against XLA on
unrolled programs in the tests. A training step costs three forward passes.
"""

import contextlib
import resource
import sys
from pathlib import Path

import jax

from tokjax.core.types import System
from tokjax.nn.param import count

BACKWARD = 2.0  # a backward pass multiplies with each matrix twice


def train_flops_per_step(system: System, batch_size: int, length: int) -> float:
    """FLOPs of forward and backward on one batch of this shape."""
    return (1.0 + BACKWARD) * system.flops(batch_size, length)


def flops_per_byte(system: System, length: int, bytes_per_target: float) -> float:
    """Forward FLOPs per byte of text on full rows of `length` targets."""
    return system.flops(1, length) / (length * bytes_per_target)


def parameters(system: System) -> int:
    """Trained scalars."""
    return count(system.declare())


def peak_memory_bytes() -> int:
    """Largest resident set of this process since `reset_peak_memory`, in bytes.

    Host memory only, and all of it: what the process already held counts. Where there is no /proc, since its start.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def peak_device_memory_bytes() -> int | None:
    """Most bytes that were in use on one device of this process; None where nobody counts them, as on CPUs."""
    found = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()]
    return max((size for size in found if size is not None), default=None)


def reset_peak_memory() -> None:
    """Starts the peak of `peak_memory_bytes` anew; does nothing where the system has no such switch."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
