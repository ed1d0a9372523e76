"""Ctrl-C ends a process that is loading libraries, even where an exception would be swallowed."""

import subprocess
import sys

SWALLOWING = """
import gc, signal
from tokjax.core.console import exit_on_interrupt
gc.callbacks.append(lambda *_: signal.raise_signal(signal.SIGINT))
with exit_on_interrupt():
    gc.collect()
print("went on")
"""


def test_an_interrupt_in_a_callback_is_not_lost():
    done = subprocess.run([sys.executable, "-c", SWALLOWING], capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"tokjax: interrupted\n")
