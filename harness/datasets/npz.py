"""Data sets from a NumPy archive: ``images`` uint8 (n, H, W, C) and ``labels`` integer (n,)."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.datasets.cifar import FULL
from harness.datasets.classes import CLASS_NAMES
from harness.datasets.dataset import Dataset
from harness.datasets.recognise import recognise
from harness.errors import DatasetError

MOST_CLASSES = 65_536
"""Labels must stay below this."""


def load_npz(file: str, limit: int | None) -> Dataset:
    """The first ``limit`` examples (all for None) of the archive ``file``.

    Its name is ``npz:`` and the file's stem, its classes are those up to the largest label of the whole file. When
    the examples that were asked for are the beginning of CIFAR-10's or CIFAR-100's test split, pixel for pixel and
    label for label, it is that data set and gets its name, classes and full size. Only the first 1,000 and 900 of
    those are known by their hashes: a longer beginning is recognised only under a ``limit``. ``DatasetError`` names
    the file and the array when something is wrong with it.
    """
    path = Path(file).expanduser()
    arrays = _read(path)
    images, labels = _images(path, arrays["images"]), _labels(path, arrays["labels"])
    if len(images) != len(labels):
        raise DatasetError(f"{path}: labels: expected {len(images)}, one per image, got {len(labels)}")
    classes = int(labels.max()) + 1
    names = tuple(str(label) for label in range(classes))
    data = Dataset(f"npz:{path.stem}", images, labels, classes, names, len(labels)).first(limit)
    known = recognise(np.asarray(data.images), data.labels)
    if known is None:
        return data
    return Dataset(known, data.images, data.labels, len(CLASS_NAMES[known]), CLASS_NAMES[known], FULL)


def _read(path: Path) -> dict[str, NDArray[Any]]:
    """The two arrays, whatever they hold; nothing pickled is opened."""
    if not path.is_file():
        raise DatasetError(f"{path}: expected a file written by numpy.savez, got no such file")
    found: dict[str, NDArray[Any]] = {}
    try:
        with zipfile.ZipFile(path):
            pass
        with np.load(path, allow_pickle=False) as archive:
            for name in ("images", "labels"):
                if name not in archive:
                    held = ", ".join(archive.files) or "nothing"
                    raise DatasetError(f"{path}: {name}: expected this array in the archive, got {held}")
                try:
                    found[name] = archive[name]
                except ValueError as error:
                    raise DatasetError(f"{path}: {name}: expected an array of plain numbers, got {error}") from None
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, ValueError, RuntimeError, MemoryError) as error:
        raise DatasetError(f"{path}: expected a file written by numpy.savez, got {error}") from None
    return found


def _images(path: Path, images: NDArray[Any]) -> NDArray[np.uint8]:
    if images.dtype != np.uint8:
        raise DatasetError(f"{path}: images: expected uint8 from 0 to 255, got {images.dtype}")
    if images.ndim != 4 or images.shape[3] not in {1, 3}:
        raise DatasetError(
            f"{path}: images: expected (n, height, width, channels) with 1 or 3 channels, got {images.shape}"
        )
    if images.size == 0:
        raise DatasetError(f"{path}: images: expected at least one image, got {images.shape}")
    return np.ascontiguousarray(images)


def _labels(path: Path, labels: NDArray[Any]) -> NDArray[np.int64]:
    if labels.dtype.kind not in "iu":
        raise DatasetError(f"{path}: labels: expected integers, got {labels.dtype}")
    if labels.ndim != 1:
        raise DatasetError(f"{path}: labels: expected shape (n,), got {labels.shape}")
    if labels.size and not (labels.min() >= 0 and labels.max() < MOST_CLASSES):
        raise DatasetError(
            f"{path}: labels: expected classes counted from 0, below {MOST_CLASSES}, "
            f"got {int(labels.min())} to {int(labels.max())}"
        )
    return labels.astype(np.int64)
