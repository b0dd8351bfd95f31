"""The corruptions of CIFAR-10-C (Hendrycks and Dietterich 2019, arXiv 1903.12261), drawn anew for images of any size.

The definitions and constants are the published ones for CIFAR. What cannot be the same: the random draws, and frost,
whose photographs are replaced by a drawn texture. So a generated set is named ``...-c-generated`` and is never the
archive. An image's result depends on the image, the corruption, the severity, the seed and its index alone.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.corruptions import blur, digital, extra, noise, weather
from harness.corruptions.draws import Draws, Floats
from harness.errors import UnknownNameError

__all__ = ["CORRUPTIONS", "EXTRA_CORRUPTIONS", "IMPLEMENTATION", "LEAST_SIDE", "LEVELS", "SEVERITIES", "corrupt"]

IMPLEMENTATION = "rampart-corruptions-1"
"""Raised whenever a change can change a pixel."""

SEVERITIES = (1, 2, 3, 4, 5)

LEAST_SIDE = 16
"""Images must have at least this height and width."""

_CHUNK = 32
"""Images worked on at a time, so that they stay in the processor's cache."""

LEVELS: dict[str, tuple[Any, Any, Any, Any, Any]] = {
    "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.10),
    "shot_noise": (500, 250, 100, 75, 50),
    "impulse_noise": (0.01, 0.02, 0.03, 0.05, 0.07),
    "defocus_blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    "glass_blur": ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    "motion_blur": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    "zoom_blur": (7, 12, 16, 21, 26),
    "snow": (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ),
    "frost": ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
    "fog": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
    "elastic_transform": ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    "pixelate": (0.95, 0.9, 0.85, 0.75, 0.65),
    "jpeg_compression": (80, 65, 58, 50, 40),
    "speckle_noise": (0.06, 0.1, 0.12, 0.16, 0.2),
    "gaussian_blur": (0.4, 0.6, 0.7, 0.8, 1),
    "spatter": (
        (0.62, 0.1, 0.7, 0.7, 0.5, False),
        (0.65, 0.1, 0.8, 0.7, 0.5, False),
        (0.65, 0.3, 1, 0.69, 0.5, False),
        (0.65, 0.1, 0.7, 0.69, 0.6, True),
        (0.65, 0.1, 0.5, 0.68, 0.6, True),
    ),
    "saturate": ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
}
"""What each corruption is given at severity 1 to 5: the published constants for CIFAR."""

_FUNCTIONS: dict[str, Callable[[Floats, Draws, Any], Floats]] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "defocus_blur": blur.defocus_blur,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion_blur,
    "zoom_blur": blur.zoom_blur,
    "snow": weather.snow,
    "frost": weather.frost,
    "fog": weather.fog,
    "brightness": weather.brightness,
    "contrast": digital.contrast,
    "elastic_transform": digital.elastic_transform,
    "speckle_noise": noise.speckle_noise,
    "gaussian_blur": blur.gaussian_blur,
    "spatter": extra.spatter,
    "saturate": extra.saturate,
}

_ON_BYTES: dict[str, Callable[[NDArray[np.uint8], Draws, Any], NDArray[np.uint8]]] = {
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.jpeg_compression,
}

CORRUPTIONS = tuple(LEVELS)[:15]
"""The fifteen that accuracies are averaged over, in the paper's order."""

EXTRA_CORRUPTIONS = tuple(LEVELS)[15:]
"""The four that the authors hold out, for tuning."""


def corrupt(
    images: NDArray[np.uint8], corruption: str, severity: int, *, indices: Sequence[int], seed: int = 0
) -> NDArray[np.uint8]:
    """Corrupted copies of ``images``, uint8 (n, H, W, C) with one or three channels.

    ``indices`` (n,) are the images' places in their data set; they choose the random numbers. Values are cut to 8 bits
    downwards, as published. ``UnknownNameError`` for an unknown corruption, ``ValueError`` for another severity than
    1 to 5 or images that do not fit.
    """
    if corruption not in LEVELS:
        raise UnknownNameError("corruption", corruption, LEVELS)
    if severity not in SEVERITIES:
        raise ValueError(f"{corruption}: expected a severity from 1 to 5, got {severity}")
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in {1, 3}:
        raise ValueError(f"expected images uint8 (n, H, W, 1 or 3), got {images.dtype} {images.shape}")
    if min(images.shape[1:3]) < LEAST_SIDE:
        raise ValueError(f"expected images of at least {LEAST_SIDE} x {LEAST_SIDE} pixels, got {images.shape[1:3]}")
    if len(indices) != len(images):
        raise ValueError(f"expected an index for each of {len(images)} images, got {len(indices)}")
    out = np.empty_like(images)
    for start in range(0, len(images), _CHUNK):
        part = slice(start, start + _CHUNK)
        draws = Draws(seed, f"{corruption} {severity}", indices[part])
        level = LEVELS[corruption][severity - 1]
        if corruption in _ON_BYTES:
            out[part] = _ON_BYTES[corruption](images[part], draws, level)
        else:
            x = np.divide(images[part], np.float32(255), dtype=np.float32)
            out[part] = _bytes(_FUNCTIONS[corruption](x, draws, level))
    return out


def _bytes(x: Floats) -> NDArray[np.uint8]:
    """Cut to [0, 1] and to 8 bits downwards; a value that misses a whole number by rounding alone counts as it."""
    return (np.clip(x, 0, 1) * 255 + np.float32(1 / 1024)).astype(np.uint8)
