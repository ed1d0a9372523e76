"""What the commands share."""

import argparse
from collections.abc import Callable
from typing import Any

Run = Callable[[argparse.Namespace], int | None]
# (name, what it runs, what it does in words, the module that it imports first) -> its parser
Command = Callable[[str, Run, str, str], argparse.ArgumentParser]


def add_source(parser: argparse._ActionsContainer, *, default: str | None, text: str = "") -> None:
    """Adds --source."""
    kinds = "pydocs, stdlib, file:GLOB, jsonl:GLOB, tfds:NAME, array_record:GLOB, tokenized:DIR, mix:0.7*SRC|0.3*SRC"
    parser.add_argument("--source", default=default, metavar="SRC", help=text or f"{kinds} (default: {default})")


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """Adds --quiet."""
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Adds --coordinator, --processes and --process."""
    group = parser.add_argument_group(
        "several processes",
        "The same command runs once a machine, or once a GPU. Under Slurm, mpirun, on Cloud TPU pods and GKE the "
        "processes find each other; elsewhere give all three, or JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and "
        "JAX_PROCESS_ID. One that does not come within TOKJAX_START_TIMEOUT seconds (300) is an error, one that is "
        "silent for TOKJAX_HEARTBEAT_TIMEOUT seconds (100) ends the run. The scripts in launch/ start them.",
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 listens")
    group.add_argument("--processes", type=int, metavar="N", help="how many; 1 alone: look for no others")
    group.add_argument("--process", type=int, metavar="I", help="which of them this is, from 0")


def print_entries(entries: list[Any]) -> None:
    """Prints the names of registered things, and what they are."""
    width = max((len(entry.name) for entry in entries), default=0)
    for entry in entries:
        print(f"{entry.name:{width}}  {entry.summary}")
