"""Bring a file here: resumed where it stopped, by one process at a time, put in its place only as a whole."""

import contextlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

Progress = Callable[[int, int], None]
"""Told the bytes that are here and the bytes in all, or 0 where the server does not say."""

PATIENCE = 30.0
"""Most seconds without an answer."""

ATTEMPTS = 3
"""Connections in a row that may fail without a byte."""

_BLOCK = 1 << 20


class DownloadError(Exception):
    """A file could not be had; the text says why. What arrived is kept for the next time."""


class WrongFileError(Exception):
    """A whole file came, but not the one that was meant; the text says what is wrong with it."""


def download(
    url: str,
    target: Path,
    *,
    flaw: Callable[[Path], str],
    timeout: float = PATIENCE,
    progress: Progress | None = None,
) -> None:
    """Bring ``url`` to ``target`` unless it is there.

    ``flaw`` says what is wrong with a whole file, nothing when all is well; a file that was begun in an earlier run is
    fetched once more before it counts. Raises ``DownloadError`` and ``WrongFileError``.
    """
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _only_one(target.with_name(f"{target.name}.lock")):
            if target.exists():
                return
            resumed = part.exists()
            _bring(url, part, timeout, progress)
            wrong = flaw(part)
            if wrong and resumed:
                part.unlink()
                _bring(url, part, timeout, progress)
                wrong = flaw(part)
            if wrong:
                part.unlink()
                raise WrongFileError(wrong)
            os.replace(part, target)
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(_reason(error)) from None


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


def _bring(url: str, part: Path, timeout: float, progress: Progress | None) -> None:
    """Bring ``part`` to its full length in as many connections as go on; raises what the last of them failed with."""
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            return _receive(url, part, timeout, progress)
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


def _receive(url: str, part: Path, timeout: float, progress: Progress | None) -> None:
    """Append to ``part`` what is missing of it, in one connection."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "rampart", "Accept-Encoding": "identity"})  # noqa: S310
    if have:
        request.add_header("Range", f"bytes={have}-")
    with urllib.request.urlopen(request, timeout=timeout) as answer:  # noqa: S310
        if str(answer.headers.get("Content-Type", "")).startswith("text/html"):
            # Before anything is written: what was received earlier is worth keeping.
            raise DownloadError(_page_says(answer.read(_BLOCK)))
        goes_on = answer.status == http.client.PARTIAL_CONTENT
        if goes_on and not str(answer.headers.get("Content-Range", "")).startswith(f"bytes {have}-"):
            raise http.client.HTTPException("the server sent another part of the file than the one asked for")
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
        raise http.client.HTTPException(f"the connection ended after {here:,} of {total:,} bytes")


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
    text = str(error.reason) if isinstance(error, urllib.error.URLError) else str(error)
    return " ".join(text.split()) or type(error).__name__
