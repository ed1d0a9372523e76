"""Addresses of local data: the part after a source's scheme, PATTERN[?option=value&...], and the files it matches."""

import glob
import os
import re
from pathlib import Path

from tokjax.core.errors import SourceError, nearest

_OPTIONS = re.compile(r"\?((?:\w+=[^&?/]*)(?:&\w+=[^&?/]*)*)$")


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


def matching_files(scheme: str, pattern: str) -> list[Path]:
    """Returns the files that `pattern` names, sorted; '**' matches folders at any depth.

    Raises:
      SourceError: no pattern, a folder, or no file matches.
    """
    address = f"{scheme}:{pattern}"
    if not pattern:
        raise SourceError(f"{address} names no files. Write for example '{scheme}:folder/**/*.txt'.")
    path = os.path.expanduser(pattern)
    if os.path.isdir(path):
        raise SourceError(f"{address} is a folder. To read all files in it, write '{address.rstrip('/')}/**'.")
    if os.path.isfile(path):  # a name that holds glob characters is still a name
        return [Path(path)]
    files = sorted(Path(match) for match in glob.glob(path, recursive=True) if os.path.isfile(match))
    if not files:
        raise SourceError(f"{address} matches no file. Check the path; the current folder is {os.getcwd()}.")
    return files
