"""Square windows in images and maps: cutting them out, laying them back, and how a kernel goes over them."""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

compiled: Any
"""The function of ``_around.pyi``; None where there was no C compiler when this was installed."""
try:
    compiled = importlib.import_module("harness.worker.windows._around")
except ImportError:
    compiled = None

SHARE = 0.6
"""Largest part of a map that a window may cover; from there on the whole map is computed."""


class Area(NamedTuple):
    """Square windows, one per row of a batch: their upper left corners (2, M), down and across, and their side.

    While activations of known images are taken down there are no corners, only a side.
    """

    corners: NDArray[np.int64]
    side: int


def inside(inner: Area, outer: Area) -> bool:
    """Whether all windows lie inside the others."""
    off = inner.corners - outer.corners
    return bool(off.min() >= 0 and off.max() <= outer.side - inner.side)


def cut_planes(images: NDArray[Any], rows: NDArray[np.int64], area: Area) -> NDArray[Any]:
    """Windows (M, C, side, side) of contiguous ``images`` (N, C, H, W), the m-th of image ``rows[m]``; a copy."""
    count, channels, height, width = images.shape
    side, pixels = area.side, channels * height * width
    shape = (count * pixels - (channels - 1) * height * width - (side - 1) * (width + 1), channels, side, side)
    windows: NDArray[Any] = np.ndarray(shape, images.dtype, images.data, 0, (images.itemsize, *images.strides[1:]))
    found: NDArray[Any] = windows[rows * pixels + area.corners[0] * width + area.corners[1]]
    return found


def lay(images: Tensor, held: Tensor, rows: NDArray[np.int64], area: Area) -> None:
    """Put ``held`` (M, side, side, C) into contiguous ``images`` (N, H, W, C), the m-th into image ``rows[m]``."""
    windows, at = windows_of(images, rows, area.corners, (area.side, area.side))
    windows[at] = array_of(held)


def laid_into(
    maps: Tensor, rows: NDArray[np.int64], corners: NDArray[np.int64], size: tuple[int, int], held: Tensor,
    places: NDArray[np.int64],
) -> Tensor:  # fmt: skip
    """Windows (M, *size, C) of contiguous ``maps`` (n, H, W, C), with ``held`` (M, side, side, C) laid into them.

    The m-th is cut from the map ``rows[m]`` at ``corners`` (2, M) and gets its square at ``places`` (2, M) of it.
    """
    alike = held.dtype is maps.dtype and held.shape[3] == maps.shape[3] and len(held) == len(rows)
    if compiled is not None and alike:
        held = held.contiguous()
        made = torch.empty((len(rows), *size, maps.shape[3]), dtype=maps.dtype)
        compiled.around(
            maps.data_ptr(), tuple(maps.shape[:3]), maps.shape[3] * maps.element_size(), rows,
            np.ascontiguousarray(corners), size, held.data_ptr(), held.shape[1], np.ascontiguousarray(places),
            made.data_ptr(),
        )  # fmt: skip
        return made
    cut, at = windows_of(maps, rows, corners, size)
    made = torch.from_numpy(cut[at]).view(maps.dtype)
    lay(made, held, np.arange(len(rows)), Area(places, held.shape[1]))
    return made


def array_of(values: Tensor) -> NDArray[Any]:
    """``values`` as numpy has them; what it does not know, as integers of the same size."""
    return (values.view(torch.int16) if values.dtype is torch.bfloat16 else values).numpy()


def windows_of(
    images: Tensor, rows: NDArray[np.int64], corners: NDArray[np.int64], size: tuple[int, int]
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """All windows (n, *size, C) of contiguous images, and which of them: numpy copies them faster than torch."""
    array, (down, across) = array_of(images), size
    count, height, width, channels = array.shape
    _, line, pixel, one = array.strides
    shape = (count * height * width - (down - 1) * width - (across - 1), down, across, channels)
    windows: NDArray[Any] = np.ndarray(shape, array.dtype, array.data, 0, (pixel, line, pixel, one))
    return windows, (rows * height + corners[0]) * width + corners[1]


@dataclass(frozen=True)
class Slide:
    """How a kernel goes over windows: a window of side s changes ``side`` results, made of ``source`` pixels."""

    step: int
    back: int
    """A result stands for the pixels from ``step`` times its place minus this on."""
    reach: int
    size: tuple[int, int]
    """(H, W) of the results."""
    side: int
    source: int
    margin: int
    """How far the window may lie outside its source, because nothing looks there."""
    border: int
    """How far the source and its margin may reach beyond the map."""
    last: NDArray[np.int64]
    """(2, 1): the last corner of a window of results."""
    grid: int = 1
    """Corners of windows of results are multiples of this."""

    def area(self, area: Area) -> Area:
        """Windows of results that change."""
        corners = (area.corners + (self.back - self.reach + self.step - 1)) // self.step
        np.minimum(corners, self.last, out=corners)
        np.maximum(corners, 0, out=corners)
        return Area(corners - corners % self.grid if self.grid > 1 else corners, self.side)


@functools.lru_cache(4096)
def slide(
    side: int,
    shape: tuple[int, int],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    grid: int = 1,
) -> Slide | None:
    """How windows of ``side`` in maps of ``shape`` (H, W) go through; results are made in tiles of ``grid`` squared.

    None where squares cannot describe it, or would cover too much of the map.
    """
    if any(len(set(both)) != 1 for both in (kernel, stride, padding, dilation)):
        return None
    step, pad, reach = stride[0], padding[0], (kernel[0] - 1) * dilation[0]
    height, width = ((length + 2 * pad - reach - 1) // step + 1 for length in shape)
    changed = (side - 1 + reach) // step + 1
    if grid > 1:
        changed = -(-(changed + grid - 1) // grid) * grid
    if height % grid or width % grid:
        return None
    if changed > min(height, width) or changed * changed > SHARE * height * width:
        return None
    unseen = max((length + 2 * pad - reach - 1) % step - pad for length in shape)
    margin = max(0, step - 1 - reach, unseen)
    source = (changed - 1) * step + reach + 1
    last = np.array([[height - changed], [width - changed]])
    return Slide(step, pad, reach, (height, width), changed, source, margin, pad + margin, last, grid)
