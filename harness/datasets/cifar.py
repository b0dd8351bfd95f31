"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): the test split, through torchvision and its checksums."""

import contextlib
import hashlib
import os
import socket
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np

from harness.datasets.dataset import Dataset
from harness.errors import DatasetError

_CIFAR100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm
"""

CLASS_NAMES = {
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    "cifar100": tuple(_CIFAR100.split()),
}
"""Names of the classes, in the order of the labels (CIFAR-100: the fine ones)."""

FULL = 10_000
"""Examples of each test split."""

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
    with open(archive, "rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return "" if found == md5 else f", and {archive} has md5 {found}: damaged, or another file"
