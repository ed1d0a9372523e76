"""Joining the other processes of a run, and leaving them."""

import atexit
import contextlib
import glob
import importlib.util
import os
import re
import signal
import sys
import time
import urllib.request
from collections.abc import Iterator

import jax

from tokjax.core.console import INTERRUPTED, drop_output
from tokjax.core.errors import OutputError, PeerError, SpecError, TokjaxError
from tokjax.sharding.clusters import find
from tokjax.sharding.rendezvous import meet

START_TIMEOUT_S = 300
HEARTBEAT_TIMEOUT_S = 100
LEAVE_S = 2.0
_METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/"
_METADATA_TIMEOUT_S = 5
# What collectives of CPUs and GPUs, and JAX's coordination service, say of a peer that is gone.
_GONE = re.compile("gloo|nccl|coordination service|heartbeat|connection (closed|reset)", re.IGNORECASE)


@contextlib.contextmanager
def start_processes(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> Iterator[None]:
    """Context in which this process is one of its run; does nothing for the only one. Enter it before using a device.

    A process that does not come within `TOKJAX_START_TIMEOUT` seconds is an error. One that is not heard of for
    `TOKJAX_HEARTBEAT_TIMEOUT` seconds, later on, ends the program from a thread of JAX's, with its message.

    Args:
      coordinator: HOST:PORT where process 0 listens; with the next two, instead of what `find` reads.
      processes: how many; 1 is a run of one process, wherever it is.
      process: which one this is, from 0.

    Raises:
      SpecError: see `find`, or a timeout that is no number of seconds.
      StartError: a process did not come, or does not agree about the run.
      PeerError: a process is gone.
    """
    spec = find(
        os.environ,
        coordinator=coordinator,
        processes=processes,
        process=process,
        tpu_attribute=_tpu_attribute if _has_tpus() else None,
    )
    if spec is None:
        yield
        return
    start, heartbeat = (
        _seconds("TOKJAX_START_TIMEOUT", START_TIMEOUT_S),
        _seconds("TOKJAX_HEARTBEAT_TIMEOUT", HEARTBEAT_TIMEOUT_S),
    )
    meet(spec, start)
    jax.distributed.initialize(
        spec.coordinator,
        spec.processes,
        spec.process,
        spec.devices,
        cluster_detection_method="deactivate",
        coordinator_bind_address=os.environ.get("JAX_COORDINATOR_BIND_ADDRESS") or spec.loopback,
        initialization_timeout=start,
        heartbeat_timeout_seconds=heartbeat,
    )
    try:
        yield
        jax.distributed.shutdown()  # which waits for the others
    except BaseException as error:
        lost = is_lost_peer(error)
        # JAX would wait at exit for the others, and they for this one.
        atexit.register(_leave, PeerError.exit_code if lost else _exit_code(error), first=spec.process == 0)
        if lost:
            raise PeerError(
                f"process {spec.process} of {spec.processes} lost another one ({str(error).splitlines()[0]}). "
                "The output of the one that ended first says why; the same command goes on from the last checkpoint."
            ) from error
        raise


def is_lost_peer(error: BaseException) -> bool:
    """Whether `error` is what JAX raises where another process is gone; its type depends on where this one waited."""
    return isinstance(error, (jax.errors.JaxRuntimeError, ValueError)) and bool(_GONE.search(str(error)))


def _exit_code(error: BaseException) -> int:
    if isinstance(error, TokjaxError):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    return OutputError.exit_code if isinstance(error, OSError) else 1


def _leave(code: int, first: bool) -> None:
    drop_output()
    sys.stderr.flush()
    if first:  # JAX aborts the others once this one is gone: those with the same error have time to say it
        signal.signal(signal.SIGTERM, lambda *_: os._exit(code))  # from what started them, once another has ended
        time.sleep(LEAVE_S)
    os._exit(code)


def _seconds(name: str, default: int) -> int:
    value = os.environ.get(name) or str(default)
    if not value.isdigit() or value == "0":
        raise SpecError(f"{name}: got {value!r}; give a whole number of seconds, 1 or more.")
    return int(value)


def _has_tpus() -> bool:
    chips = glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*")
    return bool(chips) and importlib.util.find_spec("libtpu") is not None


def _tpu_attribute(name: str) -> str | None:
    request = urllib.request.Request(_METADATA + name, headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=_METADATA_TIMEOUT_S) as answer:
            return answer.read().decode()
    except OSError:
        return None
