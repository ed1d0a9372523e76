"""Typed errors. Each message says what was wrong, where, and what to do about it."""

import difflib
from collections.abc import Iterable


class TokjaxError(Exception):
    """Base of every error that tokjax raises on purpose. `exit_code` is what the command line returns."""

    exit_code = 1


class UserError(TokjaxError):
    """Something the caller can put right: a name, a path, a value."""

    exit_code = 2


class SpecError(UserError):
    """A spec or configuration with an unknown, missing or impossible value."""


class UnknownNameError(UserError):
    """A name that no registry holds."""


class SourceError(UserError):
    """Raw data that is missing, empty or cannot be decoded."""


class TokenizerError(UserError):
    """A tokenizer that is not fitted, does not match, or was given ids or data outside its range."""


class CheckpointError(UserError):
    """A checkpoint that is absent, damaged, or belongs to another configuration or tokenizer."""


class OutputError(UserError):
    """A place that cannot be written: read-only, full, or holding something else."""


class StartError(UserError):
    """Processes of one run that do not find each other, or do not agree about it."""


class NumericsError(TokjaxError):
    """A loss or gradient that is not finite."""


class PeerError(TokjaxError):
    """Another process of the run that has stopped or does not answer."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns " Did you mean 'x'?" for the closest of `known`, or the list of all when none is close."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f" Did you mean {close[0]!r}?"
    return f" Known: {', '.join(known)}." if known else ""
