"""How fast the chips are that a program may run on, by their makers' data sheets."""

# Peak dense FLOP/s of one JAX device in bfloat16, by `jax.Device.device_kind`. A TPU7x chip is two devices.
BFLOAT16 = {
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
    "NVIDIA L4": 121e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 1153.5e12,
}


def peak_flops(device_kind: str) -> float | None:
    """Returns the peak bfloat16 FLOP/s of a device of this kind, or None where it is not known, as of CPUs."""
    return BFLOAT16.get(device_kind)
