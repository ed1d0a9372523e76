"""The commands that list what there is."""

import argparse
import functools

from tokjax.cli.options import Command, print_entries


def add(command: Command) -> None:
    """Adds them to the command line."""
    for name, kind, text in (
        ("systems", "systems", "models"),
        ("tokenizers", "tokenizers", "tokenizers"),
        ("embeddings", "embeddings", "embeddings"),
        ("quantizers", "quantizers", "quantizers"),
        ("sources", "sources", "sources of text"),
        ("images", "image_sources", "sources of images"),
    ):
        command(name, functools.partial(_list, kind), f"list the registered {text}", "tokjax.core.registry")
    command("papers", _papers, "list the papers whose systems are implemented", "tokjax.core.registry")


def _list(kind: str, arguments: argparse.Namespace) -> int:
    del arguments
    from tokjax.core import registry

    print_entries(getattr(registry, kind).entries())
    return 0


def _papers(arguments: argparse.Namespace) -> int:
    del arguments
    from tokjax.report.papers import papers_text

    print(papers_text())
    return 0
