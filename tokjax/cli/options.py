"""What the commands share."""

import argparse
from collections.abc import Callable
from typing import Any

Run = Callable[[argparse.Namespace], int | None]
# (name, what it runs, what it does in words, the module that it imports first) -> its parser
Command = Callable[[str, Run, str, str], argparse.ArgumentParser]


def add_source(parser: argparse._ActionsContainer, *, default: str | None, text: str = "") -> None:
    """Adds --source."""
    kinds = "pydocs, stdlib, file:GLOB, jsonl:GLOB, tfds:NAME, array_record:GLOB, tokenized:DIR"
    parser.add_argument("--source", default=default, metavar="SRC", help=text or f"{kinds} (default: {default})")


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """Adds --quiet."""
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def print_entries(entries: list[Any]) -> None:
    """Prints the names of registered things, and what they are."""
    width = max((len(entry.name) for entry in entries), default=0)
    for entry in entries:
        print(f"{entry.name:{width}}  {entry.summary}")
