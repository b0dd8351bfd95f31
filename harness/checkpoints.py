"""Checkpoint files: downloaded once, resumed when interrupted, recognised when damaged, trusted by their hash alone."""

import contextlib
import hashlib
import http.client
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from harness.errors import CheckpointError

ATTEMPTS = 3
"""Connections tried before a download is given up; each goes on where the last one ended."""

_BLOCK = 1 << 20
_ZIP_END = b"PK\x05\x06"


@dataclass(frozen=True)
class Source:
    """A file that somebody else publishes."""

    url: str
    target: Path
    """Where it is kept, whether downloaded or placed by hand."""
    page: str = ""
    """Where a person gets it, when that is another address."""


class WebPageError(Exception):
    """A server sent a page for a person where a file was asked for; the text says what the page is about."""


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


def _receive(url: str, part: Path, *, timeout: float) -> None:
    """Append to ``part`` what is missing of it; ``OSError`` or ``HTTPException`` when the connection fails."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "rampart", "Accept-Encoding": "identity"})  # noqa: S310
    if have:
        request.add_header("Range", f"bytes={have}-")
    with urllib.request.urlopen(request, timeout=timeout) as answer:  # noqa: S310
        if str(answer.headers.get("Content-Type", "")).startswith("text/html"):
            # Before anything is written: what was received earlier is worth keeping.
            raise WebPageError(_page_says(answer.read(_BLOCK)))
        goes_on = answer.status == http.client.PARTIAL_CONTENT
        if goes_on and not str(answer.headers.get("Content-Range", "")).startswith(f"bytes {have}-"):
            raise http.client.HTTPException("the server sent another part of the file than the one asked for")
        announced = answer.headers.get("Content-Length")
        received = 0
        with open(part, "ab" if goes_on else "wb") as file:
            while block := answer.read(_BLOCK):
                file.write(block)
                received += len(block)
            file.flush()
            os.fsync(file.fileno())
    if announced is not None and announced.isdigit() and received < int(announced):
        raise http.client.HTTPException(f"the connection ended after {received:,} of {int(announced):,} bytes")


def _page_says(content: bytes) -> str:
    """What a web page that came instead of a file is about."""
    text = content.decode("utf-8", "replace").lower()
    if "quota exceeded" in text or "too many users" in text:
        return "a Google Drive error page came: too many downloads of this file, try again in a day"
    if "servicelogin" in text or "sign in" in text or "you need access" in text:
        return "a sign-in page came: the file is not public"
    if "virus scan" in text:
        return "a Google Drive warning page came instead of the file"
    return "a web page (HTML) came instead of the file"


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server said {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return str(error.reason)
    return str(error) or type(error).__name__


def _download(url: str, part: Path, *, timeout: float) -> None:
    """Bring ``part`` to its full length in a few connections; raises what the last of them failed with."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _receive(url, part, timeout=timeout)
        except urllib.error.HTTPError as error:
            if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE or attempt == ATTEMPTS:
                raise
            part.unlink(missing_ok=True)
        except (OSError, http.client.HTTPException):
            if attempt == ATTEMPTS:
                raise


def fetch(url: str, sha256: str, *, where: str, timeout: float = 30.0) -> Path:
    """Path of the checkpoint at ``url``, downloaded into the cache unless it is there; its sha256 is checked.

    ``timeout`` is the most seconds without an answer. ``CheckpointError`` says how to place the file by hand when the
    network says no, and what came when it is not the file that was promised.
    """
    target = cached_path(url, sha256)
    part = target.with_name(f"{target.name}.part")
    try:
        if target.exists():
            if file_sha256(target) == sha256:
                return target
            target.unlink()
        target.parent.mkdir(parents=True, exist_ok=True)
        with _only_one(target.with_name(f"{target.name}.lock")):
            if target.exists():
                return target
            resumed = part.exists()
            _download(url, part, timeout=timeout)
            if resumed and file_sha256(part) != sha256:
                part.unlink()
                _download(url, part, timeout=timeout)
            got = file_sha256(part)
            if got != sha256:
                reason = damage(part)
                part.unlink()
                raise CheckpointError(
                    f"{where}: expected {url} with sha256 {sha256}, got {got}{f': {reason}' if reason else ''}"
                )
            os.replace(part, target)
    except (OSError, http.client.HTTPException, WebPageError) as error:
        raise CheckpointError(
            f"{where}: {url} could not be downloaded ({_reason(error)}): run the same command again to go on, "
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


def _bring(source: Source, *, timeout: float) -> None:
    """Download ``source`` to its place; what comes must not be damaged as far as its bytes tell."""
    target = source.target
    part = target.with_name(f"{target.name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    with _only_one(target.with_name(f"{target.name}.lock")):
        if target.exists():
            return
        resumed = part.exists()
        _download(source.url, part, timeout=timeout)
        reason = damage(part)
        if reason and resumed:
            part.unlink()
            _download(source.url, part, timeout=timeout)
            reason = damage(part)
        if reason:
            part.unlink()
            raise WebPageError(reason)
        os.replace(part, target)


def obtain(sources: Sequence[Source], *, where: str, timeout: float = 30.0) -> tuple[str, ...]:
    """sha256 of each of the files of one model, downloaded into the cache unless they are there.

    Nobody pins these files: size and sha256 are recorded beside a file when it is first seen, and it must stay that
    file. ``timeout`` is the most seconds without an answer. One ``CheckpointError`` says which file could not be
    fetched, from where and why, and how to place all that are missing by hand.
    """
    for source in sources:
        try:
            if not source.target.exists():
                _bring(source, timeout=timeout)
        except (OSError, http.client.HTTPException, WebPageError) as error:
            missing = [item for item in sources if not item.target.exists()]
            by_hand = "; ".join(f"get {item.page or item.url} and place it at {item.target}" for item in missing)
            raise CheckpointError(
                f"{where}: {source.url} could not be downloaded ({_reason(error)}): run the same command again to go "
                f"on, or by hand: {by_hand}"
            ) from None
    try:
        return tuple(_known(source, where=where) for source in sources)
    except OSError as error:
        raise CheckpointError(f"{where}: {error.filename}: {error.strerror or error}") from None
