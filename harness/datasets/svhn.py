"""SVHN (Netzer et al. 2011), cropped digits: the test split, from the file that torchvision uses."""

from pathlib import Path

import numpy as np

from harness.datasets.cifar import data_folder
from harness.datasets.classes import CLASS_NAMES
from harness.datasets.dataset import Dataset
from harness.datasets.files import Source, fetch
from harness.errors import DatasetError

TEST = Source("http://ufldl.stanford.edu/housenumbers/test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3")
"""Address and md5 as in torchvision."""


def load_svhn(data_dir: Path | None) -> Dataset:
    """``svhn``: 26,032 images (n, 32, 32, 3); downloads 64 MB into ``data_folder`` when they are not there.

    The file calls the digit 0 class 10; here it is class 0, as in torchvision. ``DatasetError``, with the way to do it
    by hand, when the file is neither there nor to be had, or damaged.
    """
    from scipy import io  # type: ignore[import-untyped]
    from scipy.io.matlab import MatReadError  # type: ignore[import-untyped]

    path = fetch(TEST, data_folder(data_dir) / "test_32x32.mat", where="svhn")
    try:
        held = io.loadmat(path)
        images, labels = held["X"], held["y"]
    except (OSError, MatReadError, ValueError, TypeError, KeyError, NotImplementedError) as error:
        raise DatasetError(f"svhn: expected a MATLAB file with X and y in {path}, got {error}") from None
    labels = labels.reshape(-1).astype(np.int64)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[2:] != (3, len(labels)):
        raise DatasetError(f"svhn: expected X uint8 (H, W, 3, n) and y (n, 1) in {path}, got {images.shape}")
    if not labels.size or labels.min() < 0 or labels.max() > 10:
        raise DatasetError(f"svhn: expected labels from 1 to 10 in {path}, got others")
    return Dataset(
        "svhn", np.ascontiguousarray(images.transpose(3, 0, 1, 2)), labels % 10, 10, CLASS_NAMES["svhn"], len(labels)
    )
