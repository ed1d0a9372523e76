"""Kernels of others: the library tokamax, which is an extra."""

import functools
import importlib
import importlib.util
import warnings
from types import ModuleType

from tokjax.core.errors import SpecError


def tokamax() -> ModuleType:
    """Returns the library, imported when it is first needed, which takes seconds.

    Raises:
      SpecError: it is not installed.
    """
    try:
        return importlib.import_module("tokamax")
    except ImportError as error:
        raise SpecError(
            f"implementation: 'tokamax' is not installed ({error}); pip install 'tokjax[tokamax]' on Python 3.12 or "
            "newer, or use 'xla'."
        ) from error


@functools.cache
def has_tokamax() -> bool:
    """Whether the library can be used here; where it is installed and cannot, a warning says why."""
    if importlib.util.find_spec("tokamax") is None:
        return False
    try:
        importlib.import_module("tokamax")
    except Exception as error:  # whatever a broken installation raises
        warnings.warn(f"tokamax is installed and cannot be imported, XLA runs instead ({error!r})", stacklevel=3)
        return False
    return True
