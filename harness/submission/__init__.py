"""Submissions: folders with a card, found and checked without running anything in them. No torch."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import checkpoints
from harness.errors import CardError, CheckpointError, UserError
from harness.hubs import adapters, module_of, split
from harness.submission import sources, starter
from harness.submission.card import CARD, Card, fits, read_card
from harness.submission.explain import shown
from harness.submission.values import FAMILIES, RESERVED, submission_id
from harness.submission.values import dataset as known_dataset

__all__ = ["CARD", "Card", "Discovery", "Submission", "create", "default_roots", "discover", "fits", "read"]


@dataclass(frozen=True)
class Submission:
    """A folder with a valid card."""

    id: str
    folder: Path
    """Absolute."""
    root: Path
    """The folder it was found in."""
    card: Card

    @property
    def search(self) -> tuple[Path, ...]:
        """Folders that its code may import from, first to last."""
        return tuple(dict.fromkeys((self.folder, self.root.parent, self.root, sources.HOME)))

    def _checkpoint(self) -> tuple[Path | None, str]:
        """(file, the card's field that names it); a checkpoint with an address is downloaded unless it is there."""
        given = self.card.checkpoint
        if given is None:
            return None, ""
        if given.url is not None:
            where = f"{self.folder / CARD}: checkpoint.url"
            return checkpoints.fetch(given.url, given.sha256, where=where), where
        return (
            (None, "") if given.file is None else (self.folder / given.file, f"{self.folder / CARD}: checkpoint.file")
        )

    def _facts(self) -> dict[str, Any]:
        """What identifies somebody else's model beside the entry."""
        card = self.card
        return adapters.facts(
            card.entry, dataset=card.datasets[0], norm=card.threats[0].norm, classes=card.classes, kwargs=card.kwargs
        )

    def _published(self) -> list[dict[str, str]]:
        """Path and sha256 of each published file of somebody else's model; downloaded unless they are there."""
        given = self.card.checkpoint
        if split(self.card.entry)[0] not in adapters.PACKAGES or (given and (given.file or given.url)):
            return []
        adapters.versions(self.card.entry)
        where = f"{self.folder / CARD}: entry"
        try:
            wanted = adapters.published(self.card.entry, self._facts())
        except UserError as error:
            raise CardError(f"{where}: {error}") from None
        found = checkpoints.obtain(wanted, where=where)
        return [{"path": str(item.target), "sha256": digest} for item, digest in zip(wanted, found, strict=True)]

    def checkpoint_sha256(self) -> str:
        """sha256 of the checkpoint, "" when there is none; of several files, of their sha256s one after the other.

        ``CheckpointError`` when the file is missing, is not the one the card promises, or cannot be downloaded.
        """
        given, published = self.card.checkpoint, [item["sha256"] for item in self._published()]
        if published:
            got = published[0] if len(published) == 1 else hashlib.sha256("".join(published).encode()).hexdigest()
            if given is not None and got != given.sha256:
                raise CheckpointError(
                    f"{self.folder / CARD}: checkpoint.sha256: expected weights of {given.sha256}, got {got}"
                )
            return got
        path, where = self._checkpoint()
        if path is None or given is None:
            return ""
        checkpoints.check(path, given.sha256, where=where)
        return given.sha256

    def source_sha256(self) -> str:
        """sha256 of the code and of the card's fields that change the network; of a known model's code, its version.

        The code is every Python file of the folder and every module of the submission's own that these or the entry
        import. ``CardError`` when the entry's module is not found.
        """
        card, given = self.card, self.card.checkpoint
        settings = {
            "entry": card.entry,
            "kwargs": card.kwargs,
            "key": given.key if given else None,
            "strip_prefix": given.strip_prefix if given else None,
        }
        if split(card.entry)[0]:
            settings |= {"facts": self._facts(), "packages": adapters.versions(card.entry)}
        place = module_of(card.entry)
        module = "" if place.endswith(".py") else place
        try:
            files = sources.source_files(self.folder, module, self.search)
            if files is not None:
                return sources.digest(files, json.dumps(settings, sort_keys=True))
        except OSError as error:
            raise CardError(f"{self.folder}: could not be read: {error}") from None
        places = ", ".join(str(place) for place in self.search)
        raise CardError(f"{self.folder / CARD}: entry: expected a module {module!r} in {places} or installed, got none")

    def spec(self) -> dict[str, Any]:
        """Everything a model worker needs to build the network, as plain data; ``CheckpointError`` as above."""
        path, _ = self._checkpoint()
        given = self.card.checkpoint
        more: dict[str, Any] = {}
        if split(self.card.entry)[0] in adapters.PACKAGES:
            files = self._published()
            if path is not None and given is not None and split(self.card.entry)[0] == "robustbench":
                files = [{"path": str(path), "sha256": given.sha256}]
            more = self._facts() | {"files": files}
        return more | {
            "id": self.id,
            "folder": str(self.folder),
            "search": [str(place) for place in self.search],
            "entry": self.card.entry,
            "kwargs": self.card.kwargs,
            "checkpoint": str(path) if path else None,
            "checkpoint_sha256": given.sha256 if given else "",
            "key": given.key if given else None,
            "strip_prefix": given.strip_prefix if given else None,
        }


@dataclass(frozen=True)
class Discovery:
    """What a search for submissions found, by folder name."""

    submissions: dict[str, Submission] = field(default_factory=dict)
    problems: dict[str, UserError] = field(default_factory=dict)
    """Folders with a card that cannot be used, and names that two roots hold."""


def default_roots() -> tuple[Path, ...]:
    """The folder of submissions that comes with the harness."""
    return (sources.HOME / "submissions",)


def _absolute(path: Path) -> Path:
    """``path`` from the root of the disk; a link keeps its own name, which is the one its id must match."""
    return Path(os.path.abspath(path))  # noqa: PTH100


def _sha256_hint(folder: Path, data: dict[str, Any]) -> str:
    """The sha256 of the checkpoint that lies in the folder, for a card that does not give one."""
    given = data.get("checkpoint")
    if not isinstance(given, dict) or not isinstance(given.get("file"), str):
        return ""
    name, written = given["file"], given.get("sha256")
    path = (folder / name).resolve()
    complete = isinstance(written, str) and len(written) == 64
    if complete or not path.is_relative_to(folder.resolve()) or not path.is_file():
        return ""
    try:
        return f" (the sha256 of {name} is {checkpoints.file_sha256(path)})"
    except CheckpointError:
        return ""


def read(folder: Path, root: Path) -> Submission:
    """The submission in ``folder``; ``CardError`` when its card is wrong or the file it is built by is missing."""
    folder, root = _absolute(folder), _absolute(root)
    path = folder / CARD
    card = read_card(path, hint=lambda data: _sha256_hint(folder, data))
    if card.id != folder.name:
        raise CardError(f"{path}: id: expected the folder's name {folder.name!r}, got {card.id!r}")
    place = module_of(card.entry)
    if place.endswith(".py"):
        file = folder / place
        if not file.resolve().is_relative_to(folder.resolve()):
            raise CardError(f"{path}: entry: expected a file inside {folder}, got {shown(place)}, a link out of it")
        if not file.is_file():
            raise CardError(f"{path}: entry: expected the file {file}, which is not there")
    return Submission(card.id, folder, root, card)


def _folders(root: Path) -> Iterator[tuple[Path, Path]]:
    """(folder, root) of everything in ``root`` that has a card, or of ``root`` itself when it has one."""
    try:
        if (root / CARD).exists():
            yield root, root.parent
            return
        for folder in sorted(root.iterdir()):
            hidden = folder.name.startswith((".", "_")) or folder.name in RESERVED
            if not hidden and folder.is_dir() and (folder / CARD).exists():
                yield folder, root
    except OSError as error:
        raise CardError(f"{root}: expected a folder of submissions, got an error: {error.strerror or error}") from None


def discover(roots: Sequence[Path]) -> Discovery:
    """Every submission below ``roots``, and every folder whose card cannot be used; a bad card hides no good one.

    ``CardError`` when a root is not a readable folder.
    """
    places: dict[str, dict[Path, tuple[Path, Path]]] = {}
    for root in roots:
        for folder, parent in _folders(_absolute(root)):
            places.setdefault(folder.name, {}).setdefault(folder.resolve(), (folder, parent))
    found = Discovery()
    for name, folders in sorted(places.items()):
        (folder, root), *others = folders.values()
        if others:
            everywhere = " and ".join(str(place) for place, _ in folders.values())
            found.problems[name] = CardError(
                f"id: expected one folder called {name!r}, got {everywhere}: rename one and its id"
            )
            continue
        try:
            found.submissions[name] = read(folder, root)
        except UserError as error:
            found.problems[name] = error
    return found


def create(id: str, root: Path, *, dataset: str = "cifar10") -> Path:
    """Make the folder of a new submission in ``root``; returns it. The submission is valid as it is.

    ``CardError`` when the id cannot be used or is taken, the data set is unknown, or the disk refuses.
    """
    for name, value, check in (("id", id, submission_id), ("dataset", dataset, known_dataset)):
        try:
            check(value)
        except ValueError as error:
            raise CardError(f"{name}: {error}") from None
    folder = _absolute(root) / id
    for place in dict.fromkeys((folder, *(other / id for other in default_roots()))):
        if place.exists() or place.is_symlink():
            raise CardError(f"id: expected a name that is free, got {id!r}: {place} is there already")
    unfinished = folder.with_name(f".{id}.new")
    try:
        unfinished.mkdir(parents=True)
        for name, text in starter.files(id, dataset, FAMILIES[dataset]).items():
            (unfinished / name).write_text(text, encoding="utf-8")
        unfinished.rename(folder)
    except OSError as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise CardError(f"{folder}: could not be made: {error.strerror or error}") from None
    return folder
