"""The data sets and their registry. A family is one file; registering a data set is one line below."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from harness.datasets.cifar import FOLDERS, data_folder, load_cifar
from harness.datasets.corrupted import Corrupted, corrupted, corruptions_of
from harness.datasets.dataset import Dataset
from harness.datasets.mnist import load_mnist
from harness.datasets.npz import load_npz
from harness.datasets.sample import load_sample
from harness.datasets.svhn import load_svhn
from harness.errors import DatasetError, UnknownNameError
from harness.registry import Registry

__all__ = ["DATASETS", "NPZ", "Corrupted", "Dataset", "at_hand", "corrupted", "corruptions_of", "load", "names"]

DATASETS: Registry[Callable[[Path | None], Dataset]] = Registry("dataset")
"""From a name to the function that loads the whole data set, given the folder for downloads or None."""

for _name in ("cifar10", "cifar100"):
    DATASETS.add(_name, partial(load_cifar, _name))
    DATASETS.add(f"{_name}-sample", lambda _folder, name=f"{_name}-sample": load_sample(name))  # type: ignore[misc]

DATASETS.add("mnist", load_mnist)
DATASETS.add("svhn", load_svhn)

DATASETS.freeze()

NPZ = "npz:"
"""Prefix of a data set that is a file of the user's."""


def names() -> list[str]:
    """Names of the registered data sets, sorted; ``npz:FILE`` comes on top."""
    return DATASETS.names()


def at_hand(name: str, data_dir: Path | None = None) -> bool:
    """Whether the registered data set ``name`` can be loaded without a network: a sample, or CIFAR where it lies."""
    folder = FOLDERS.get(name)
    return name.endswith("-sample") if folder is None else (data_folder(data_dir) / folder).is_dir()


def load(name: str, *, data_dir: Path | None = None, limit: int | None = None) -> Dataset:
    """The first ``limit`` examples (None: all) of the data set ``name``, or of the file in ``npz:FILE``.

    ``data_dir`` is where files are, or are put: by default ``$RAMPART_DATA``, else the user's cache folder.
    An ``npz:FILE`` whose examples (after ``limit``) begin CIFAR's test split is named ``cifar10`` or ``cifar100``:
    ``harness.datasets.npz``. Raises ``UnknownNameError`` for an unknown name, ``DatasetError`` for a data set that
    cannot be had or read, ``UserError`` for a ``limit`` that is not between 1 and the number of examples.
    """
    if name.startswith(NPZ):
        if name == NPZ:
            raise DatasetError("dataset: expected a file, as in npz:my-images.npz, got none")
        return load_npz(name.removeprefix(NPZ), limit)
    if name not in DATASETS.names():
        file = name if name.endswith(".npz") else "FILE"
        raise UnknownNameError("dataset", name, [*names(), f"{NPZ}{file}"])
    return DATASETS.get(name)(data_dir).first(limit)
