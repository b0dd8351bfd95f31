"""The extra corruptions that come with colour and liquid (arXiv 1903.12261, appendix). Images are float32 in [0, 1]."""

import numpy as np
from numpy.typing import NDArray

from harness.corruptions.draws import Draws, Floats
from harness.corruptions.filters import correlate, gaussian, in_colour, luma

WATER = (175, 238, 238)
"""Colour of the drops, in units of 1/255."""
MUD = (63, 42, 20)
"""Colour of the stains, in units of 1/255."""

_CANNY = (50, 150)
"""Gradients above the second are edges, and those above the first that touch one."""
_REACH = 20
"""Distances from an edge are cut off here, in pixels."""
_LIT = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], dtype=np.float64)
"""Relief lit from a corner."""
_BOX = np.full((3, 3), 1 / 9)


def saturate(x: Floats, draws: Draws, change: tuple[float, float]) -> Floats:
    """Saturation of HSV times ``change[0]`` plus ``change[1]``; a grey pixel has the hue red."""
    colour = in_colour(x)
    value, least = colour.max(axis=3, keepdims=True), colour.min(axis=3, keepdims=True)
    before = np.where(value > 0, (value - least) / np.where(value > 0, value, 1), 0)
    after = np.clip(before * np.float32(change[0]) + np.float32(change[1]), 0, 1)
    stretched = value - (value - colour) * (after / np.where(before > 0, before, 1))
    red = value * np.concatenate([np.ones_like(after), 1 - after, 1 - after], axis=3)
    return _like(x, np.where(before > 0, stretched, red))


def _like(x: Floats, colour: Floats) -> Floats:
    return luma(colour) if x.shape[3] == 1 else colour


def spatter(x: Floats, draws: Draws, liquid: tuple[float, float, float, float, float, bool]) -> Floats:
    """Drops of water, or stains of mud where the last of ``liquid`` is true.

    ``liquid`` is (mean, scale, sigma, threshold, strength of the water or softness of the mud, mud). Distances are
    exact, where the published programme's are within about two per cent.
    """
    mean, scale, sigma, threshold, strength, mud = liquid
    layer = gaussian(draws.normal(*x.shape[1:3]) * np.float32(scale) + np.float32(mean), sigma)
    layer = np.where(layer < np.float32(threshold), np.float32(0), layer)
    if mud:
        stain = gaussian((layer > np.float32(threshold)).astype(np.float32), strength)[..., None]
        stain = np.where(stain < np.float32(0.8), np.float32(0), stain)
        colour = np.array(MUD, dtype=np.float32) / 255
        return _like(x, np.clip(in_colour(x) * (1 - stain) + colour * stain, 0, 1))
    layer = np.floor(np.clip(layer, 0, 1) * 255)
    drops = layer * _relief(layer)
    highest = drops.max(axis=(1, 2), keepdims=True)
    water = drops / np.where(highest > 0, highest, 1) * np.float32(strength)
    return _like(x, np.clip(in_colour(x) + water[..., None] * (np.array(WATER, dtype=np.float32) / 255), 0, 1))


def _relief(layer: Floats) -> Floats:
    """How light each pixel of a drop is, from its distance to the drop's edge; float32 (n, H, W) in [0, 255]."""
    distance = np.minimum(_distance(edges(layer)), _REACH)
    levels = _equalised(np.floor(correlate(distance, _BOX, "reflect") + np.float32(1 / 1024)))
    lit = np.clip(np.rint(correlate(levels, _LIT, "reflect")), 0, 255)
    return np.rint(correlate(lit, _BOX, "reflect"))


def edges(layer: Floats) -> NDArray[np.bool_]:
    """Edges by Canny's method (1986) on Sobel gradients, |gx| + |gy|; bool (n, H, W)."""
    smooth, slope = np.array([1.0, 2.0, 1.0]), np.array([-1.0, 0.0, 1.0])
    right = correlate(layer, np.outer(smooth, slope), "edge")
    down = correlate(layer, np.outer(slope, smooth), "edge")
    size = np.abs(right) + np.abs(down)
    around = np.pad(size, ((0, 0), (1, 1), (1, 1)))
    height, width = layer.shape[1:]

    def beside(rows: int, columns: int) -> Floats:
        return around[:, 1 + rows : 1 + rows + height, 1 + columns : 1 + columns + width]

    # The gradient's direction, to the nearest 45 degrees: tan 22.5 and tan 67.5 are the borders.
    flat = np.abs(down) < np.abs(right) * np.float32(0.41421356)
    steep = np.abs(down) > np.abs(right) * np.float32(2.41421356)
    rising = (right < 0) != (down < 0)
    before = np.where(
        flat, beside(0, -1), np.where(steep, beside(-1, 0), np.where(rising, beside(-1, 1), beside(-1, -1)))
    )
    after = np.where(flat, beside(0, 1), np.where(steep, beside(1, 0), np.where(rising, beside(1, -1), beside(1, 1))))
    ridge = (size > _CANNY[0]) & (size > before) & (size >= np.where(flat | steep, after, np.nextafter(after, np.inf)))
    found = ridge & (size > _CANNY[1])
    while True:
        grown = np.pad(found, ((0, 0), (1, 1), (1, 1)))
        near = np.zeros_like(found)
        for row in range(3):
            for column in range(3):
                near |= grown[:, row : row + height, column : column + width]
        more = ridge & near
        if np.array_equal(more, found):
            return found
        found = more


def _distance(marked: NDArray[np.bool_]) -> Floats:
    """Distance of every pixel to the nearest marked one, at most ``_REACH`` + 1 where there is none within reach."""
    far = np.float32((_REACH + 1) ** 2)
    squares = np.where(marked, np.float32(0), far)
    for axis in (1, 2):
        nearest = squares.copy()
        size = squares.shape[axis]
        for step in range(1, min(_REACH, size - 1) + 1):
            ahead = [slice(None)] * 3
            behind = [slice(None)] * 3
            ahead[axis], behind[axis] = slice(step, None), slice(None, size - step)
            for to, source in ((ahead, behind), (behind, ahead)):
                part = nearest[tuple(to)]
                np.minimum(part, squares[tuple(source)] + np.float32(step * step), out=part)
        squares = nearest
    return np.sqrt(squares)


def _equalised(levels: Floats) -> Floats:
    """Histogram equalisation of each image of levels 0 to 255: the lowest becomes 0, the highest 255."""
    out = np.empty_like(levels)
    for image, target in zip(levels, out, strict=True):
        counts = np.bincount(image.astype(np.int64).ravel(), minlength=256)
        lowest = counts[np.nonzero(counts)[0][0]]
        if lowest == image.size:
            target[:] = image
            continue
        table = np.rint((np.cumsum(counts) - lowest) * (255 / (image.size - lowest)))
        target[:] = table.astype(np.float32)[image.astype(np.int64)]
    return out
