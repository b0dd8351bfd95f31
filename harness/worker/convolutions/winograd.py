"""Convolutions of 3 x 3 in a quarter of the multiplications: Winograd's F(4 x 4, 3 x 3) (arXiv 1509.09308).

A tile of 4 x 4 results takes 36 products for each pair of channels instead of 144. The price is sums before and after,
and rounding: the nodes 0, +-1/sqrt(2), +-sqrt(2) and infinity keep it at one to three times the direct form's (with the
usual 0, +-1, +-2 it is five times).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from harness.worker.convolutions.vectors import compiled, filled, in_panels

TILE, REACH = 4, 6
"""Results along a side of a tile, and values that they are made of."""
NODES = (0.0, math.sqrt(0.5), -math.sqrt(0.5), math.sqrt(2), -math.sqrt(2))
"""The finite ones; infinity comes last."""
CHANNELS = 8
"""From as many on, in and out, tiles are faster: with 12 by a quarter, with 24 by a half and more."""
CHANNELS_NEAR = 32
"""The same where images near known ones are asked about: one pixel that changes gives all values of its tiles other
last bits, so that windows (``harness.worker.windows``) would grow by tiles instead of pixels."""
GAIN = 2
"""Products of the direct form, borders included, for each one of this form, at least; tiles reach beyond small maps."""
BLOCK, WIDE_BLOCK, WIDE = 24, 48, 512
"""Tiles that are computed together, so that they stay near; more from so many channels, in and out, on, whose kernels
come from farther away."""


def _tiles(length: int) -> int:
    return -(-length // TILE)


def tiles_pay(weight: Tensor, size: Sequence[int], least: int = CHANNELS) -> bool:
    """Whether kernels (O, C, 3, 3) on maps of ``size`` (H, W) are worth it; the same on every machine.

    From ``least`` channels on, in and out.
    """
    height, width = size
    direct, this = 9 * height * width, REACH**2 * _tiles(height) * _tiles(width)
    return min(weight.shape[:2]) >= least and direct >= GAIN * this


def bytes_of(weight: Tensor, lanes: int) -> int:
    """Bytes of its kernels, for both directions."""
    made, channels = weight.shape[:2]
    return 4 * REACH**2 * (channels * filled(made, lanes) + made * filled(channels, lanes))


def products(weight: Tensor, lanes: int) -> Tensor:
    """What kernels (O, C, 3, 3) become, (36, ...), with the factors that ``before`` of ``winograd.h`` leaves out.

    Lagrange's interpolation of a polynomial of degree 5 from five nodes and its leading coefficient, transposed.
    """
    side = torch.zeros((REACH, 3), dtype=torch.float64)
    for at, node in enumerate(NODES):
        scale = math.prod(node - other for other in NODES if other != node)
        side[at] = torch.tensor([node**power / scale for power in range(3)])
    side[-1, 2] = 1.0
    made = torch.einsum("ai,bj,ocij->abco", side, side, weight.detach().double()).float()
    return in_panels(made.flatten(0, 1), lanes, ends=False)


class Tiled:
    """Kernels ready for maps of any size: the layer's own, or turned around, from its results to its images."""

    def __init__(self, weight: Tensor, lanes: int, *, back: bool) -> None:
        """``lanes`` is at most the number of channels on either side."""
        weight = weight.flip(2, 3).transpose(0, 1) if back else weight
        self.made, self.channels = weight.shape[:2]
        self._lanes, self._products = lanes, products(weight, lanes)
        self._block = WIDE_BLOCK if self.made + self.channels >= WIDE else BLOCK
        self._jobs: dict[tuple[int, ...], bytes] = {}

    def job(self, size: Sequence[int], made: Sequence[int]) -> bytes:
        """What ``compiled.c`` needs to know to make maps of size ``made`` (H, W) of those of ``size``."""
        asked = (*size, *made)
        if asked not in self._jobs:
            padding = (made[0] - size[0] + 2) // 2
            self._jobs[asked] = compiled.winograd(
                self._lanes, (*size, self.channels), self._products.data_ptr(), padding, self._block, self.made
            )
        return self._jobs[asked]
