"""Writes docs/checks.md from the registry of checks, the thresholds and the zoo: ``python tests/checks_page.py``.

``--check`` writes nothing and exits 1 when the page is not up to date.
"""

import sys
from pathlib import Path

from leaderboard.checks_page import markdown
from leaderboard.confusion import read_matrix

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "checks.md"
MATRIX = ROOT / "leaderboard" / "zoo" / "matrix.json"


def main(argv: list[str]) -> int:
    """Write the page, or compare it."""
    text = markdown(read_matrix(MATRIX))
    if "--check" in argv:
        return 0 if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text else 1
    PAGE.write_text(text, encoding="utf-8")
    sys.stdout.write(f"{PAGE.relative_to(ROOT)}: {len(text.splitlines())} lines\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
