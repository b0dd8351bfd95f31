"""Training images as one uint8 tensor, from torchvision's files or from ``.npz`` files, with a held-out split."""

import hashlib
import io
import zipfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

VALIDATION_SIZE = 1_000
"""Training images set aside for selection; the test set is never looked at."""


class DataError(Exception):
    """The training data could not be read; the message says what was expected."""


@dataclass(frozen=True)
class Split:
    """Images uint8 (N, 3, 32, 32) and labels int64 (N,)."""

    images: Tensor
    labels: Tensor


def _from_npz(path: Path) -> Split:
    """Read ``images`` (N, 32, 32, 3) uint8, or ``jpeg`` streams with their ``offsets``, and ``labels``."""
    from PIL import Image

    try:
        with np.load(path, allow_pickle=False) as arrays:
            labels = torch.from_numpy(arrays["labels"].astype(np.int64))
            if "images" in arrays:
                images = arrays["images"]
            else:
                streams, offsets = arrays["jpeg"].tobytes(), arrays["offsets"]
                images = np.stack(
                    [
                        np.asarray(Image.open(io.BytesIO(streams[start:stop])).convert("RGB"))
                        for start, stop in pairwise(offsets)
                    ]
                )
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path}: expected an .npz file with images (or jpeg and offsets) and labels, got {error}"
        ) from None
    return Split(torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))), labels)


def _from_torchvision(root: Path) -> Split:
    from torchvision.datasets import CIFAR10

    try:
        dataset = CIFAR10(str(root), train=True, download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"CIFAR-10 could not be downloaded to {root} ({error}); put cifar-10-python.tar.gz there by hand, "
            "or pass --data FILE.npz"
        ) from None
    images = torch.from_numpy(np.ascontiguousarray(dataset.data.transpose(0, 3, 1, 2)))
    return Split(images, torch.tensor(dataset.targets))


def load(source: Path, *, seed: int) -> tuple[Split, Split]:
    """Load ``source`` (an ``.npz`` file, else torchvision's data folder) as (training, validation) splits.

    The validation split is drawn with ``seed``, so every epoch and every resumed run sees the same one.
    """
    full = _from_npz(source) if source.suffix == ".npz" else _from_torchvision(source)
    count = len(full.labels)
    held_out = min(VALIDATION_SIZE, count // 5)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    validation, training = order[:held_out], order[held_out:]
    return (
        Split(full.images[training], full.labels[training]),
        Split(full.images[validation], full.labels[validation]),
    )


def fingerprint(*splits: Split) -> str:
    """sha256 of the pixels and labels of the splits, in that order."""
    digest = hashlib.sha256()
    for split in splits:
        digest.update(split.images.numpy().tobytes())
        digest.update(split.labels.numpy().tobytes())
    return digest.hexdigest()


def described(source: Path, training: Split, validation: Split) -> dict[str, Any]:
    """What was trained on, for the record.

    ``form`` (``pixels``, or ``jpeg`` copies of them), the number of ``training`` and of held-out ``validation`` images,
    and the ``sha256`` of their pixels and labels in that order.
    """
    form = "pixels"
    if source.suffix == ".npz":
        with np.load(source, allow_pickle=False) as arrays:
            form = "pixels" if "images" in arrays else "jpeg"
    sizes = {"training": len(training.labels), "validation": len(validation.labels)}
    return {"form": form, **sizes, "sha256": fingerprint(training, validation)}


def augment(images: Tensor, *, generator: torch.Generator) -> Tensor:
    """Reflect-pad by 4, crop 32x32 at random, flip half of the images; uint8 in, float in [0, 1] out."""
    count, channels, height, width = images.shape
    padded = torch.nn.functional.pad(images.float().div_(255), (4, 4, 4, 4), mode="reflect")
    top, left = torch.randint(0, 9, (2, count), generator=generator)
    flip = torch.rand(count, generator=generator) < 0.5
    rows = top[:, None] + torch.arange(height)
    columns = left[:, None] + torch.arange(width)
    columns = torch.where(flip[:, None], columns.flip(1), columns)
    index = torch.arange(count)[:, None, None, None], torch.arange(channels)[None, :, None, None]
    return padded[index[0], index[1], rows[:, None, :, None], columns[:, None, None, :]]
