"""tokjax: what should a token be? Tokenizers, models and measurements as pure functions on JAX.

Submodules load on first use, so that `import tokjax` costs milliseconds.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

# Public name -> module that defines it. One line per name a notebook should reach as `tokjax.NAME`.
_LAZY = {
    "load_source": "tokjax.data",
    "fit_tokenizer": "tokjax.text",
    "load_tokenizer": "tokjax.text",
    "load_config": "tokjax.experiment.config",
    "train_model": "tokjax.experiment.run",
    "load_model": "tokjax.experiment.run",
}

__all__ = ["__version__", *_LAZY]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'tokjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
