"""What one process finds out and all of them act on: answers and errors of the first process, given to the others."""

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from tokjax.core import errors


def on_first(function: Callable[[], Any]) -> Any:
    """Runs `function` in the first process of the run and returns its result in every one; waits for all of them.

    Args:
      function: what reads or writes files that the processes share, and returns a JSON value.

    Raises:
      TokjaxError: what `function` raised in the first process, in every process; in the others `OutputError` for an
        `OSError`, and `PeerError` for an error of another kind.
    """
    if jax.process_count() == 1:
        return function()
    answer = b"{}"
    raised: Exception | None = None
    if jax.process_index() == 0:
        try:
            answer = json.dumps({"value": function()}).encode()
        except Exception as error:  # raised again below, once the others know
            answer, raised = json.dumps({"error": _kind(error), "message": str(error)}).encode(), error
    found = json.loads(_from_first(answer))
    if raised is not None:
        raise raised
    if "error" in found:
        raise getattr(errors, found["error"])(found["message"])
    return found["value"]


def _kind(error: Exception) -> str:
    """Returns the name of the typed error that the other processes raise."""
    if isinstance(error, OSError):
        return "OutputError"
    return type(error).__name__ if hasattr(errors, type(error).__name__) else "PeerError"


def _from_first(data: bytes) -> bytes:
    """Returns the bytes of the first process in all of them."""
    from jax.experimental import multihost_utils

    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
    padded = np.frombuffer(data.ljust(size)[:size], np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(padded)).astype(np.uint8).tobytes()
