"""The values a card's fields may hold: each check returns the value as it is kept, or says what was expected.

Every check raises ``ValueError`` with "expected X, got Y".
"""

import math
import re
import unicodedata
from collections.abc import Mapping
from fractions import Fraction
from pathlib import PurePosixPath, PureWindowsPath

from harness.errors import UnknownNameError, UserError
from harness.hubs import grammar
from harness.records import ThreatModel
from harness.submission.explain import shown

FAMILIES: Mapping[str, int | None] = {"cifar10": 10, "cifar100": 100, "mnist": 10, "svhn": 10, "npz": None}
"""Data sets a card may name, with their classes; ``npz`` is for a network made for no registered data set."""

SHAPES: Mapping[str, tuple[int, int, int] | None] = {
    "cifar10": (3, 32, 32), "cifar100": (3, 32, 32), "mnist": (1, 28, 28), "svhn": (3, 32, 32), "npz": None,
}  # fmt: skip
"""(C, H, W) of their images."""

RESERVED = frozenset({"architectures", "recipes"})
"""Folder names beside submissions that are not submissions."""

ENTRIES = "'model.py:build' (a file in the submission's folder) or 'package.module:function'"
"""The forms of an entry that builds a network; ``harness.hubs.FORMS`` has the others."""

_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}")
_EPS = re.compile(r"\d{1,9}(/\d{1,9})?|\d{0,9}\.\d{1,15}")


def submission_id(value: str) -> str:
    """A name for a submission and its folder."""
    if value in RESERVED:
        raise ValueError(f"expected a name other than {', '.join(sorted(RESERVED))}, got {value!r}")
    if not _ID.fullmatch(value) or value.endswith("."):
        raise ValueError(
            "expected at most 80 lowercase letters, digits, '-', '_' or '.', the first a letter or digit, "
            f"got {shown(value)}"
        )
    return value


def _controls(value: str, *, allowed: str = "") -> bool:
    return any(unicodedata.category(char).startswith("C") and char not in allowed for char in value)


def line(value: str) -> str:
    """One line of text."""
    if not value.strip() or len(value) > 500 or _controls(value):
        raise ValueError(f"expected one line of text, at most 500 characters, got {shown(value)}")
    return value.strip()


def paragraphs(value: str) -> str:
    """Text of any number of lines."""
    if _controls(value, allowed="\n\t"):
        raise ValueError(f"expected text without control characters, got {shown(value)}")
    return value.strip()


def inner_path(value: str) -> str:
    """A path that stays inside the submission's folder."""
    windows, path = PureWindowsPath(value), PurePosixPath(value)
    if not value or "\\" in value or path.is_absolute() or windows.drive or ".." in path.parts or _controls(value):
        raise ValueError(f"expected a path inside the submission's folder, with '/', got {shown(value)}")
    return value


def entry(value: str) -> str:
    """What builds the network, or names it: a function in a file of the folder or in a package, or a known model."""
    wrong = grammar.problem(value)
    if wrong:
        raise ValueError(wrong)
    kind, named = grammar.split(value)
    if kind not in {"", "callable"}:
        return value
    place, _, function = named.rpartition(":")
    if place.endswith(".py"):
        inner_path(place)
    if not function.isidentifier() or not (
        place.endswith(".py") or all(part.isidentifier() for part in place.split("."))
    ):
        others = f"; a known model is {', '.join(grammar.EXAMPLES)}" if not kind else ""
        raise ValueError(f"expected {grammar.FORMS.get(kind, ENTRIES)}, got {shown(value)}{others}")
    return value


def dataset(value: str) -> str:
    """A family of data sets."""
    if value not in FAMILIES:
        raise ValueError(str(UnknownNameError("dataset", value, FAMILIES)))
    return value


def datasets(value: tuple[str, ...]) -> tuple[str, ...]:
    """Families that one network can serve."""
    if not value or len(set(value)) < len(value):
        raise ValueError(f"expected one or more different data sets, got {shown(list(value))}")
    widths = {FAMILIES[name] for name in value} - {None}
    if len(widths) > 1:
        raise ValueError(
            f"expected data sets of the same number of classes, got {', '.join(value)}: make one submission for each"
        )
    return value


def norm(value: str) -> str:
    """A norm, in its usual spelling."""
    try:
        return ThreatModel.parse(value, "1").norm
    except UserError as error:
        raise ValueError(str(error).removeprefix("norm: ")) from None


def eps(value: object) -> str:
    """A budget as exact text; a number stands for the decimal digits it is typed with."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not _EPS.fullmatch(text.strip()):
        raise ValueError(f"expected a positive fraction such as '8/255' or '0.5', got {shown(value)}")
    try:
        kept = ThreatModel.parse("L2", text).eps
    except UserError as error:
        raise ValueError(str(error).removeprefix("eps: ")) from None
    if Fraction(kept) != Fraction(text.strip()):
        raise ValueError(f"expected a fraction of at most 12 digits, got {shown(value)}")
    return kept


def sha256(value: str) -> str:
    """A sha256 in hexadecimal digits."""
    if not re.fullmatch(r"[0-9a-fA-F]{64}", value):
        raise ValueError(f"expected 64 hexadecimal digits, got {shown(value)}")
    return value.lower()


def url(value: str) -> str:
    """An address a file can be downloaded from."""
    if not re.fullmatch(r"https?://[^\s/]+/\S+", value) or not value.isprintable():
        raise ValueError(f"expected an http or https address of a file, got {shown(value)}")
    return value


def share(value: float) -> float:
    """An accuracy in [0, 1]."""
    if not 0 <= value <= 1:
        hint = f"; write {value / 100:g} for {value:g} %" if 1 < value <= 100 else ""
        raise ValueError(f"expected a share in [0, 1], got {shown(value)}{hint}")
    return float(value)


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"expected finite numbers, got {value}")
        return float(value)
    if not isinstance(value, str | int):
        raise ValueError(f"expected text, numbers, true, false, lists and tables, got {shown(str(value))}")
    return value


def keywords(value: dict[str, object]) -> dict[str, object]:
    """Keyword arguments of a Python function, fit for JSON."""
    for name in value:
        if not name.isidentifier():
            raise ValueError(f"expected names that a Python function can take, got {shown(name)}")
    return {name: _plain(item) for name, item in value.items()}


def not_empty(value: tuple[object, ...]) -> tuple[object, ...]:
    """A list with something in it."""
    if not value:
        raise ValueError("expected at least one, got none")
    return value
