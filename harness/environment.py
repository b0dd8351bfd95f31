"""What a number depends on besides the recipe: versions, hardware, and the state of the checkout."""

import functools
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from harness import __version__
from harness.records import Environment

PACKAGES = ("numpy", "pyautoattack", "safetensors", "torchvision")
"""Packages besides torch whose version can change a number."""


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


@functools.cache
def _checkout() -> tuple[str, bool]:
    """(commit, dirty) of the checkout this package lies in; ("", False) outside of one."""
    folder = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()

    try:
        if not git("ls-files", "--", "environment.py"):
            return "", False
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no", "--", str(folder)))
    except (OSError, subprocess.SubprocessError):
        return "", False


@functools.cache
def processor() -> str:
    """Name of the processor, with the number of threads the machine has."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    return name


def describe(
    *, device: str, threads: int, dtype: str, hardware: str = "", optimisations: tuple[str, ...] = ()
) -> Environment:
    """The environment of a worker; ``hardware`` defaults to the name of the processor."""
    commit, dirty = _checkout()
    return Environment(
        python=platform.python_version(),
        torch=_version("torch"),
        platform=f"{platform.system()} {platform.machine()}",
        hardware=hardware or processor(),
        device=device.partition(":")[0],
        threads=threads,
        dtype=dtype,
        harness=__version__,
        commit=commit,
        dirty=dirty,
        packages={name: version for name in PACKAGES if (version := _version(name))},
        optimisations=optimisations,
    )
