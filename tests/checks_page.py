"""Writes docs/checks.md from the registry of checks, the thresholds and the zoo: ``python tests/checks_page.py``.

``--check`` writes nothing and exits 1 when the page is not up to date.
"""

import sys

from generated_page import ROOT, write_or_check

from leaderboard.checks_page import markdown
from leaderboard.confusion import read_matrix

PAGE = ROOT / "docs" / "checks.md"
MATRIX = ROOT / "leaderboard" / "zoo" / "matrix.json"


def main(argv: list[str]) -> int:
    """Write the page, or compare it."""
    return write_or_check(PAGE, markdown(read_matrix(MATRIX)), argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
