"""The entries that do not name a ``build`` function: how they are written. Pure text."""

import difflib
import re
from collections.abc import Mapping

FORMS: Mapping[str, str] = {
    "robustbench": "'robustbench:NAME', e.g. 'robustbench:Wong2020Fast'",
    "timm": "'timm:NAME', e.g. 'timm:resnet18'",
    "hf": "'hf:ORG/REPO@COMMIT' with the 40 hexadecimal digits of a commit",
    "torchscript": "'torchscript' alone, with the file under [checkpoint]",
    "exported-program": "'exported-program' alone, with the file under [checkpoint]",
    "callable": "'callable:model.py:function' or 'callable:package.module:function'",
}
"""Kind of entry, and how it is written."""

EXAMPLES = ("'robustbench:NAME'", "'timm:NAME'", "'hf:ORG/REPO@COMMIT'")
"""Short forms, for a message."""

BARE = frozenset({"torchscript", "exported-program"})
"""Kinds that name nothing: the checkpoint is the whole network."""

_NAMES = {
    "robustbench": re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}"),
    "timm": re.compile(r"[a-z0-9][a-z0-9_]{0,99}(\.[a-z0-9_]{1,60})?"),
    "hf": re.compile(r"(?P<repository>[\w.-]{1,96}/[\w.-]{1,96})@(?P<commit>[0-9a-f]{40})"),
}


def split(entry: str) -> tuple[str, str]:
    """(kind, what it names); the kind is empty for an entry that names a ``build`` function."""
    kind, colon, rest = entry.partition(":")
    if kind in BARE:
        return (kind, rest) if colon else (kind, "")
    return (kind, rest) if colon and kind in FORMS else ("", entry)


def hugging_face(name: str) -> tuple[str, str]:
    """(ORG/REPO, COMMIT) of what a valid ``hf`` entry names."""
    found = _NAMES["hf"].fullmatch(name)
    if found is None:
        raise ValueError(f"expected {FORMS['hf']}, got {'hf:' + name!r}")
    return found["repository"], found["commit"]


def module_of(entry: str) -> str:
    """The file or module whose code is the network; empty when the entry names none."""
    kind, name = split(entry)
    return name.rpartition(":")[0] if kind in {"", "callable"} else ""


def problem(entry: str) -> str:
    """What is wrong with an entry of one of these kinds; empty when nothing is, or it is an ordinary one."""
    kind, name = split(entry)
    if not kind:
        scheme = entry.partition(":")[0].lower()
        close = difflib.get_close_matches(scheme, FORMS, n=1, cutoff=0.75)
        return f"expected {FORMS[close[0]]}, got {entry!r}" if close and not scheme.endswith(".py") else ""
    if kind in BARE:
        return "" if not name and ":" not in entry else f"expected {FORMS[kind]}, got {entry!r}"
    if kind == "hf" and "@" not in name:
        hint = ": a branch or tag can change under a published number; the commits are listed on the repository's page"
        return f"expected {FORMS[kind]}, got {entry!r}{hint}"
    if kind in _NAMES and not _NAMES[kind].fullmatch(name):
        return f"expected {FORMS[kind]}, got {entry!r}"
    return ""
