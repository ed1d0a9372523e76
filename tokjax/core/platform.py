"""What the program being traced will run on: usually the machine at hand, sometimes a chip that is not here."""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import jax

_target: contextvars.ContextVar[str | None] = contextvars.ContextVar("target", default=None)


def target() -> str:
    """Returns 'cpu', 'gpu' or 'tpu': where the program being traced will run, by which implementations are chosen."""
    settings: Any = jax.config  # which names its fields as it runs
    chosen = settings.jax_default_device  # as in `with jax.default_device(jax.devices("cpu")[0])`
    here = jax.default_backend() if chosen is None else getattr(chosen, "platform", chosen)
    return _target.get() or here


@contextlib.contextmanager
def compiling_for(platform: str) -> Iterator[None]:
    """Context in which programs are traced for `platform`, to be compiled for devices that are not here.

    What JAX has traced for another platform is forgotten on the way in and out, as it may be another program.
    """
    jax.clear_caches()
    token = _target.set(platform)
    try:
        yield
    finally:
        _target.reset(token)
        jax.clear_caches()
