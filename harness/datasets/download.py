"""Bring a file of a data set here: resumed where it stopped, held against its checksum, replaced only as a whole."""

import contextlib
import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.errors import DatasetError

Progress = Callable[[int, int], None]
"""Told the bytes that are here and the bytes in all, or 0 where the server does not say."""

PATIENCE = 30.0
"""Most seconds without an answer."""

ATTEMPTS = 3
"""Connections in a row that may fail."""

_BLOCK = 1 << 20


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
    had, from which address, and where to place it by hand. What arrived before a failure is kept and built upon.
    """
    part = target.with_name(f"{target.name}.part")
    try:
        if target.exists():
            return _check(target, source, where)
        target.parent.mkdir(parents=True, exist_ok=True)
        with _only_one(target.with_name(f"{target.name}.lock")):
            if target.exists():
                return _check(target, source, where)
            resumed = part.exists()
            _download(source.url, part, progress)
            if resumed and file_md5(part) != source.md5:
                part.unlink()
                _download(source.url, part, progress)
            got = file_md5(part)
            if got != source.md5:
                size = part.stat().st_size
                part.unlink()
                raise DatasetError(
                    f"{where}: expected {source.url} with md5 {source.md5}, got {size:,} bytes with md5 {got}: "
                    f"try again later, or place the file at {target} by hand"
                )
            os.replace(part, target)
    except (OSError, http.client.HTTPException) as error:
        raise DatasetError(
            f"{where}: expected {target} or a download, got {_reason(error)}; run the same command again to go on, or "
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


@contextlib.contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Wait until no other process downloads the same file."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with open(path, "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _download(url: str, part: Path, progress: Progress | None) -> None:
    """Bring ``part`` to its full length in a few connections; raises what the last of them failed with."""
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            return _receive(url, part, progress)
        except urllib.error.HTTPError as error:
            if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE or not before:
                raise
            # The part is longer than the file: it is not a part of it.
            part.unlink(missing_ok=True)
        except (OSError, http.client.HTTPException):
            grown = part.exists() and part.stat().st_size > before
            failures = 1 if grown else failures + 1
            if failures >= ATTEMPTS:
                raise


def _receive(url: str, part: Path, progress: Progress | None) -> None:
    """Append to ``part`` what is missing of it, in one connection."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "rampart", "Accept-Encoding": "identity"})  # noqa: S310
    if have:
        request.add_header("Range", f"bytes={have}-")
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:  # noqa: S310
        goes_on = answer.status == http.client.PARTIAL_CONTENT
        if goes_on and not str(answer.headers.get("Content-Range", "")).startswith(f"bytes {have}-"):
            raise http.client.HTTPException("another part of the file than the one asked for")
        here = have if goes_on else 0
        announced = str(answer.headers.get("Content-Length", ""))
        total = here + int(announced) if announced.isdigit() else 0
        with open(part, "ab" if goes_on else "wb") as file:
            while block := answer.read(_BLOCK):
                file.write(block)
                here += len(block)
                if progress is not None:
                    progress(here, total)
            file.flush()
            os.fsync(file.fileno())
    if here < total:
        raise http.client.HTTPException(f"a connection that ended after {here:,} of {total:,} bytes")


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the answer {error.code} {error.reason}"
    text = str(error.reason) if isinstance(error, urllib.error.URLError) else str(error)
    return " ".join(f"{type(error).__name__}: {text}".split())
