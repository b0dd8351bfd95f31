"""Digital corruptions (arXiv 1903.12261, section 3 and appendix). Images are float32 in [0, 1] or uint8."""

import io
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.corruptions.draws import Draws, Floats
from harness.corruptions.filters import gaussian, sample

Bytes = NDArray[np.uint8]


def contrast(x: Floats, draws: Draws, share: float) -> Floats:
    """Keeps ``share`` of each channel's distance from its mean."""
    # The sum is over whole numbers, so that it is exact in whatever order it is taken.
    whole = np.rint(x * 255).astype(np.int64).sum(axis=(1, 2), keepdims=True)
    means = (whole / (255 * x.shape[1] * x.shape[2])).astype(np.float32)
    flat: Floats = (x - means) * np.float32(share) + means
    return flat


def elastic_transform(x: Floats, draws: Draws, strength: tuple[float, float, float]) -> Floats:
    """Moves three corners at random, then every pixel along a smooth random field.

    ``strength`` is (size of the field, its smoothness, reach of the corners), in shares of the shorter side.
    """
    n, height, width, _ = x.shape
    amount, smooth, reach = (value * min(height, width) for value in strength)
    x = sample(x, *_affine(draws, n, height, width, reach), "reflect")
    fields = draws.uniform(2, height, width) * 2 - 1
    down, right = (gaussian(fields[:, part], smooth, border="symmetric", truncate=3.0) for part in (1, 0))
    scale = np.float32(amount)
    rows, columns = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)
    return sample(x, rows + down * scale, columns + right * scale, "symmetric")


def _affine(draws: Draws, n: int, height: int, width: int, reach: float) -> tuple[Floats, Floats]:
    """For every pixel the place (down, right) it comes from when three corners move by up to ``reach`` pixels."""
    middle, side = np.array([width // 2, height // 2], dtype=np.float64), min(height, width) // 3
    before = np.stack([middle + side, middle + side * np.array([1, -1]), middle - side])
    after = before + (draws.uniform(3, 2).astype(np.float64) * 2 - 1) * reach
    # The map takes ``after`` back to ``before``: coordinates in the basis of two sides, by Cramer's rule.
    first, second = after[:, 0] - after[:, 1], after[:, 2] - after[:, 1]
    area = first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]
    origin = after[:, 1]
    across = np.arange(width)[None, None, :] - origin[:, 0, None, None]
    along = np.arange(height)[None, :, None] - origin[:, 1, None, None]
    one = (across * second[:, 1, None, None] - along * second[:, 0, None, None]) / area[:, None, None]
    two = (along * first[:, 0, None, None] - across * first[:, 1, None, None]) / area[:, None, None]
    sides = before[0] - before[1], before[2] - before[1]
    right, down = (before[1][part] + one * sides[0][part] + two * sides[1][part] for part in (0, 1))
    return down.astype(np.float32), right.astype(np.float32)


def pixelate(images: Bytes, draws: Draws, share: float) -> Bytes:
    """Box averages on a grid of ``share`` (above one half) as many pixels to a side, and back; images are uint8.

    A box then holds one or two pixels along each axis, and the mean is rounded after each axis, as Pillow's is.
    """
    x: NDArray[np.integer[Any]] = images.astype(np.uint16)
    for axis in (2, 1):
        first, last = _boxes(images.shape[axis], share)
        x = (np.take(x, first, axis=axis) + np.take(x, last, axis=axis) + 1) >> 1
    return x.astype(np.uint8)


@lru_cache(maxsize=64)
def _boxes(size: int, share: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For every pixel of a line, the first and the last pixel of the box it shows."""
    small = int(size * share)
    coarse, shown = _windows(size, small), _windows(small, size)
    return np.array([coarse[box][0] for box, _ in shown]), np.array([coarse[box][1] for box, _ in shown])


def _windows(size: int, wanted: int) -> list[tuple[int, int]]:
    """First and last of ``size`` pixels under each of ``wanted`` boxes.

    A pixel belongs to the box that its middle lies in; on a border the last bits decide, so the steps are Pillow's.
    """
    scale = size / wanted
    width = max(scale, 1.0)
    windows = []
    for box in range(wanted):
        centre = (box + 0.5) * scale
        near = range(max(0, int(centre - width / 2 + 0.5)), min(size, int(centre + width / 2 + 0.5)))
        inside = [pixel for pixel in near if -0.5 < (pixel - centre + 0.5) * (1 / width) <= 0.5]
        windows.append((inside[0], inside[-1]))
    return windows


def jpeg_compression(images: Bytes, draws: Draws, quality: int) -> Bytes:
    """There and back through JPEG of this ``quality``; images are uint8."""
    from PIL import Image as Pillow

    _, height, width, channels = images.shape
    mode = "L" if channels == 1 else "RGB"
    done = []
    for image in images:
        stream = io.BytesIO()
        Pillow.frombytes(mode, (width, height), image.tobytes()).save(stream, "JPEG", quality=quality)
        done.append(Pillow.open(stream, formats=("JPEG",)).tobytes())
    return np.frombuffer(b"".join(done), dtype=np.uint8).reshape(images.shape)
