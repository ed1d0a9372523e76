"""What every benchmark writes: the environment it ran in and its rows, as JSON."""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
from collections.abc import Mapping, Sequence
from typing import Any

RESULTS = pathlib.Path(__file__).parent / "results"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "tokenizers", "tiktoken", "torch", "faiss-cpu", "tokamax")


def environment(packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """Returns versions, processor, device and date. Packages that are not installed are absent."""
    versions = {"python": platform.python_version()}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "devices": _devices(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def write(name: str, rows: Sequence[Mapping[str, Any]]) -> pathlib.Path:
    """Writes `results/NAME.json` = {"environment", "rows"} (temporary name, then rename) and prints the rows."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    temporary = path.with_suffix(".json.tmp")
    temporary.write_text(json.dumps({"environment": environment(), "rows": list(rows)}, indent=2) + "\n")
    temporary.replace(path)
    for row in rows:
        print("  ".join(f"{key}={_short(value)}" for key, value in row.items()))
    print(f"wrote {path}")
    return path


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cpu_model() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _devices() -> list[str]:
    import jax

    return [device.device_kind for device in jax.devices()]
