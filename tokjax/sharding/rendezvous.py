"""Waiting for the processes of a run before JAX does, which ends the program where one stays away and says little.

Process 0 listens at the coordinator's address; each of the others sends it a line with its number, and waits for one.
"""

import contextlib
import errno
import os
import socket
import time

from tokjax.core.errors import StartError
from tokjax.sharding.clusters import ProcessSpec

_ALL_HERE = b"tokjax: all here\n"
_PROBLEM = b"tokjax: problem: "
_PAUSE_S = 0.2
_HELLO_S = 2.0  # a line of a few bytes, from a program that has just connected
_GRACE_S = 3.0  # process 0, which knows who is missing, gives up first


def meet(spec: ProcessSpec, timeout_s: float) -> None:
    """Returns when every process of the run is there; process 0 has then left the port to JAX.

    Raises:
      StartError: some were not there in time, or do not agree about the run; all that were there say the same.
    """
    deadline = time.monotonic() + timeout_s
    if spec.process == 0:
        _gather(spec, deadline, timeout_s)
    else:
        _report(spec, deadline + _GRACE_S, timeout_s)


def _gather(spec: ProcessSpec, deadline: float, timeout_s: float) -> None:
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(_listen(spec))
        here: dict[int, socket.socket] = {}
        problem = None
        while problem is None and len(here) < spec.processes - 1:
            listener.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                peer = stack.enter_context(listener.accept()[0])
            except TimeoutError:
                missing = [n for n in range(1, spec.processes) if n not in here]
                who = f"process{'es' if len(missing) > 1 else ''} {', '.join(map(str, missing))}"
                problem = f"{who} did not come to {spec.coordinator} within {timeout_s:g} s. {_advice(spec)}"
                break
            hello = _hello(peer)
            if hello is None:  # not one of ours
                continue
            problem = _disagreement(spec, here, *hello)
            here[hello[0] if problem is None else -1] = peer
        for peer in here.values():
            with contextlib.suppress(OSError):
                peer.settimeout(_HELLO_S)
                peer.sendall(_ALL_HERE if problem is None else _PROBLEM + problem.encode() + b"\n")
                peer.recv(1)  # it closes first, so that the port is free at once
    if problem:
        raise StartError(problem)


def _disagreement(spec: ProcessSpec, here: dict[int, socket.socket], number: int, count: int) -> str | None:
    if count != spec.processes:
        return (
            f"process {number} was told that there are {count} processes, process 0 that there are {spec.processes}. "
            f"Give all the same {spec.names[1]}."
        )
    if (number in here and not _is_gone(here[number])) or not 0 < number < count:
        return f"two processes are number {number}. Give each its own {spec.names[2]}, from 0 to {count - 1}."
    return None


def _listen(spec: ProcessSpec) -> socket.socket:
    port = spec.coordinator.rpartition(":")[2]
    bind = os.environ.get("JAX_COORDINATOR_BIND_ADDRESS") or spec.loopback or f"[::]:{port}"
    host, _, port = bind.rpartition(":")
    both = host == "[::]" and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both or (":" in host and host != "[::]") else socket.AF_INET
    try:
        return socket.create_server(
            ("" if host == "[::]" else host.strip("[]"), int(port)),
            family=family,
            dualstack_ipv6=both,
            backlog=max(spec.processes, 128),
        )
    except OSError as error:
        fix = "Another program has it: give another port." if error.errno == errno.EADDRINUSE else "Give another port."
        raise StartError(f"process 0 cannot listen on port {port}: {error.strerror}. {fix}") from error


def _hello(peer: socket.socket) -> tuple[int, int] | None:
    peer.settimeout(_HELLO_S)
    try:
        words = peer.makefile("rb").readline(100).split()
        return (int(words[1]), int(words[2])) if words[:1] == [b"tokjax"] else None
    except (OSError, ValueError, IndexError):
        return None


def _is_gone(peer: socket.socket) -> bool:
    peer.setblocking(False)
    try:
        return peer.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _report(spec: ProcessSpec, deadline: float, timeout_s: float) -> None:
    host, _, port = spec.coordinator.rpartition(":")
    why = "no answer"
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=min(left, 10)) as coordinator:
                coordinator.sendall(f"tokjax {spec.process} {spec.processes}\n".encode())
                coordinator.settimeout(left)
                answer = coordinator.makefile("rb").readline(10_000)
        except OSError as error:
            why = error.strerror or str(error)
        else:
            if answer == _ALL_HERE:
                return
            if answer.startswith(_PROBLEM):
                raise StartError(answer.removeprefix(_PROBLEM).decode().strip())
            why = "what answers there is no process 0 that waits"  # that of an earlier run, perhaps
        time.sleep(_PAUSE_S)
    raise StartError(
        f"process {spec.process} of {spec.processes} could not reach process 0 at {spec.coordinator} within "
        f"{timeout_s:g} s: {why}. {_advice(spec)}"
    )


def _advice(spec: ProcessSpec) -> str:
    return (
        f"Check that all {spec.processes} processes were started, that {spec.names[0]} is an address of process 0 that "
        "every machine can reach, and that none needs longer: TOKJAX_START_TIMEOUT is the seconds to wait."
    )
