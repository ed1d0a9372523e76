"""Kernels of others: the library tokamax, which is an extra."""

import importlib
import importlib.util
from types import ModuleType

from tokjax.core.errors import SpecError


def tokamax(setting: str) -> ModuleType:
    """Returns the library, imported when it is first needed, which takes seconds.

    Args:
      setting: what asked for it, for the message.

    Raises:
      SpecError: it is not installed.
    """
    try:
        return importlib.import_module("tokamax")
    except ImportError as error:
        raise SpecError(
            f"{setting}: 'tokamax' is not installed ({error}); pip install 'tokjax[tokamax]' on Python 3.12 or newer, "
            "or use 'xla'."
        ) from error


def has_tokamax() -> bool:
    """Whether the library is installed."""
    return importlib.util.find_spec("tokamax") is not None
