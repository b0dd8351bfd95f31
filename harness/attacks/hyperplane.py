"""The shortest way from a point of the box [0, 1]^d to a hyperplane, without leaving the box."""

import torch
from torch import Tensor

NORMS = ("Linf", "L2", "L1")

_ROUNDS = 100
"""Newton's method ends by itself after a handful of rounds; this only bounds what rounding errors could do."""
_TOLERANCE = 4e-7
"""Part of the wanted offset that may be missing in the end: what float32 sums over an image leave open."""
_LARGEST = (48, 512)
"""How many of the largest weights are sorted at first, and next: in L1 few pixels move, all as far as they can. Up to a
64th of an image's pixels are found twice as fast."""


def project(points: Tensor, weight: Tensor, offset: Tensor, norm: str) -> Tensor:
    """The smallest ``delta`` in ``norm`` with ``weight . delta = offset`` and ``points + delta`` in [0, 1]^d.

    ``points`` is (N, M, d) in [0, 1], ``weight`` (N, d), ``offset`` (N, M): M points for each hyperplane. The answer
    has the shape of ``points``. Where no point of the box lies on the hyperplane, it leads to the corner (a pixel
    of weight 0 stays) that comes closest. Entries of ``weight`` should be of order 1 at most. Every row is computed
    by itself, whatever its neighbours are.

    The problem of Croce and Hein 2020 (arXiv 1907.02044), section 3.1. In Linf and L2 the answer is
    min(lambda * g, room) towards the hyperplane, g = 1 or |weight|; how far it gets is concave and piecewise linear in
    lambda, so that Newton's method finds lambda from below in finitely many rounds, without sorting. In L1 it is a
    fractional knapsack: pixels move as far as they can, in the order of their |weight|.
    """
    side = weight.sign()[:, None] * offset.sign()[..., None]
    # 1 - points where the way leads up, points where it leads down, 0 where it does not lead anywhere.
    room = side.clamp_min(0).sub_(points).mul_(side)
    size, need = weight.abs()[:, None], offset.abs()
    length = _fill_largest(room, size, need) if norm == "L1" else _rise(room, size, need, norm)
    return length.mul_(side)


def _rise(room: Tensor, size: Tensor, need: Tensor, norm: str) -> Tensor:
    """How far every pixel moves in Linf and L2, (N, M, d): sum of ``size`` times it is ``need``, if ``room`` allows.

    Written without comparisons of whole images, which cost ten times as much as arithmetic on a CPU.
    """
    slopes = size if norm == "Linf" else size * size
    length = torch.mul(room, size)
    lost = need >= length.sum(2)
    level = torch.where(lost, 0.0, need / slopes.sum(2))
    work = torch.empty_like(room)
    for _ in range(_ROUNDS):
        reach = level[..., None] if norm == "Linf" else torch.mul(level[..., None], size, out=work)
        torch.minimum(reach, room, out=length)
        missing = need - torch.mul(length, size, out=work).sum(2)
        short = (missing > _TOLERANCE * need) & ~lost
        if not bool(short.any()):
            break
        free = torch.sub(room, length, out=work).sign_()
        slope = free.mul_(slopes).sum(2)
        level = torch.where(short & (slope > 0), level + missing / slope, level)
    if bool(lost.any()):
        length[lost] = room[lost]
    return length


def _fill_largest(room: Tensor, size: Tensor, need: Tensor) -> Tensor:
    """How far every pixel moves in L1, (N, M, d): the pixels of largest ``size`` first, each as far as it can."""
    length = torch.zeros_like(room)
    rows = torch.arange(len(room), device=room.device)
    pixels = room.shape[2]
    for count in (*(count for count in _LARGEST if count < pixels), pixels):
        short = _fill(length, rows, room[rows], size[rows], need[rows], count)
        rows = rows[short]
        if not len(rows):
            break
    return length


def _fill(length: Tensor, rows: Tensor, room: Tensor, size: Tensor, need: Tensor, count: int) -> Tensor:
    """Write the moves of the ``count`` pixels of largest ``size`` into ``length[rows]``; which rows need more."""
    largest, pixels = size.squeeze(1).topk(count, dim=1)
    largest, pixels = largest[:, None], pixels[:, None].expand(-1, room.shape[1], -1)
    space = room.gather(2, pixels)
    worth = space * largest
    reached = worth.cumsum(2)
    left = need[..., None] - (reached - worth)
    move = (left.clamp_min(0) / largest.clamp_min(torch.finfo(size.dtype).tiny)).clamp_max(space)
    length[rows] = torch.zeros_like(room).scatter_(2, pixels, move)
    return (reached[..., -1] < need).any(1)
