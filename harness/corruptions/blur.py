"""Blurs (arXiv 1903.12261, section 3 and appendix). Images are float32 in [0, 1]."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from harness.corruptions.draws import Draws, Floats
from harness.corruptions.filters import correlate, gaussian, motion, zoom

_ZOOM_STEP = 1.01 - 1
"""A hundredth as ``numpy.arange(1, 1.26, 0.01)`` steps: its last bits decide how large an enlargement gets."""


def gaussian_blur(x: Floats, draws: Draws, sigma: float) -> Floats:
    """Gaussian blur of ``sigma`` pixels."""
    return gaussian(x, sigma)


@lru_cache(maxsize=16)
def disk(radius: float, alias: float) -> NDArray[np.float64]:
    """Uniform disk, softened by a 3 x 3 Gaussian of ``alias`` pixels; sums to one."""
    reach = int(radius) + 1
    squares = np.arange(-reach, reach + 1) ** 2
    hard = np.pad((squares[:, None] + squares[None, :] <= radius**2).astype(np.float64), 1)
    side = np.exp(-0.5 / alias**2)
    taps = np.array([side, 1, side]) / (1 + 2 * side)
    soft: NDArray[np.float64] = sum(
        taps[row] * taps[column] * np.roll(hard, (row - 1, column - 1), axis=(0, 1))
        for row in range(3)
        for column in range(3)
    )
    whole: NDArray[np.float64] = soft / soft.sum()
    return whole


def defocus_blur(x: Floats, draws: Draws, size: tuple[float, float]) -> Floats:
    """Correlation with a ``disk`` of (radius, alias)."""
    return correlate(x, disk(*size), "reflect")


def glass_blur(x: Floats, draws: Draws, strength: tuple[float, int, int]) -> Floats:
    """Blur of ``sigma``, every inner pixel replaced by one at most ``reach`` up and left, ``times`` over, blur again.

    The published programme goes from the last pixel to the first and means to swap two pixels, but its assignment
    copies: the partner stays as it was. A partner always lies before the pixel, so it has not been changed in this
    round, and a round is one gather.
    """
    sigma, reach, times = strength
    x = np.floor(gaussian(x, sigma) * 255 + np.float32(1 / 1024))
    n, height, width, _ = x.shape
    rows = np.arange(reach + 1, height - reach + 1)[:, None]
    columns = np.arange(reach + 1, width - reach + 1)[None, :]
    for _ in range(times):
        moves = draws.integers(2 * reach, 2, len(rows), columns.shape[1]) - reach
        shuffled = x.copy()
        shuffled[:, rows, columns] = x[np.arange(n)[:, None, None], rows + moves[:, 0], columns + moves[:, 1]]
        x = shuffled
    return gaussian(x / 255, sigma)


def motion_blur(x: Floats, draws: Draws, size: tuple[float, float]) -> Floats:
    """Streak of (radius, sigma) at a random angle between -45 and 45 degrees, rounded to 8 bits."""
    return np.rint(motion(x * 255, *size, draws.uniform() * 90 - 45)) / 255


def zoom_blur(x: Floats, draws: Draws, count: int) -> Floats:
    """Mean of the image and its enlargements by 1.00, 1.01, ... (``count`` of them)."""
    total = 2 * x
    for step in range(1, count):
        total += zoom(x, 1 + step * _ZOOM_STEP)
    return total / (count + 1)
