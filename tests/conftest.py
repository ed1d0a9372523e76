"""Test configuration: CPU only, deterministic hypothesis, one compilation cache for all processes of a run."""

import os
import shutil
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hypothesis
import pytest

hypothesis.settings.register_profile("tokjax", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile("tokjax")

_COMPILED = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """Lets workers, and commands that tests start, share what any of them has compiled."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        config.stash[_COMPILED] = os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp()
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"  # storing the smallest costs more
        os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"


def pytest_unconfigure(config: pytest.Config) -> None:
    """Deletes the cache, in the process that made it."""
    if _COMPILED in config.stash:
        shutil.rmtree(config.stash[_COMPILED], ignore_errors=True)
