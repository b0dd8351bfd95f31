"""From a card's entry to the files of somebody else's model and what a worker must know to build it."""

from importlib import metadata
from typing import Any

from harness.checkpoints import Source
from harness.errors import UserError
from harness.hubs import hugging_face, robustbench, timm_models
from harness.hubs.grammar import hugging_face as repository_of
from harness.hubs.grammar import split

PACKAGES = {"robustbench": ("robustbench", "timm"), "timm": ("timm",), "hf": ("timm",)}
"""Packages whose code is the network, by kind of entry."""


def facts(entry: str, *, dataset: str, norm: str, classes: int | None, kwargs: dict[str, Any]) -> dict[str, Any]:
    """What identifies the network beside the entry, as plain data; empty for an entry that needs nothing more.

    ``dataset`` and ``norm`` are the card's first; ``classes`` None: not said.
    """
    kind, _ = split(entry)
    if kind == "robustbench":
        return {"dataset": dataset, "board": kwargs.get("board", norm)}
    return {"classes": classes} if kind in {"timm", "hf"} else {}


def versions(entry: str) -> dict[str, str]:
    """Versions of the installed packages whose code is the network; ``UserError`` when one is not installed."""
    kind, _ = split(entry)
    found = {}
    for name in PACKAGES.get(kind, ()):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            raise UserError(f"entry: {entry} needs the package {name}: pip install {name}") from None
    return found


def published(entry: str, found: dict[str, Any]) -> tuple[Source, ...]:
    """Where the published weights of an entry are; none for an entry that has no published ones."""
    kind, name = split(entry)
    if kind == "robustbench":
        return robustbench.weights(found["dataset"], found["board"], name)
    if kind == "timm":
        return timm_models.weights(name, found["classes"])
    return hugging_face.weights(*repository_of(name)) if kind == "hf" else ()
