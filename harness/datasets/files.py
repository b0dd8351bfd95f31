"""A file of a data set: downloaded unless it is there, and held against its checksum."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from harness.download import DownloadError, Progress, WrongFileError, download
from harness.errors import DatasetError


@dataclass(frozen=True)
class Source:
    """Where a file comes from and what it must be."""

    url: str
    md5: str
    """As its publishers give it."""


def file_md5(path: Path) -> str:
    """md5 of a file's content, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def fetch(source: Source, target: Path, *, where: str, hint: str = "", progress: Progress | None = None) -> Path:
    """``target``, downloaded unless it is there; its checksum is right on return.

    ``where`` begins a message, ``hint`` ends the one for a failed download. ``DatasetError`` says what could not be
    had, from which address, and where to place it by hand.
    """

    def flaw(part: Path) -> str:
        got = file_md5(part)
        return "" if got == source.md5 else f"{part.stat().st_size:,} bytes with md5 {got}"

    try:
        if target.exists():
            return _check(target, source, where)
        download(source.url, target, flaw=flaw, progress=progress)
    except WrongFileError as error:
        raise DatasetError(
            f"{where}: expected {source.url} with md5 {source.md5}, got {error}: "
            f"try again later, or place the file at {target} by hand"
        ) from None
    except (OSError, DownloadError) as error:
        raise DatasetError(
            f"{where}: expected {target} or a download, got none ({error}): run the same command again to go on, or "
            f"put {source.url} (md5 {source.md5}) at {target}, or choose the folder with --data-dir or RAMPART_DATA"
            f"{hint}"
        ) from None
    return target


def _check(target: Path, source: Source, where: str) -> Path:
    got = file_md5(target)
    if got != source.md5:
        raise DatasetError(
            f"{where}: expected {target} with md5 {source.md5}, got {got}: damaged, or another file; "
            f"delete it, or replace it by {source.url}"
        )
    return target
