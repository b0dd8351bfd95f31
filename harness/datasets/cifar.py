"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): the test split, through torchvision and its checksums."""

import contextlib
import os
import socket
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np

from harness.datasets.classes import CLASS_NAMES
from harness.datasets.dataset import Dataset
from harness.datasets.files import file_md5
from harness.errors import DatasetError

FULL = 10_000
"""Examples of each test split."""

FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
"""What the archives unpack to, below ``data_folder``."""

PATIENCE = 30.0
"""Seconds to wait for an answer from the network."""

VARIABLE = "RAMPART_DATA"
"""Environment variable with the folder for data sets."""


def data_folder(data_dir: Path | None) -> Path:
    """Where data sets are kept: ``data_dir``, else ``$RAMPART_DATA``, else the user's cache folder."""
    if data_dir is not None:
        return data_dir.expanduser()
    if os.environ.get(VARIABLE):
        return Path(os.environ[VARIABLE]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "rampart"


def load_cifar(name: str, data_dir: Path | None) -> Dataset:
    """The test split of ``cifar10`` or ``cifar100``; downloads it into ``data_folder`` when it is not there.

    ``DatasetError``, with the way to do it by hand, when it is neither there nor to be had, or damaged.
    """
    import torchvision

    source: Any = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[name]
    folder = data_folder(data_dir)
    try:
        with _patience(PATIENCE):
            split = source(str(folder), train=False, download=True)
    except (OSError, HTTPException, RuntimeError, ValueError, EOFError) as error:
        archive, md5 = folder / source.filename, source.tgz_md5
        reason = " ".join(f"{type(error).__name__}: {error}".split()) + _damage(archive, md5)
        raise DatasetError(
            f"{name}: expected {folder / source.base_folder} or a download, got {reason}; put {source.url} "
            f"(md5 {md5}) at {archive} and run again, or choose the folder with --data-dir or {VARIABLE}, "
            f"or use --dataset {name}-sample, which needs no download"
        ) from None
    images, labels = np.ascontiguousarray(split.data), np.asarray(split.targets, dtype=np.int64)
    return Dataset(name, images, labels, len(CLASS_NAMES[name]), CLASS_NAMES[name], len(labels))


@contextlib.contextmanager
def _patience(seconds: float) -> Iterator[None]:
    """Let no connection opened inside wait for ever; torchvision itself sets no limit."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _damage(archive: Path, md5: str) -> str:
    """A remark on an archive that lies there and is not the right one."""
    if not archive.is_file():
        return ""
    found = file_md5(archive)
    return "" if found == md5 else f", and {archive} has md5 {found}: damaged, or another file"
