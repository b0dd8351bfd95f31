"""Errors a user can act on; the command line prints them as one line, everything else is a bug with a traceback."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user gave is wrong; the message says what was expected, what was found, and where."""


class CardError(UserError):
    """A submission card or folder that cannot be used."""


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged, not what its hash promises, or does not fit the network."""


class DatasetError(UserError):
    """A data set that cannot be found, downloaded or read."""


class ResultsError(UserError):
    """A results folder that cannot be read or written."""


class InputError(UserError, ValueError):
    """What a Python caller passed is not what was expected."""


class UnknownNameError(UserError):
    """A name that no registry or folder holds; the message offers the nearest one."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}? " if close else ""
        listed = ", ".join(names[:40]) or "none"
        super().__init__(f"unknown {kind} {name!r}: {hint}known: {listed}")


class BreachError(Exception):
    """An attack or a model broke its contract during a shard; ``kind`` is a short word, the text holds the number."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
