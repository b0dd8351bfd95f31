"""What the scripts that write a page of docs/ from the code share: write it, or say whether it is up to date."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def write_or_check(page: Path, text: str, argv: list[str]) -> int:
    """Write ``text`` to ``page``; with ``--check`` in ``argv`` write nothing and return 1 when it is another text."""
    if "--check" in argv:
        return 0 if page.is_file() and page.read_text(encoding="utf-8") == text else 1
    page.write_text(text, encoding="utf-8")
    sys.stdout.write(f"{page.relative_to(ROOT)}: {len(text.splitlines())} lines\n")
    return 0
