"""One module per study: the registered function, `claims(rows)`, which judges, and `TABLES`, which show the rows."""

import sys
from types import ModuleType

from tokjax.core.registry import studies


def module_of(name: str) -> ModuleType:
    """Returns the module of a registered study."""
    return sys.modules[studies[name].__module__]
