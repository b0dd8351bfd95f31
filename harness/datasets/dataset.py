"""What a data set is, whatever it was read from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from harness.datasets.images import Images
from harness.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels in a fixed order; the arrays are read-only, and images may stay on disk until asked for."""

    name: str
    """Public name, e.g. ``cifar10``: the board the examples belong to."""
    images: Images
    """uint8 (n, H, W, C)."""
    labels: NDArray[np.int64]
    """(n,), from 0 to ``classes - 1``."""
    classes: int
    class_names: tuple[str, ...]
    """One name per class."""
    full: int
    """Examples of the whole data set; more than ``len`` when only the first ones were asked for."""

    def __post_init__(self) -> None:
        if isinstance(self.images, np.ndarray):
            self.images.setflags(write=False)
        self.labels.setflags(write=False)

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, limit: int | None) -> Dataset:
        """The first ``limit`` examples, all of them for None; ``UserError`` when there are not that many."""
        if limit is None:
            return self
        if not 1 <= limit <= len(self):
            raise UserError(f"{self.name}: limit: expected 1 to {len(self)} examples, got {limit}")
        return replace(self, images=self.images[:limit], labels=self.labels[:limit])

    def span_sha256(self, start: int, stop: int) -> str:
        """Identity of the examples from ``start`` to before ``stop``: a hash of their pixels, labels and shape.

        It does not depend on where they were read from. ``ValueError`` when the span is empty or not inside.
        """
        self._check_span(start, stop)
        images, labels = np.asarray(self.images[start:stop]), self.labels[start:stop]
        digest = hashlib.sha256(f"images uint8 {images.shape} labels int64\n".encode())
        digest.update(np.ascontiguousarray(images).tobytes())
        digest.update(labels.astype("<i8").tobytes())
        return digest.hexdigest()

    def tensors(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Images float32 (n, C, H, W) in [0, 1] and labels int64 (n,) of a span; ``ValueError`` as above."""
        import torch

        self._check_span(start, stop)
        images = torch.from_numpy(np.array(self.images[start:stop])).permute(0, 3, 1, 2)
        return images.to(torch.float32).div(255).contiguous(), torch.from_numpy(self.labels[start:stop].copy())

    def _check_span(self, start: int, stop: int) -> None:
        if not 0 <= start < stop <= len(self):
            raise ValueError(f"{self.name}: expected a span inside 0..{len(self)}, got {start}..{stop}")
