"""Chips that are not here: topologies of TPUs and GPUs that programs compile for on a machine without them.

The compilers come in wheels: `libtpu` for TPUs, `jax-cuda13-plugin` and NVIDIA's assembler for GPUs (extra `compile`).
What is compiled this way cannot run here, but the memory it needs, the collectives it makes and what a kernel's
registers spill are those of the real program.
"""

import importlib.util
import os
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import topologies

from tokjax.core.errors import SpecError
from tokjax.measure.pods import topology

TPUS = ("v5e", "v5p", "v6e")
GPUS = ("h100",)
# What XLA must know of a GPU it cannot ask: the H100 with 80 GB of HBM3 (SXM).
_H100 = """gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: 3352320000000 l2_cache_size: 52428800
  clock_rate_ghz: 1.98 device_memory_size: 84929347584 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 } registers_per_core_limit: 65536 registers_per_block_limit: 65536 }
platform_name: "CUDA" dnn_version_info { major: 9 minor: 12 } runtime_version { major: 13 }
device_description_str: "NVIDIA H100 80GB HBM3" """


def why_not(name: str) -> str | None:
    """Returns why nothing can be compiled for the topology `name` here, or None where it can."""
    chip = name.split(":")[0]
    if chip in TPUS and importlib.util.find_spec("libtpu") is None:
        return f"{name}: the TPU compiler is not installed; pip install 'tokjax[compile]' on Python 3.12 or newer."
    if chip in GPUS and importlib.util.find_spec("jax_cuda13_plugin") is None:
        return f"{name}: the GPU compiler is not installed; pip install 'tokjax[compile]' on Python 3.12 or newer."
    return None


def chips(name: str) -> Sequence[Any]:
    """Returns the devices of a topology, to make a mesh of or to compile for; none of them can run anything.

    Args:
      name: as of `measure.pods.topology`: `v5e:4x4`, `v6e:2x2`, `v5p:2x2x1` or `h100:4`.

    Raises:
      SpecError: an unknown chip, a shape it does not come in, or a compiler that is not installed.
    """
    asked = topology(name)
    reason = why_not(name)
    if reason:
        raise SpecError(f"topology: {reason}")
    try:
        if not asked.chip.axes:
            machines = -(-asked.devices // asked.chip.machine)
            shape = f"1x{machines}x{asked.devices // machines}"
            return topologies.get_topology_desc(platform="cuda", target_config=_H100, topology=shape).devices
        # Neither another process's lock nor the address of a metadata server matters to a compiler.
        os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
        return topologies.get_topology_desc(name, platform="tpu").devices
    except (ValueError, RuntimeError, jax.errors.JaxRuntimeError) as error:
        raise SpecError(f"topology: {name!r} cannot be made: {error}") from error
