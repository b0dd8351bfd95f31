"""What the Square Attack changes in the images in one move, for each norm.

Images are flat, (n, C * H * W); ``index_select`` copies some of them five times as fast as indexing. A move may be
proposed before the ones before it are decided, as if they were refused, so a question is about pairs of a row and a
move of its own; ``rows`` int64 (m,) may name a row several times there.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from harness.attacks.randomness import ExampleGenerators
from harness.attacks.square_shapes import Draws, bumps, tiles

TINY = 1e-12
CHORDS = 2
"""Steps along a chord in soft thresholding; more change no outcome that 300 queries on 64 images could show."""
REACH, REACHES, GROWTH = 0.5, (0.01, 1.0), 1.5
"""A bump's length as a part of eps: at first, its bounds, and its growth with every one that is taken."""
INNER, OUTER = 1 - 1e-6, 1 + 5e-6
"""Points are aimed at this part of eps, so that rounding to the pixels' precision leaves them within the other."""


class Moves(Protocol):
    """The moves of one norm on some rows."""

    windows: int
    """Windows per move."""
    kinds: int
    """Kinds of moves, which take turns."""
    ahead: int
    """Moves of a row proposed at once where there are many rows: the more, the larger the batches and the more of them
    asked about in vain.

    One move in twenty is taken in Linf and L1, one in ten in L2. Where only a window changes, a question costs less
    than others, and more of them may be asked in vain.
    """
    local: bool
    """Whether a candidate differs from the best point in one window alone."""
    best: Tensor
    """The best point of every row so far."""

    def start(self, generators: ExampleGenerators) -> None:
        """Set ``best`` to a random start."""

    def propose(self, rows: Tensor, draws: Draws, side: int, kind: int, refused: Tensor) -> Tensor:
        """Candidates (m, C * H * W) for ``draws`` of m pairs and windows of one side.

        Before each, ``refused`` int64 (m,) moves of that kind are still undecided and taken to be refused.
        """

    def within(self, rows: Tensor, points: Tensor) -> Tensor:
        """Which candidates are in the ball in spite of rounding, bool (m,)."""

    def take(self, rows: Tensor, points: Tensor) -> None:
        """Make candidates the best points of some rows, each named once."""

    def settle(self, refused: Tensor, taken: Tensor) -> None:
        """Moves that every row was ``refused`` int64 (n, kinds), and the kind ``taken`` int64 (n,) then, or -1."""

    def keep(self, rows: Tensor) -> None:
        """Forget all rows but some."""


def row_sums(values: Tensor) -> Tensor:
    """Sums over the last dimension; the bits of one do not depend on how many others there are.

    Torch may split a single sum between threads, never one of several.
    """
    if values.numel() == values.shape[-1]:
        return values.expand(2, *values.shape).sum(-1)[0]
    return values.sum(-1)


def gathered(table: Tensor, rows: Tensor, at: Tensor) -> Tensor:
    """``table[rows].gather(1, at)`` without the copy of whole rows; ``table`` (n, p) is contiguous."""
    return table.take(at + (rows * table.shape[1])[:, None])


class Windows:
    """Flat positions of the pixels of square windows in images of ``shape`` (C, H, W)."""

    def __init__(self, shape: torch.Size, device: torch.device) -> None:
        self.shape, self.device = shape, device
        self._offsets: dict[int, Tensor] = {}

    def at(self, corners: Tensor, side: int) -> Tensor:
        """int64 (n, C * side * side) for corners (n,)."""
        if side not in self._offsets:
            channels, height, width = self.shape
            planes, down = torch.arange(channels) * (height * width), torch.arange(side) * width
            offsets = planes[:, None, None] + down[:, None] + torch.arange(side)
            self._offsets[side] = offsets.flatten().to(self.device)
        return corners[:, None] + self._offsets[side]


class LinfMoves:
    """Every pixel is at one end of what ``eps`` and [0, 1] leave it; a move brings a window's channels to one end."""

    windows, kinds, ahead, local = 1, 1, 6, True

    def __init__(self, x: Tensor, eps: float) -> None:
        self._shape = x.shape[1:]
        self._places = Windows(self._shape, x.device)
        self._pixels = self._shape.numel()
        flat = x.flatten(1)
        self._ends = torch.cat([(flat - eps).clamp_(min=0), (flat + eps).clamp_(max=1)], 1)
        self.best = flat

    def start(self, generators: ExampleGenerators) -> None:
        """Vertical stripes one pixel wide."""
        channels, _, width = self._shape
        up = (generators.uniform((channels, 1, width)) < 0.5).expand(-1, *self._shape).flatten(1).to(self.best.device)
        low, high = self._ends[:, : self._pixels], self._ends[:, self._pixels :]
        self.best = torch.where(up, high, low)

    def propose(self, rows: Tensor, draws: Draws, side: int, kind: int, refused: Tensor) -> Tensor:
        """The new ends in the window."""
        at = self._places.at(draws.corners[:, 0], side)
        shift = (draws.signs.long() * self._pixels)[:, :, None]
        ends = (at.view(len(at), self._shape[0], -1) + shift).flatten(1)
        return self.best.index_select(0, rows).scatter_(1, at, gathered(self._ends, rows, ends))

    def within(self, rows: Tensor, points: Tensor) -> Tensor:
        """All of them."""
        return torch.ones_like(rows, dtype=torch.bool)

    def take(self, rows: Tensor, points: Tensor) -> None:
        """Nothing else hangs on the best points."""
        self.best[rows] = points

    def settle(self, refused: Tensor, taken: Tensor) -> None:
        """Nothing is learnt from it."""

    def keep(self, rows: Tensor) -> None:
        """Forget all rows but some."""
        self.best, self._ends = self.best[rows], self._ends[rows]


class _BumpMoves:
    """What L2 and L1 share: a move puts the budget of two windows into the first and adds a bump there."""

    windows, kinds, local = 2, 1, False
    norm: str

    def __init__(self, x: Tensor, eps: float) -> None:
        self._shape = x.shape[1:]
        self._places = Windows(self._shape, x.device)
        self._eps, self._limit = eps * INNER, eps * OUTER
        self._x = x.flatten(1)
        self._lengths = self._x.new_zeros(len(x))
        self._bumps: dict[int, Tensor] = {}
        self.best = self._x

    def start(self, generators: ExampleGenerators) -> None:
        """A grid of bumps, as long as ``eps`` allows."""
        delta = tiles(generators, self._shape, self.norm).flatten(1).to(self._x)
        self.best = (self._x + self._shorten(delta)).clamp_(0, 1)
        self._shorten_rounded()

    def _shorten(self, delta: Tensor) -> Tensor:
        raise NotImplementedError

    def _shorten_rounded(self) -> None:
        """Where ``eps`` is so small that rounding to the pixels' precision matters, step back, in the end to ``x``."""
        for factor in (0.999, 0.99, 0.9, 0.5, 0.0):
            lengths = self._measure(self.best, self._x)
            outside = lengths > self._limit
            if not bool(outside.any()):
                break
            scale = (factor * self._eps / lengths[outside]).to(self._x)[:, None]
            self.best[outside] = self._x[outside] + (self.best[outside] - self._x[outside]) * scale
        self._lengths = self._measure(self.best, self._x).to(self._x)

    def _measure(self, points: Tensor, x: Tensor) -> Tensor:
        """Length of ``points - x``, float64 (n,)."""
        delta = points.double() - x.double()
        return row_sums(delta.abs()) if self.norm == "L1" else row_sums(delta.square()).sqrt()

    def _bump(self, draws: Draws, side: int) -> Tensor:
        """The bump of every candidate and channel, (m, C, side * side)."""
        if side not in self._bumps:
            both = bumps(side, self.norm).flatten(1).to(self._x)
            self._bumps[side] = torch.stack([both, -both], 1).flatten(0, 1)
        # Rows of the table: upright, upright negative, turned, turned negative.
        return self._bumps[side][2 * draws.turned[:, None] + draws.signs]

    def within(self, rows: Tensor, points: Tensor) -> Tensor:
        """By their length in double precision."""
        return self._measure(points, self._x[rows]) <= self._limit

    def take(self, rows: Tensor, points: Tensor) -> None:
        """Their lengths are needed for the next moves."""
        self.best[rows] = points
        self._lengths[rows] = self._measure(points, self._x[rows]).to(self._lengths)

    def settle(self, refused: Tensor, taken: Tensor) -> None:
        """Nothing is learnt from it."""

    def keep(self, rows: Tensor) -> None:
        """Forget all rows but some."""
        self.best, self._x, self._lengths = self.best[rows], self._x[rows], self._lengths[rows]


class L2Moves(_BumpMoves):
    """The paper's move (arXiv 1912.00049) and one of ours take turns.

    The paper's takes the budget for its bump out of a second window, all of it, and changes nothing elsewhere; a good
    perturbation can hardly spare a window. Ours adds a bump of length ``reach`` times eps and shrinks the whole
    perturbation back to eps. ``reach`` grows by ``GROWTH`` with every such move that is taken and shrinks with every
    other, so that one in five keeps it as it is (the rule of success in Rechenberg, Evolutionsstrategie, 1973).
    """

    norm = "L2"
    kinds, ahead = 2, 2

    def start(self, generators: ExampleGenerators) -> None:
        """A grid of bumps, as long as ``eps`` allows."""
        super().start(generators)
        self._reach = self._x.new_full((len(self._x),), REACH)

    def _shorten(self, delta: Tensor) -> Tensor:
        return delta * (self._eps / row_sums(delta.square()).sqrt().clamp_min_(TINY))[:, None]

    def propose(self, rows: Tensor, draws: Draws, side: int, kind: int, refused: Tensor) -> Tensor:
        """The paper's move or ours."""
        if kind == 0:
            return self._exchange(rows, draws, side)
        return self._lean(rows, draws, side, self._shrunk(self._reach[rows], refused))

    def _exchange(self, rows: Tensor, draws: Draws, side: int) -> Tensor:
        """Set the second window back to ``x``; the first gets what both had and what was left of ``eps``."""
        cells = (len(rows), self._shape[0], side * side)
        at, emptied = (self._places.at(corners, side) for corners in draws.corners.T)
        x_first, x_second = gathered(self._x, rows, at), gathered(self._x, rows, emptied)
        asked = self.best.index_select(0, rows)
        first = (asked.gather(1, at) - x_first).view(cells)
        asked.scatter_(1, at, x_first)
        second = (asked.gather(1, emptied) - x_second).view(cells)
        asked.scatter_(1, emptied, x_second)
        held = row_sums(first.square())
        slack = (self._eps**2 - self._lengths[rows].square()).clamp_min_(0)[:, None] / self._shape[0]
        budget = held + row_sums(second.square()) + slack
        new = first.div_(held.sqrt().add_(TINY).unsqueeze(2)).add_(self._bump(draws, side))
        new.mul_((budget.sqrt_() / row_sums(new.square()).sqrt_().add_(TINY)).unsqueeze(2))
        return asked.scatter_(1, at, new.flatten(1).add_(x_first).clamp_(0, 1))

    def _lean(self, rows: Tensor, draws: Draws, side: int, reach: Tensor) -> Tensor:
        """Add a bump to the first window and shrink the whole to ``eps``."""
        bump = self._bump(draws, side).flatten(1)
        # A bump has length 1 in every channel.
        bump *= (reach * (self._eps / self._shape[0] ** 0.5))[:, None]
        x = self._x.index_select(0, rows)
        delta = (self.best.index_select(0, rows) - x).scatter_add_(1, self._places.at(draws.corners[:, 0], side), bump)
        return self._shorten(delta).add_(x).clamp_(0, 1)

    @staticmethod
    def _shrunk(reach: Tensor, refused: Tensor) -> Tensor:
        """``reach`` after some refusals, one at a time: the last bits are those of asking one move at a time."""
        for turn in range(int(refused.max())):
            reach = (reach * torch.where(refused > turn, GROWTH ** (-1 / 4), 1.0)).clamp_(*REACHES)
        return reach

    def settle(self, refused: Tensor, taken: Tensor) -> None:
        """Shorter reaches after refusals, a longer one after a success."""
        reach = self._shrunk(self._reach, refused[:, 1])
        self._reach = (reach * torch.where(taken == 1, GROWTH, 1.0)).clamp_(*REACHES)

    def keep(self, rows: Tensor) -> None:
        """Forget all rows but some."""
        super().keep(rows)
        self._reach = self._reach[rows]


class L1Moves(_BumpMoves):
    """A move makes the perturbation too long, then brings it back by soft thresholding (arXiv 2103.01208).

    The nearest point of the ball and the box has sizes min(max(|delta| - t, 0), room) for one t per image, ``room``
    being what the box leaves. Steps towards t from below, each along a chord of a sum that falls ever slower, never go
    beyond it; after a few of them, what is still too long is scaled down.
    """

    norm, ahead = "L1", 3

    def start(self, generators: ExampleGenerators) -> None:
        """A grid of bumps, as long as ``eps`` allows."""
        super().start(generators)
        self._delta = self.best - self._x
        self._pixels = self._delta.count_nonzero(1)

    def _shorten(self, delta: Tensor) -> Tensor:
        room = torch.where(delta > 0, 1 - self._x, self._x)
        low, high = self._x.new_zeros(len(delta), 1), delta.abs().amax(1, keepdim=True)
        for _ in range(40):
            middle = (low + high) / 2
            long = row_sums(torch.minimum((delta.abs() - middle).clamp_min_(0), room)) > self._eps
            low, high = torch.where(long[:, None], middle, low), torch.where(long[:, None], high, middle)
        return torch.minimum((delta.abs() - high).clamp_min_(0), room).copysign_(delta)

    def propose(self, rows: Tensor, draws: Draws, side: int, kind: int, refused: Tensor) -> Tensor:
        """Empty the second window; the first gets C times what both had; what is too much is taken from all pixels."""
        wanted = self._delta.index_select(0, rows)
        cells = (len(wanted), self._shape[0], side * side)
        at, emptied = (self._places.at(corners, side) for corners in draws.corners.T)
        first = wanted.gather(1, at).view(cells)
        wanted.scatter_(1, at, 0.0)
        held = row_sums(first.abs())
        both = held + row_sums(wanted.gather(1, emptied).abs_().view(cells))
        slack = (self._eps - self._lengths[rows]).clamp_min_(0)[:, None]
        new = first.div_(held.add_(TINY).unsqueeze(2)).add_(self._bump(draws, side))
        new.mul_(((both * self._shape[0] + slack) / row_sums(new.abs()).add_(TINY)).unsqueeze(2))
        new = new.flatten(1)
        wanted.scatter_(1, emptied, 0.0).scatter_(1, at, new)
        x = gathered(self._x, rows, at)
        room = torch.where(new > 0, 1 - x, x)
        sizes = self._thresholded(wanted, at, new.abs_(), room, self._pixels[rows])
        return sizes.copysign_(wanted).add_(self._x.index_select(0, rows)).clamp_(0, 1)

    def _thresholded(self, wanted: Tensor, at: Tensor, new: Tensor, room: Tensor, pixels: Tensor) -> Tensor:
        """The sizes of ``wanted``, brought into the ball and the box.

        Outside the window ``at``, whose sizes are ``new``, the box holds already; ``pixels`` of a row were not zero.
        """
        size = wanted.abs()
        part = torch.empty_like(size)
        beyond = (new - room).clamp_min_(0)
        before = row_sums(size) - row_sums(beyond)
        step = (before - self._eps).clamp_min_(0).div_(pixels + new.shape[1])
        threshold = step.clone()
        for turn in range(CHORDS + 1):
            torch.sub(size, threshold[:, None], out=part).clamp_min_(0)
            total = row_sums(part) - row_sums((beyond - threshold[:, None]).clamp_min_(0))
            if turn == CHORDS:
                break
            slope = (before - total).clamp_min_(TINY).div_(step.clamp_min(TINY))
            step = ((total - self._eps).clamp_min_(0) / slope).clamp_min_(0)
            threshold, before = threshold + step, total
        part.scatter_(1, at, torch.minimum(part.gather(1, at), room))
        return part.mul_((self._eps / total.clamp_min(self._eps))[:, None])

    def take(self, rows: Tensor, points: Tensor) -> None:
        """What was changed is needed for the next moves."""
        super().take(rows, points)
        delta = points - self._x[rows]
        self._delta[rows], self._pixels[rows] = delta, delta.count_nonzero(1)

    def keep(self, rows: Tensor) -> None:
        """Forget all rows but some."""
        super().keep(rows)
        self._delta, self._pixels = self._delta[rows], self._pixels[rows]


MOVES: dict[str, type[LinfMoves] | type[L2Moves] | type[L1Moves]] = {"Linf": LinfMoves, "L2": L2Moves, "L1": L1Moves}
