"""The command that shows a run while it trains."""

import argparse
import contextlib

from tokjax.cli.options import Command


def add(command: Command) -> None:
    """Adds it to the command line."""
    sub = command(
        "watch", _watch, "show a training run in the terminal while it writes, here or elsewhere", "tokjax.report.watch"
    )
    sub.add_argument(
        "workdir", metavar="WORKDIR", help="directory of a run, or its address, as in gs://bucket/run (needs [remote])"
    )
    sub.add_argument("--interval", type=float, default=2.0, metavar="S", help="seconds between two looks (default: 2)")
    sub.add_argument("--once", action="store_true", help="show it once; so does output that is no terminal")


def _watch(arguments: argparse.Namespace) -> int:
    from tokjax.report.watch import watch

    with contextlib.suppress(KeyboardInterrupt):  # how one stops watching
        watch(arguments.workdir, interval=arguments.interval, once=arguments.once)
    return 0
