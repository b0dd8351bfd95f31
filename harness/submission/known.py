"""What the other fields of a card may say beside an entry that names somebody else's model, or a file or function."""

from collections.abc import Mapping, Sequence
from typing import Any

from harness.hubs import FORMS, split
from harness.hubs.robustbench import BOARDS, DATASETS


def _checkpoint(kind: str, given: Mapping[str, Any] | None) -> str:
    """What is wrong with the checkpoint table; ``given`` without the fields that are not set."""
    located = given is not None and bool({"file", "url"} & given.keys())
    renamed = sorted({"key", "strip_prefix"} & (given or {}).keys())
    if kind in {"torchscript", "exported-program"} and given is None:
        return f"checkpoint: missing, expected the file of the network, since entry is {kind!r}"
    if kind == "callable" and given is not None:
        return "checkpoint: expected none, since a callable loads its weights itself, got one"
    if given is not None and not located and kind not in {"robustbench", "timm", "hf"}:
        return "checkpoint: expected either file or url, got neither"
    if kind == "hf" and located:
        return "checkpoint: expected sha256 alone, since the repository holds the weights, got a file or url"
    if renamed and (kind in {"robustbench", "hf", "torchscript", "exported-program"} or (kind and not located)):
        return f"checkpoint.{renamed[0]}: expected none, since {kind!r} entries know how their files are made, got one"
    return ""


def _kwargs(kind: str, kwargs: Mapping[str, Any]) -> str:
    if kind in {"torchscript", "exported-program"} and kwargs:
        return f"kwargs: expected none, since the network is finished, got {', '.join(sorted(kwargs))}"
    if kind != "robustbench":
        return ""
    others = sorted(kwargs.keys() - {"board"})
    if others:
        return f"kwargs: expected board alone, since the entry has its own, got {', '.join(others)}"
    if kwargs.get("board", "Linf") not in BOARDS:
        return f"kwargs.board: expected one of {', '.join(BOARDS)}, got {kwargs['board']!r}"
    return ""


def problem(
    entry: str, *, datasets: Sequence[str], kwargs: Mapping[str, Any], checkpoint: Mapping[str, Any] | None
) -> str:
    """The first thing that does not go with the entry, as ``field: expected X, got Y``; empty when nothing is wrong."""
    kind, _ = split(entry)
    wrong = _checkpoint(kind, checkpoint) or _kwargs(kind, kwargs)
    if not wrong and kind == "robustbench" and (len(datasets) != 1 or datasets[0] not in DATASETS):
        wrong = f"dataset: expected one of {', '.join(DATASETS)} for {FORMS[kind]}, got {', '.join(datasets)}"
    missing = [name for name in ("mean", "std") if name not in kwargs]
    if not wrong and kind == "timm" and checkpoint and {"file", "url"} & checkpoint.keys() and missing:
        wrong = f"kwargs.{missing[0]}: missing, expected the {missing[0]} of each channel that it was trained with"
    return wrong
