"""Filters on batches of images, float32 (n, H, W) or (n, H, W, C).

They add, multiply and compare element by element and use no matrix product, so that an image's result does not depend
on the images beside it, nor on the machine's linear algebra.
"""

import math
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness.corruptions.draws import Draws, Floats

Border = Literal["edge", "symmetric", "reflect"]
"""What lies outside: the edge pixel (aaa|abc), the mirror image with it (cba|abc) or without it (cb|abc)."""

_LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue (ITU-R BT.601)."""


def _pad(x: Floats, axis: int, before: int, after: int, border: Border) -> Floats:
    widths = [(0, 0)] * x.ndim
    widths[axis] = (before, after)
    return np.pad(x, widths, mode=border)


def _part(x: Floats, axis: int, start: int, length: int) -> Floats:
    return x[(slice(None),) * axis + (slice(start, start + length),)]


def gaussian(x: Floats, sigma: float, *, border: Border = "edge", truncate: float = 4.0) -> Floats:
    """Gaussian blur in pixels, cut off at ``truncate`` standard deviations, rows then columns."""
    radius = int(truncate * sigma + 0.5)
    if radius == 0:
        return x
    taps = np.exp(-0.5 * (np.arange(radius + 1) / sigma) ** 2)
    taps /= taps[0] + 2 * taps[1:].sum()
    for axis in (1, 2):
        size = x.shape[axis]
        padded = _pad(x, axis, radius, radius, border)
        x = _part(padded, axis, radius, size) * np.float32(taps[0])
        for step in range(1, radius + 1):
            pair = _part(padded, axis, radius - step, size) + _part(padded, axis, radius + step, size)
            x += np.multiply(pair, np.float32(taps[step]), out=pair)
    return x


def correlate(x: Floats, kernel: NDArray[np.float64], border: Border) -> Floats:
    """Weighted sum of each pixel's neighbourhood; ``kernel`` is square with an odd side."""
    reach, (height, width) = kernel.shape[0] // 2, x.shape[1:3]
    padded = _pad(_pad(x, 1, reach, reach, border), 2, reach, reach, border)
    total = np.zeros_like(x)
    for row, column in zip(*np.nonzero(kernel), strict=True):
        total += padded[:, row : row + height, column : column + width] * np.float32(kernel[row, column])
    return total


def motion(x: Floats, radius: float, sigma: float, degrees: Floats) -> Floats:
    """One-sided Gaussian streak of 2 ceil(radius) + 1 pixels at an angle for each image, as ImageMagick draws it."""
    width = 2 * math.ceil(radius) + 1
    weights = np.exp(-(np.arange(width) ** 2) / (2 * sigma**2))
    weights = (weights / weights.sum()).astype(np.float32)
    steps = np.arange(width)
    height, across = x.shape[1:3]
    padded = _pad(_pad(x, 1, width, width, "edge"), 2, width, width, "edge")
    out = np.empty_like(x)
    for row, angle in enumerate(np.deg2rad(degrees.astype(np.float64))):
        down = np.ceil(steps * math.sin(angle) - 0.5).astype(int) + width
        right = np.ceil(steps * math.cos(angle) - 0.5).astype(int) + width
        image, total = padded[row], out[row]
        np.multiply(image[width : width + height, width : width + across], weights[0], out=total)
        for weight, top, left in zip(weights[1:], down[1:], right[1:], strict=True):
            total += image[top : top + height, left : left + across] * weight
    return out


@lru_cache(maxsize=512)
def _zoomed(size: int, factor: float) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """For every pixel of a zoomed line: the two pixels it lies between and how far it is from the first."""
    kept = math.ceil(size / factor)
    grown = round(kept * factor)
    places = (np.arange(size) + (grown - size) // 2) * ((kept - 1) / max(1, grown - 1))
    low = np.minimum(places.astype(np.int64), kept - 1)
    first = (size - kept) // 2
    return low + first, np.minimum(low + 1, kept - 1) + first, (places - low).astype(np.float32)


def zoom(x: Floats, factor: float) -> Floats:
    """The middle of each image, enlarged linearly to the image's size."""
    for axis in (1, 2):
        low, high, share = _zoomed(x.shape[axis], factor)
        share = share.reshape((-1,) + (1,) * (x.ndim - axis - 1))
        near = np.take(x, low, axis=axis)
        x = near + (np.take(x, high, axis=axis) - near) * share
    return x


def _mirrored(places: NDArray[np.int64], size: int, border: Border) -> NDArray[np.int64]:
    if border == "symmetric":
        places = places % (2 * size)
        return np.minimum(places, 2 * size - 1 - places)
    places = places % (2 * size - 2)
    return np.minimum(places, 2 * size - 2 - places)


def sample(x: Floats, down: Floats, right: Floats, border: Border) -> Floats:
    """Linear interpolation of images (n, H, W, C) at the places (n, H, W) ``down`` and ``right``, in pixels."""
    n, height, width, channels = x.shape
    flat = x.reshape(-1, channels)
    top, left = np.floor(down), np.floor(right)
    share_down, share_right = (down - top)[..., None], (right - left)[..., None]
    rows, columns = top.astype(np.int64), left.astype(np.int64)
    first = (np.arange(n) * height * width)[:, None, None]
    upper = first + _mirrored(rows, height, border) * width
    lower = first + _mirrored(rows + 1, height, border) * width
    left_column, right_column = _mirrored(columns, width, border), _mirrored(columns + 1, width, border)
    above, below = np.take(flat, upper + left_column, axis=0), np.take(flat, lower + left_column, axis=0)
    above += (np.take(flat, upper + right_column, axis=0) - above) * share_right
    below += (np.take(flat, lower + right_column, axis=0) - below) * share_right
    between: Floats = above + (below - above) * share_down
    return between


def plasma(draws: Draws, size: int, decay: float) -> Floats:
    """Fractal clouds (n, size, size) in [0, 1] by the periodic diamond-square method; ``size`` is a power of two."""
    noise = draws.uniform(size * size - 1) * 2 - 1
    clouds = np.zeros((len(noise), size, size), dtype=np.float32)
    used, step, wobble = 0, size, 100.0

    def place(rows: slice, columns: slice, around: Floats) -> None:
        nonlocal used
        count = around.shape[1] * around.shape[2]
        shaken = noise[:, used : used + count].reshape(around.shape) * np.float32(wobble**2)
        clouds[:, rows, columns] = around / 4 + shaken
        used += count

    while step >= 2:
        on, half = slice(0, size, step), slice(step // 2, size, step)
        corners = clouds[:, on, on]
        pairs = corners + np.roll(corners, -1, axis=1)
        place(half, half, pairs + np.roll(pairs, -1, axis=2))
        middles = clouds[:, half, half]
        place(on, half, middles + np.roll(middles, 1, axis=1) + corners + np.roll(corners, -1, axis=2))
        place(half, on, middles + np.roll(middles, 1, axis=2) + corners + np.roll(corners, -1, axis=1))
        step, wobble = step // 2, wobble / decay
    clouds -= clouds.min(axis=(1, 2), keepdims=True)
    highest: Floats = clouds.max(axis=(1, 2), keepdims=True)
    return clouds / highest


def luma(x: Floats) -> Floats:
    """Brightness (n, H, W, 1) of images in colour; images of one channel are their own."""
    if x.shape[3] == 1:
        return x
    red, green, blue = (x[..., channel : channel + 1] * np.float32(_LUMA[channel]) for channel in range(3))
    total: Floats = red + green + blue
    return total


def in_colour(x: Floats) -> Floats:
    """The same images with three channels."""
    return np.repeat(x, 3, axis=3) if x.shape[3] == 1 else x
