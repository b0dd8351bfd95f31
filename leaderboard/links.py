"""What a submitter wrote, made fit for an address: file names and links."""

import hashlib
import re
from urllib.parse import urlsplit


def safe_url(value: object) -> str | None:
    """``value`` when it is a plain http or https address, else None; everything else never becomes a link."""
    if not isinstance(value, str) or not value.isprintable() or re.search(r"\s", value):
        return None
    try:
        parts = urlsplit(value)
        host = parts.hostname
    except ValueError:
        return None
    return value if parts.scheme in {"http", "https"} and host else None


def slug(text: str) -> str:
    """``text`` as a file name; where characters had to go, a digest keeps apart what would become the same name."""
    plain = re.sub(r"[^a-z0-9._-]+", "_", text).strip("._-")[:80]
    return text if plain == text != "" else f"{plain or 'x'}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def page_path(board_slug: str, submission: str) -> str:
    """Address of a submission's page on a board, relative to the site's root."""
    return f"boards/{board_slug}/{slug(submission)}.html"
