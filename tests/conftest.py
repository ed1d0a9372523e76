"""Test configuration: CPU only, deterministic hypothesis."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hypothesis

hypothesis.settings.register_profile("tokjax", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile("tokjax")
