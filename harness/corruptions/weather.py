"""Weather (arXiv 1903.12261, section 3 and appendix). Images are float32 in [0, 1]."""

import numpy as np

from harness.corruptions.draws import Draws, Floats
from harness.corruptions.filters import gaussian, luma, motion, plasma, zoom

PLATES = (
    ((78, 149, 165), 14, 11),
    ((205, 210, 219), 17, 9),
    ((205, 210, 219), 17, 9),
    ((143, 158, 171), 27, 12),
    ((108, 119, 131), 34, 20),
)
"""Mean colour, standard deviation inside a 32 x 32 window and between windows, in units of 1/255: measured on the five
photographs of frosted glass that CIFAR-10-C was made with, at a fifth of their size."""

_ROUGH, _SMOOTH = 0.55, 0.45
"""Shares of the variance: pixel by pixel, and over about ``_PATCH`` pixels; from the photographs' autocorrelation."""
_PATCH = 3.0


def snow(x: Floats, draws: Draws, flakes: tuple[float, float, float, float, float, float, float]) -> Floats:
    """Flakes: noise (mean, scale) enlarged, cut at a threshold and streaked, over a whitened image.

    ``flakes`` is (mean, scale, zoom, threshold, radius, sigma, share of the image itself).
    """
    mean, scale, factor, threshold, radius, sigma, kept = (np.float32(value) for value in flakes)
    layer = zoom(draws.normal(*x.shape[1:3]) * scale + mean, float(factor))
    layer = np.floor(np.clip(np.where(layer < threshold, 0, layer), 0, 1) * 255)
    layer = np.rint(motion(layer, float(radius), float(sigma), draws.uniform() * 90 - 135)) / 255
    x = kept * x + (1 - kept) * np.maximum(x, luma(x) * np.float32(1.5) + np.float32(0.5))
    return x + (layer + layer[:, ::-1, ::-1])[..., None]


def frost(x: Floats, draws: Draws, shares: tuple[float, float]) -> Floats:
    """``shares`` of the image and of an ice texture.

    The published programme takes windows of photographs that are not ours to hand on; this one draws a texture with
    the colours, contrasts and grain of those photographs (``PLATES``).
    """
    height, width = x.shape[1:3]
    plate = draws.integers(len(PLATES))
    tint = np.array([PLATES[row][0] for row in plate], dtype=np.float32)[:, None, None, :]
    inside, between = (
        np.array([PLATES[row][part] for row in plate], dtype=np.float32)[:, None, None, None] for part in (1, 2)
    )
    # Blurred white noise has a standard deviation of 1 / (2 sigma sqrt(pi)).
    patches = gaussian(draws.normal(height, width), _PATCH, border="symmetric") * np.float32(
        2 * _PATCH * np.sqrt(np.pi)
    )
    grain = draws.normal(height, width) * np.float32(np.sqrt(_ROUGH)) + patches * np.float32(np.sqrt(_SMOOTH))
    ice = tint + inside * grain[..., None] + between * draws.normal(1, 1, 1)
    ice = np.clip(ice if x.shape[3] == 3 else luma(ice), 0, 255) / 255
    return np.float32(shares[0]) * x + np.float32(shares[1]) * ice


def fog(x: Floats, draws: Draws, strength: tuple[float, float]) -> Floats:
    """Adds ``amount`` of fractal clouds of roughness ``decay`` and scales back to the image's own maximum."""
    amount, decay = strength
    height, width = x.shape[1:3]
    clouds = plasma(draws, 1 << (max(height, width) - 1).bit_length(), decay)[:, :height, :width, None]
    highest = x.max(axis=(1, 2, 3), keepdims=True)
    back: Floats = highest / (highest + np.float32(amount))
    return (x + np.float32(amount) * clouds) * back


def brightness(x: Floats, draws: Draws, amount: float) -> Floats:
    """Adds ``amount`` to the value of HSV: all channels grow by the same factor, black becomes grey."""
    value = x.max(axis=3, keepdims=True)
    lighter = np.minimum(value + np.float32(amount), 1)
    lit: Floats = np.where(value > 0, x * (lighter / np.where(value > 0, value, 1)), lighter)
    return lit
