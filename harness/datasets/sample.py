"""The first 20 test images of CIFAR-10 and of CIFAR-100, which come as PNG files inside the foolbox package."""

import importlib.util
import re
from pathlib import Path

import numpy as np

from harness.datasets.classes import CLASS_NAMES
from harness.datasets.dataset import Dataset
from harness.errors import DatasetError


def load_sample(name: str) -> Dataset:
    """``cifar10-sample`` or ``cifar100-sample``; needs no network. ``DatasetError`` when the files are not there."""
    from PIL import Image

    family = name.removesuffix("-sample")
    folder = _folder(name)
    found: dict[int, tuple[int, Path]] = {}
    for path in folder.glob(f"{family}_*.png"):
        match = re.fullmatch(rf"{family}_(\d+)_(\d+)\.png", path.name)
        if match:
            found[int(match[1])] = (int(match[2]), path)
    if not found or sorted(found) != list(range(len(found))):
        raise DatasetError(f"{name}: expected {family}_00_LABEL.png and so on in {folder}, got {len(found)} of them")
    try:
        images = [np.asarray(Image.open(found[index][1]).convert("RGB"), dtype=np.uint8) for index in sorted(found)]
        stack = np.stack(images)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{name}: expected PNG images of one size in {folder}, got {error}") from None
    labels = np.array([found[index][0] for index in sorted(found)], dtype=np.int64)
    return Dataset(name, stack, labels, len(CLASS_NAMES[family]), CLASS_NAMES[family], len(labels))


def _folder(name: str) -> Path:
    """The data folder of the foolbox package, found without importing it."""
    spec = importlib.util.find_spec("foolbox")
    if spec is None or not spec.submodule_search_locations:
        raise DatasetError(f"{name}: expected the package foolbox, whose files it reads, got none: pip install foolbox")
    return Path(next(iter(spec.submodule_search_locations))) / "data"
