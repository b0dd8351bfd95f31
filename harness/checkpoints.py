"""Checkpoint files: downloaded once, resumed when interrupted, recognised when damaged, trusted by their hash alone."""

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from harness.download import PATIENCE, DownloadError, WrongFileError, download
from harness.errors import CheckpointError

_ZIP_END = b"PK\x05\x06"


@dataclass(frozen=True)
class Source:
    """A file that somebody else publishes."""

    url: str
    target: Path
    """Where it is kept, whether downloaded or placed by hand."""
    page: str = ""
    """Where a person gets it, when that is another address."""


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes; ``CheckpointError`` when it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path}: could not be read: {error.strerror or error}") from None


def damage(path: Path) -> str:
    """What is wrong with a file that should hold weights, as far as its bytes tell; empty when nothing is seen.

    Nothing is unpickled.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(512)
        file.seek(max(0, size - 65_557))
        tail = file.read()
    if not head:
        return "the file is empty"
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "it is a web page (HTML), not weights: open its address in a browser to see what the server says"
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not weights: fetch the file with `git lfs pull`"
    if head.startswith(b"PK\x03\x04") and _ZIP_END not in tail:
        return f"it is truncated: a torch file of {size:,} bytes without its end"
    if head[8:9] == b"{":
        needed = _safetensors_size(path, size)
        if needed > size:
            return f"it is truncated: expected {needed:,} bytes of safetensors, got {size:,}"
    return ""


def _safetensors_size(path: Path, size: int) -> int:
    """Bytes that a safetensors file must have by its own header; 0 when it has none."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > size - 8:
            return 8 + length if length < 1 << 32 else 0
        try:
            header = json.loads(file.read(length))
            ends = [item["data_offsets"][1] for name, item in header.items() if name != "__metadata__"]
            return 8 + length + max(ends, default=0)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            return 0


def check(path: Path, sha256: str, *, where: str) -> None:
    """``CheckpointError`` unless the file is there and has this sha256; ``where`` names the card and the field."""
    if not path.is_file():
        raise CheckpointError(f"{where}: expected the file {path}, which is not there")
    got = file_sha256(path)
    if got != sha256:
        reason = damage(path)
        hint = f": {reason}" if reason else "; if this is the file you mean, put its sha256 into the card"
        raise CheckpointError(f"{where}: expected {path.name} with sha256 {sha256}, got {got}{hint}")


def cache_dir() -> Path:
    """Where downloads are kept: ``$RAMPART_CACHE``, else the user's cache folder of this platform."""
    given = os.environ.get("RAMPART_CACHE")
    if given:
        return Path(given).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "rampart"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "rampart"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rampart"


def cached_path(url: str, sha256: str) -> Path:
    """Where the checkpoint of this address and hash lies once it is downloaded, or placed by hand."""
    suffix = PurePosixPath(urlsplit(url).path).suffix
    return cache_dir() / "checkpoints" / f"{sha256}{suffix if suffix.isascii() and len(suffix) <= 16 else ''}"


def fetch(url: str, sha256: str, *, where: str, timeout: float = PATIENCE) -> Path:
    """Path of the checkpoint at ``url``, downloaded into the cache unless it is there; its sha256 is checked.

    ``timeout`` is the most seconds without an answer. ``CheckpointError`` says how to place the file by hand when the
    network says no, and what came when it is not the file that was promised.
    """
    target = cached_path(url, sha256)

    def flaw(part: Path) -> str:
        got = file_sha256(part)
        return "" if got == sha256 else ": ".join(filter(None, (got, damage(part))))

    try:
        if target.exists() and file_sha256(target) != sha256:
            target.unlink()
        download(url, target, flaw=flaw, timeout=timeout)
    except WrongFileError as error:
        raise CheckpointError(f"{where}: expected {url} with sha256 {sha256}, got {error}") from None
    except (OSError, DownloadError) as error:
        raise CheckpointError(
            f"{where}: {url} could not be downloaded ({error}): run the same command again to go on, "
            f"or get the file elsewhere and place it at {target}"
        ) from None
    return target


def _record(target: Path) -> Path:
    """Where the size and sha256 of a file are kept that no card pins."""
    return target.with_name(f"{target.name}.json")


def _known(source: Source, *, where: str) -> str:
    """sha256 of a file that is there, recorded when it is first seen; it must stay what it was then."""
    target, record = source.target, _record(source.target)
    got = file_sha256(target)
    try:
        recorded = str(json.loads(record.read_text())["sha256"]) if record.exists() else ""
    except (OSError, ValueError, KeyError, TypeError):
        recorded = ""
    if recorded == got:
        return got
    reason = damage(target)
    if recorded:
        hint = reason or f"if it is meant to be another file now, delete {record}"
        raise CheckpointError(f"{where}: expected {target} with the recorded sha256 {recorded}, got {got}: {hint}")
    if reason:
        raise CheckpointError(f"{where}: {target}: {reason}; delete it")
    note = {
        "url": source.url, "sha256": got, "size": target.stat().st_size,
        "first_seen": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    partial = record.with_name(f"{record.name}.part")
    partial.write_text(json.dumps(note, indent=1) + "\n")
    os.replace(partial, record)
    return got


def obtain(sources: Sequence[Source], *, where: str, timeout: float = PATIENCE) -> tuple[str, ...]:
    """sha256 of each of the files of one model, downloaded into the cache unless they are there.

    Nobody pins these files: size and sha256 are recorded beside a file when it is first seen, and it must stay that
    file. ``timeout`` is the most seconds without an answer. One ``CheckpointError`` says which file could not be
    fetched, from where and why, and how to place all that are missing by hand.
    """
    for source in sources:
        try:
            download(source.url, source.target, flaw=damage, timeout=timeout)
        except (DownloadError, WrongFileError) as error:
            missing = [item for item in sources if not item.target.exists()]
            by_hand = "; ".join(f"get {item.page or item.url} and place it at {item.target}" for item in missing)
            raise CheckpointError(
                f"{where}: {source.url} could not be downloaded ({error}): run the same command again to go "
                f"on, or by hand: {by_hand}"
            ) from None
    try:
        return tuple(_known(source, where=where) for source in sources)
    except OSError as error:
        raise CheckpointError(f"{where}: {error.filename}: {error.strerror or error}") from None
