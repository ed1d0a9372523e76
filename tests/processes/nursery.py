"""A process that has imported everything, and makes a run in a fork of itself, as often as it is asked.

Reads a JSON line per run, the arguments of `run`; prints the child's number when it has
started, and "ended NUMBER CODE" when it has ended, in any way. JAX has started no threads before the fork.
"""

import atexit
import contextlib
import json
import os
import sys
import threading
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
import numpy as np
import tiny_system

from tokjax.core.errors import TokjaxError

EVALUATING = "evaluating"  # a file that is there during an evaluation
HANGS = "hangs"  # one with which an evaluation takes for ever


def run(workdir, steps, process, processes, port, peer_timeout_s):
    """Trains the tiny system as one of so many processes; returns the exit code."""
    from tokjax.sharding import MeshSpec, make_mesh, share_of_process, start_processes
    from tokjax.train import OptimizerSpec

    at = (f"localhost:{port}", processes, process) if processes > 1 else (None, None, None)
    with start_processes(*at):
        mesh = make_mesh(MeshSpec())
        part, parts = share_of_process(mesh)

        def batch(step):
            time.sleep(0.005)
            whole = tiny_system.batch(step)
            return {name: np.split(rows, parts)[part] for name, rows in whole.items()}

        def evaluate(state):
            marker = Path(workdir) / f"{EVALUATING}-{process}"
            marker.touch()
            time.sleep(0.03)
            while (Path(workdir) / f"{HANGS}-{process}").exists():
                time.sleep(0.1)
            found = tiny_system.evaluate(state)
            marker.unlink()
            return found

        state = tiny_system.train(
            workdir, steps=steps, batch=batch, evaluate=evaluate, mesh=mesh,
            optimizer=OptimizerSpec(learning_rate=0.01, schedule="constant", ema_decay=0.9),
            checkpoint_every=4, eval_every=5, peer_timeout_s=peer_timeout_s,
        )  # fmt: skip
        return {"SIGTERM": 143}.get(state.stopped, 0)


def child(request):
    code = 1
    with open(os.environ["NURSERY_LOG"], "a") as log:
        os.dup2(log.fileno(), 2)
        os.dup2(log.fileno(), 1)
    try:
        code = run(**request)
    except TokjaxError as error:
        print(f"tokjax: error: {error}", file=sys.stderr, flush=True)
        code = error.exit_code
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()  # a fork of a program that goes on would run none
        sys.stderr.flush()
        os._exit(code)


def wait_for(number):
    _, status = os.waitpid(number, 0)
    say(f"ended {number} {os.waitstatus_to_exitcode(status)}")


def say(line):
    os.write(1, f"{line}\n".encode())  # at once: threads say things at the same time


if __name__ == "__main__":
    for line in sys.stdin:
        number = os.fork()
        if not number:
            with contextlib.suppress(OSError):
                os.close(0)
            child(json.loads(line))
        say(f"started {number}")
        threading.Thread(target=wait_for, args=(number,)).start()
