"""What a number depends on besides the code: versions, device, time."""

import datetime
import importlib.metadata
import os
import platform
from typing import Any

import jax

import tokjax

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tokenizers", "tiktoken", "regex")


def describe() -> dict[str, Any]:
    """Returns versions, device and date, as stored with every result."""
    device = jax.devices()[0]
    return {
        "tokjax": tokjax.__version__,
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "platform": device.platform,
        "device": device.device_kind,
        "devices": jax.device_count(),
        "cpus": os.cpu_count(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
