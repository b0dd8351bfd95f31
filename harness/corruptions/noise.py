"""Noise (arXiv 1903.12261, section 3 and appendix). Images are float32 in [0, 1]."""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from harness.corruptions.draws import Draws, Floats

_STARTS = 512
"""Places from which a Poisson count is looked for; a power of two."""


def gaussian_noise(x: Floats, draws: Draws, scale: float) -> Floats:
    """Adds N(0, scale^2)."""
    return x + draws.normal(*x.shape[1:]) * np.float32(scale)


def shot_noise(x: Floats, draws: Draws, photons: float) -> Floats:
    """Poisson counts of a light of ``photons`` at white: mean x, variance x / photons."""
    cumulative, starts = _poisson(photons)
    value = np.rint(x * 255).astype(np.int64)
    chance = draws.each(lambda generator: generator.random(x.shape[1:])).ravel()
    place = starts.take(value.ravel() * _STARTS + (chance * _STARTS).astype(np.int64))
    late = np.flatnonzero(chance >= cumulative.take(place))
    while late.size:
        place[late] += 1
        late = late[chance[late] >= cumulative.take(place[late])]
    counts: Floats = (place.reshape(x.shape) - value * cumulative.shape[1]).astype(np.float32)
    return counts / np.float32(photons)


@lru_cache(maxsize=8)
def _poisson(photons: float) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Cumulative distributions (256, k) of the counts of each of the 256 values, and where to start looking in them.

    Flat position ``starts[value * _STARTS + i]`` is the first whose probability is above ``i / _STARTS``.
    """
    most = math.ceil(photons + 12 * math.sqrt(photons) + 20)
    rates = np.arange(256)[:, None] / 255 * photons
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, most)))])
    dark = rates == 0
    chances = np.exp(np.arange(most) * np.log(np.where(dark, 1, rates)) - rates - logs)
    cumulative = np.where(dark, 1.0, np.cumsum(chances, axis=1))
    cumulative[:, -1] = 1
    grid = np.arange(_STARTS) / _STARTS
    starts = np.stack([np.searchsorted(row, grid, side="right") + most * value for value, row in enumerate(cumulative)])
    return cumulative, starts.ravel()


def impulse_noise(x: Floats, draws: Draws, amount: float) -> Floats:
    """Turns a share ``amount`` of all values to 0 or 1, each equally often."""
    chance = draws.uniform(*x.shape[1:])
    half = np.float32(amount / 2)
    return np.where(chance < half, np.float32(0), np.where(chance >= 1 - half, np.float32(1), x))


def speckle_noise(x: Floats, draws: Draws, scale: float) -> Floats:
    """Adds x N(0, scale^2)."""
    return x + x * (draws.normal(*x.shape[1:]) * np.float32(scale))
