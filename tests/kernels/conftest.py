"""Says last what was compiled for chips that are not here, and what was not, and why."""

import os

import jax
import pytest

os.environ.setdefault("XLA_FLAGS", "--xla_gpu_autotune_level=0")  # autotuning needs the GPU it tunes for


def pytest_terminal_summary(terminalreporter):
    reports = [report for kind in ("passed", "skipped") for report in terminalreporter.stats.get(kind, [])]
    lines = [
        value for report in reports for name, value in getattr(report, "user_properties", ()) if name == "compiled"
    ]
    if lines:
        terminalreporter.section("compiled for chips that are not here")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture(autouse=True)
def no_cache_of_programs():
    """What is compiled for another chip is compiled here and now, so that its compiler has its say."""
    enabled = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    yield
    jax.config.update("jax_enable_compilation_cache", enabled)


@pytest.fixture
def compiled(record_property):
    """Notes a line of what was compiled."""
    return lambda line: record_property("compiled", line)
