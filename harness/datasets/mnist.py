"""MNIST (LeCun et al. 1998): the test split, from the two files that torchvision uses, where torchvision puts them."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.datasets.cifar import data_folder
from harness.datasets.classes import CLASS_NAMES
from harness.datasets.dataset import Dataset
from harness.datasets.files import Source, fetch
from harness.errors import DatasetError

_SITE = "https://ossci-datasets.s3.amazonaws.com/mnist"
IMAGES = Source(f"{_SITE}/t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3")
LABELS = Source(f"{_SITE}/t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c")
"""Address and md5 as in torchvision; it keeps the compressed files, and only those can be held against their md5."""


def load_mnist(data_dir: Path | None) -> Dataset:
    """``mnist``: 10,000 grey images, (n, 28, 28, 1); downloads 1.7 MB into ``data_folder`` when they are not there.

    ``DatasetError``, with the way to do it by hand, when they are neither there nor to be had, or damaged.
    """
    folder = data_folder(data_dir) / "MNIST" / "raw"
    images, labels = (_read(source, folder) for source in (IMAGES, LABELS))
    if images.ndim != 3 or labels.shape != images.shape[:1] or not labels.size or labels.max() > 9:
        raise DatasetError(f"mnist: expected images and labels from 0 to 9, got {images.shape} and {labels.shape}")
    return Dataset("mnist", images[..., None], labels.astype(np.int64), 10, CLASS_NAMES["mnist"], len(labels))


def _read(source: Source, folder: Path) -> NDArray[np.uint8]:
    """The array in an IDX file: two zeros, the type (8: bytes), the number of axes, their lengths, the values."""
    path = fetch(source, folder / Path(source.url).name, where="mnist")
    try:
        data = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"mnist: expected a gzip file in {path}, got {error}") from None
    axes = data[3] if len(data) > 3 and data[:3] == b"\0\0\x08" else 0
    begin = 4 + 4 * axes
    shape = tuple(int.from_bytes(data[4 + 4 * axis : 8 + 4 * axis], "big") for axis in range(axes))
    if not axes or len(data) != begin + math.prod(shape):
        raise DatasetError(f"mnist: expected an IDX file of bytes in {path}, got {len(data):,} bytes that are none")
    return np.frombuffer(data, dtype=np.uint8, offset=begin).reshape(shape)
