"""What a number depends on besides the recipe: versions, hardware, and the state of the checkout."""

import functools
import platform
import subprocess
import timeit
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


def bfloat16_speed() -> float:
    """How many times as fast this processor convolves in bfloat16 as in float32, measured in a moment.

    About 2 where it has arithmetic for that; without, it converts every number and is many times slower.
    """
    import torch

    seconds = []
    for dtype in (torch.float32, torch.bfloat16):
        layer = torch.nn.Conv2d(64, 64, 3, padding=1).requires_grad_(False).to(dtype)
        x = torch.zeros(8, 64, 16, 16, dtype=dtype).contiguous(memory_format=torch.channels_last)
        layer(x)
        seconds.append(min(timeit.repeat(functools.partial(layer, x), number=1, repeat=5)))
    return seconds[0] / seconds[1]


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
