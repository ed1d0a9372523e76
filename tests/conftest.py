"""Test configuration: CPU only, strict JAX, deterministic hypothesis."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hypothesis
import jax

jax.config.update("jax_numpy_rank_promotion", "allow")
hypothesis.settings.register_profile("tokjax", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile("tokjax")
