"""Addresses: SCHEME:REST opens a source. For local data, REST is PATTERN[?option=value&...] and matches files."""

import glob
import os
import re
from pathlib import Path
from typing import Any

from tokjax.core.errors import SourceError, UnknownNameError, nearest
from tokjax.core.registry import Registry

_OPTIONS = re.compile(r"\?((?:\w+=[^&?/]*)(?:&\w+=[^&?/]*)*)$")


def open_address(sources: Registry, uri: str, *, files: str) -> Any:
    """Opens the source at `uri`, which is NAME or SCHEME:REST.

    Args:
      sources: the names and schemes, each a function of REST.
      uri: the address.
      files: the scheme to suggest where `uri` is a path.

    Raises:
      UnknownNameError: no source has that name or scheme.
    """
    scheme, _, rest = uri.partition(":")
    if scheme not in sources and (Path(uri).exists() or "/" in uri):
        raise UnknownNameError(f"Unknown {sources.kind} {uri!r}. To read files, write '{files}:{uri}'.")
    return sources[scheme](rest)


def split_options(scheme: str, rest: str, **defaults: str) -> tuple[str, dict[str, str]]:
    """Splits 'PATTERN?key=value&...' into the pattern and its options, absent ones at their default.

    A '?' that no 'key=value' follows stays in the pattern, where it matches one character.

    Raises:
      SourceError: an option that is not among `defaults`.
    """
    found = _OPTIONS.search(rest)
    if not found:
        return rest, defaults
    options = dict(pair.split("=", 1) for pair in found[1].split("&"))
    for name in options:
        if name not in defaults:
            raise SourceError(f"{scheme}:{rest}: no option {name!r}.{nearest(name, defaults)}")
    return rest[: found.start()], {**defaults, **options}


def read_size(scheme: str, rest: str, size: str) -> int:
    """Returns the option `size` of the address SCHEME:REST as a number.

    Raises:
      SourceError: it is not a positive whole number.
    """
    if not (size.isascii() and size.isdigit() and int(size)):
        raise SourceError(f"{scheme}:{rest}: size={size}; expected a positive number of pixels.")
    return int(size)


def matching_files(scheme: str, pattern: str, *, ending: str = ".txt") -> list[Path]:
    """Returns the files that `pattern` names, sorted; '**' matches folders at any depth.

    Args:
      scheme: for messages, as the next.
      pattern: a path or glob.
      ending: of the files that the scheme reads.

    Raises:
      SourceError: no pattern, a folder, or no file matches.
    """
    address = f"{scheme}:{pattern}"
    if not pattern:
        raise SourceError(f"{address} names no files. Write for example '{scheme}:folder/**/*{ending}'.")
    path = os.path.expanduser(pattern)
    if os.path.isdir(path):
        raise SourceError(f"{address} is a folder. To read all files in it, write '{address.rstrip('/')}/**'.")
    if os.path.isfile(path):  # a name that holds glob characters is still a name
        return [Path(path)]
    files = sorted(Path(match) for match in glob.glob(path, recursive=True) if os.path.isfile(match))
    if not files:
        raise SourceError(f"{address} matches no file. Check the path; the current folder is {os.getcwd()}.")
    return files
