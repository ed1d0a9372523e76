"""The commands that list what there is."""

import argparse

from tokjax.cli.options import Command, print_entries


def add(command: Command) -> None:
    """Adds them to the command line."""
    for name, text in (
        ("systems", "models"),
        ("tokenizers", "tokenizers"),
        ("embeddings", "embeddings"),
        ("sources", "sources of text"),
    ):
        command(name, _list, f"list the registered {text}", "tokjax.core.registry")
    command("papers", _papers, "list the papers whose systems are implemented", "tokjax.core.registry")


def _list(arguments: argparse.Namespace) -> int:
    from tokjax.core import registry

    print_entries(getattr(registry, arguments.command).entries())
    return 0


def _papers(arguments: argparse.Namespace) -> int:
    del arguments
    from tokjax.report.papers import papers_text

    print(papers_text())
    return 0
