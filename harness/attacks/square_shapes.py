"""Sizes, places and shapes of the windows that the Square Attack tries."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.attacks.randomness import ExampleGenerators

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""The share of the image that a window covers is halved after each of these moves (arXiv 1912.00049, section 5)."""
SCHEDULED = 10_000
"""Moves of the run those numbers were made for."""
POWER = {"L2": 2, "L1": 4}
"""A bump falls off towards its border like a sum of 1 / k to this power."""


def share(move: int, p_init: float) -> float:
    """Share of the image's area that the window of a move covers; moves count from 0."""
    halved: float = p_init / 2 ** sum(move > last for last in HALVINGS)
    return halved


def sides(moves: int, height: int, width: int, norm: str, p_init: float, *, rescale: bool) -> list[int]:
    """Side of the square window of every move, in pixels; with ``rescale`` the schedule is stretched over all moves.

    In Linf at least 1. In L2 and L1 an odd number of at least 3. Never more than fits the image.
    """
    found = []
    for move in range(moves):
        area = share(int(move / moves * SCHEDULED) if rescale else move, p_init) * height * width
        side = max(round(math.sqrt(area)), 1)
        if norm != "Linf":
            side = max(side, 3) | 1
        found.append(min(side, height, width))
    return found


def rectangle(height: int, width: int, power: int) -> Tensor:
    """A bump over a rectangle, highest in the middle, float64: the sum over k >= r of (k + 1)^-power at distance r."""
    rings = torch.arange(1, max(height, width) // 2 + 2, dtype=torch.float64).pow(-power)
    tails = rings.flip(0).cumsum(0).flip(0)
    down, across = ((torch.arange(n) - n // 2).abs() for n in (height, width))
    return tails[torch.maximum(down[:, None], across[None, :])]


def bumps(side: int, norm: str) -> Tensor:
    """The update of a window (arXiv 1912.00049, section 4.3), upright and turned: float64 (2, side, side).

    A bump in its upper part and a negative one in the lower, of equal norm; together of norm 1.
    """
    order = float(norm[1])
    parts = [rectangle(height, side, POWER[norm]) for height in (side // 2, side - side // 2)]
    upper, lower = (part / torch.linalg.vector_norm(part, ord=order).clamp_min(1e-12) for part in parts)
    shape = torch.cat([upper, -lower])
    shape /= torch.linalg.vector_norm(shape, ord=order)
    return torch.stack([shape, shape.T])


def tiles(generators: ExampleGenerators, shape: Sequence[int], norm: str) -> Tensor:
    """A start for L2 and L1: bumps side by side, about 5 x 5 of them, each turned or not and with a sign per channel.

    float64 (N, C, H, W) on the CPU for images of ``shape`` (C, H, W); every bump has norm 1. In images of fewer than
    5 x 5 pixels a bump is one pixel.
    """
    channels, height, width = shape
    side = max(min(height, width) // 5, 1)
    down, across = height // side, width // side
    drawn = generators.uniform((down, across, channels + 1)) < 0.5
    signs = drawn[..., :-1].double().mul_(2).sub_(1)
    grid = bumps(side, norm)[drawn[..., -1].long()]
    # (N, down, across, C) signs times (N, down, across, side, side) bumps, laid out as images.
    laid = torch.einsum("nijc,nijab->nciajb", signs, grid).reshape(
        len(generators), channels, down * side, across * side
    )
    top, left = (height - down * side) // 2, (width - across * side) // 2
    start = laid.new_zeros(len(generators), channels, height, width)
    start[:, :, top : top + down * side, left : left + across * side] = laid
    return start


@dataclass
class Draws:
    """Random choices of some rows for a number of moves in a row, or of some pairs of a row and a move."""

    corners: Tensor
    """Position in a flat plane of each window's upper left pixel: int64 (moves, windows, n), or (pairs, windows)."""
    signs: Tensor
    """Sign for each channel: bool (moves, n, C), or (pairs, C)."""
    turned: Tensor
    """Whether the bump is turned: int64 (moves, n), or (pairs,)."""

    def select(self, rows: Tensor) -> "Draws":
        """The draws of some rows."""
        return Draws(self.corners[:, :, rows], self.signs[:, rows], self.turned[:, rows])

    def pairs(self, moves: Tensor, rows: Tensor) -> "Draws":
        """The draws of ``rows`` for one of ``moves`` each, both int64 (pairs,)."""
        return Draws(self.corners[moves, :, rows], self.signs[moves, rows], self.turned[moves, rows])

    def put(self, rows: Tensor, others: "Draws") -> None:
        """Take the draws of some rows from ``others``, which has those alone."""
        self.corners[:, :, rows], self.signs[:, rows], self.turned[:, rows] = (
            others.corners,
            others.signs,
            others.turned,
        )


def draw(
    generators: ExampleGenerators, chosen: Sequence[int], shape: Sequence[int], windows: int, device: torch.device
) -> Draws:
    """Choices for windows of the ``chosen`` sides in images of ``shape`` (C, H, W); every place is equally likely."""
    channels, height, width = shape
    uniform = generators.uniform((len(chosen), 2 * windows + channels + 1)).transpose(0, 1)
    spans = torch.tensor([[height - side + 1, width - side + 1] for side in chosen]).view(-1, 1, 1, 2)
    places = uniform[..., : 2 * windows].reshape(*uniform.shape[:2], windows, 2).mul(spans).long().clamp_max_(spans - 1)
    corners = (places[..., 0] * width + places[..., 1]).transpose(1, 2).contiguous()
    rest = uniform[..., 2 * windows :] < 0.5
    return Draws(corners.to(device), rest[..., :-1].contiguous().to(device), rest[..., -1].long().to(device))
