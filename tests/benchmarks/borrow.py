"""Lets the environment that runs this use another one's packages: ``python borrow.py DIRECTORY_OF_THE_OTHER``.

For packages that must not be installed beside ours, e.g. torchattacks, whose wheel holds a ``robustbench`` of its own.
"""

import sys
import sysconfig
from pathlib import Path


def main(other: Path) -> int:
    """Write a path file into this environment; exit code 1 when the other one has no packages."""
    packages = other.resolve() / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
    if not packages.is_dir():
        sys.stderr.write(f"{other}: expected an environment of Python {sysconfig.get_python_version()}, got none\n")
        return 1
    # A line that begins with "import" is run: the other environment's own path files count too.
    line = f"import site; site.addsitedir({str(packages)!r})\n"
    Path(sysconfig.get_path("purelib"), "borrowed.pth").write_text(line, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
