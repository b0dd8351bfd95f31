"""Checkpoint files: downloaded once, resumed when interrupted, recognised when damaged, trusted by their hash alone."""

import contextlib
import hashlib
import http.client
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from harness.errors import CheckpointError

ATTEMPTS = 3
"""Connections tried before a download is given up; each goes on where the last one ended."""

_BLOCK = 1 << 20
_ZIP_END = b"PK\x05\x06"


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
    except (OSError, http.client.HTTPException) as error:
        raise CheckpointError(
            f"{where}: {url} could not be downloaded ({_reason(error)}): run the same command again to go on, "
            f"or get the file elsewhere and place it at {target}"
        ) from None
    return target
