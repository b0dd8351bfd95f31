"""Images that are not in memory: they look like an array and are read, or made, when a span of them is asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from harness.corruptions import corrupt


class Images(Protocol):
    """Images uint8 (n, H, W, C): a NumPy array or one of the classes below. ``np.asarray`` brings them into memory."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, span: slice, /) -> Images: ...
    def __array__(self, dtype: None = None, /, *, copy: bool | None = None) -> NDArray[Any]: ...


def _inside(span: slice, n: int) -> tuple[int, int]:
    start, stop, step = span.indices(n)
    if step != 1:
        raise ValueError(f"expected a span of consecutive images, got {span}")
    return start, max(start, stop)


@dataclass(frozen=True)
class FileImages:
    """Rows ``start`` to before ``stop`` of the array in a ``.npy`` file, mapped, never read as a whole."""

    path: Path
    start: int
    stop: int
    size: tuple[int, int, int]
    """(H, W, C)."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, H, W, C)."""
        return (len(self), *self.size)

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, span: slice) -> FileImages:
        start, stop = _inside(span, len(self))
        return replace(self, start=self.start + start, stop=self.start + stop)

    def __array__(self, dtype: np.dtype[Any] | None = None, *, copy: bool | None = None) -> NDArray[Any]:
        mapped = np.load(self.path, mmap_mode="r", allow_pickle=False)
        return np.array(mapped[self.start : self.stop], dtype=dtype)


@dataclass(frozen=True, eq=False)
class GeneratedImages:
    """Corrupted versions of ``base``, made when they are asked for: ``harness.corruptions``."""

    base: Images
    corruption: str
    severity: int
    seed: int
    start: int = 0
    """Index of the first image in its data set."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, H, W, C)."""
        return self.base.shape

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, span: slice) -> GeneratedImages:
        start, stop = _inside(span, len(self))
        return replace(self, base=self.base[start:stop], start=self.start + start)

    def __array__(self, dtype: np.dtype[Any] | None = None, *, copy: bool | None = None) -> NDArray[Any]:
        indices = range(self.start, self.start + len(self))
        made = corrupt(np.asarray(self.base), self.corruption, self.severity, indices=indices, seed=self.seed)
        return made if dtype is None else made.astype(dtype, copy=False)
