"""What the Square Attack changes in the images in one move, for each norm.

Images are flat, (n, C * H * W). ``asked`` is what the model is asked next, ``best`` the best point so far; both are
equal between two moves, except that ``L1Moves`` writes all of ``asked`` anew.
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
    best: Tensor
    asked: Tensor

    def start(self, generators: ExampleGenerators) -> None:
        """Set ``best`` and ``asked`` to a random start."""

    def propose(self, draws: Draws, move: int, side: int) -> None:
        """Make ``asked`` the next candidate from ``best``."""

    def take(self, rows: Tensor) -> Tensor:
        """Make the candidates of some rows (int64) their best points; the rows whose candidate is in the ball."""

    def withdraw(self) -> None:
        """Undo in ``asked`` what was not taken."""

    def keep(self, rows: Tensor) -> None:
        """Forget all rows but some."""


def row_sums(values: Tensor) -> Tensor:
    """Sums over the last dimension; the bits of one do not depend on how many others there are.

    Torch may split a single sum between threads, never one of several.
    """
    if values.numel() == values.shape[-1]:
        return values.expand(2, *values.shape).sum(-1)[0]
    return values.sum(-1)


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

    windows = 1

    def __init__(self, x: Tensor, eps: float) -> None:
        self._shape = x.shape[1:]
        self._places = Windows(self._shape, x.device)
        self._pixels = self._shape.numel()
        flat = x.flatten(1)
        self._ends = torch.cat([(flat - eps).clamp_(min=0), (flat + eps).clamp_(max=1)], 1)
        self.best = self.asked = flat

    def start(self, generators: ExampleGenerators) -> None:
        """Vertical stripes one pixel wide."""
        channels, _, width = self._shape
        up = (generators.uniform((channels, 1, width)) < 0.5).expand(-1, *self._shape).flatten(1).to(self.best.device)
        low, high = self._ends[:, : self._pixels], self._ends[:, self._pixels :]
        self.best = torch.where(up, high, low)
        self.asked = self.best.clone()

    def propose(self, draws: Draws, move: int, side: int) -> None:
        """Write the new ends into the window."""
        self._at = self._places.at(draws.corners[move, 0], side)
        shift = (draws.signs[move].long() * self._pixels)[:, :, None]
        ends = self._at.view(len(self._at), self._shape[0], -1) + shift
        self.asked.scatter_(1, self._at, self._ends.gather(1, ends.flatten(1)))

    def take(self, rows: Tensor) -> Tensor:
        """All of them."""
        self.best[rows] = self.asked[rows]
        return rows

    def withdraw(self) -> None:
        """Write the window's best pixels back."""
        self.asked.scatter_(1, self._at, self.best.gather(1, self._at))

    def keep(self, rows: Tensor) -> None:
        """Forget all rows but some."""
        self.best, self.asked, self._ends = self.best[rows], self.asked[rows], self._ends[rows]


class _BumpMoves:
    """What L2 and L1 share: a move puts the budget of two windows into the first and adds a bump there."""

    windows = 2
    norm: str

    def __init__(self, x: Tensor, eps: float) -> None:
        self._shape = x.shape[1:]
        self._places = Windows(self._shape, x.device)
        self._eps, self._limit = eps * INNER, eps * OUTER
        self._x = x.flatten(1)
        self._lengths = self._x.new_zeros(len(x))
        self._bumps: dict[int, Tensor] = {}
        self.best = self.asked = self._x

    def start(self, generators: ExampleGenerators) -> None:
        """A grid of bumps, as long as ``eps`` allows."""
        delta = tiles(generators, self._shape, self.norm).flatten(1).to(self._x)
        self.best = (self._x + self._shorten(delta)).clamp_(0, 1)
        self._shorten_rounded()
        self.asked = self.best.clone()

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

    def _bump(self, draws: Draws, move: int, side: int) -> Tensor:
        """The bump of every row and channel, (n, C, side * side)."""
        if side not in self._bumps:
            both = bumps(side, self.norm).flatten(1).to(self._x)
            self._bumps[side] = torch.stack([both, -both], 1).flatten(0, 1)
        # Rows of the table: upright, upright negative, turned, turned negative.
        return self._bumps[side][2 * draws.turned[move][:, None] + draws.signs[move]]

    def take(self, rows: Tensor) -> Tensor:
        """Those within the ball in spite of rounding."""
        points = self.asked[rows]
        lengths = self._measure(points, self._x[rows])
        inside = lengths <= self._limit
        if not bool(inside.all()):
            rows, points, lengths = rows[inside], points[inside], lengths[inside]
        self.best[rows] = points
        self._lengths[rows] = lengths.to(self._lengths)
        return rows

    def keep(self, rows: Tensor) -> None:
        """Forget all rows but some."""
        self.best, self.asked, self._x = self.best[rows], self.asked[rows], self._x[rows]
        self._lengths = self._lengths[rows]


class L2Moves(_BumpMoves):
    """The paper's move (arXiv 1912.00049) and one of ours take turns.

    The paper's takes the budget for its bump out of a second window, all of it, and changes nothing elsewhere; a good
    perturbation can hardly spare a window. Ours adds a bump of length ``reach`` times eps and shrinks the whole
    perturbation back to eps. ``reach`` grows by ``GROWTH`` with every such move that is taken and shrinks with every
    other, so that one in five keeps it as it is (the rule of success in Rechenberg, Evolutionsstrategie, 1973).
    """

    norm = "L2"

    def start(self, generators: ExampleGenerators) -> None:
        """A grid of bumps, as long as ``eps`` allows."""
        super().start(generators)
        self._reach = self._x.new_full((len(self._x),), REACH)
        self._taken = torch.zeros_like(self._lengths, dtype=torch.bool)

    def _shorten(self, delta: Tensor) -> Tensor:
        return delta * (self._eps / row_sums(delta.square()).sqrt().clamp_min_(TINY))[:, None]

    def propose(self, draws: Draws, move: int, side: int) -> None:
        """The paper's move first, then in turn."""
        self._leaned = move % 2 == 1
        self._taken = torch.zeros_like(self._lengths, dtype=torch.bool)
        if self._leaned:
            self._lean(draws, move, side)
        else:
            self._exchange(draws, move, side)

    def _exchange(self, draws: Draws, move: int, side: int) -> None:
        """Set the second window back to ``x``; the first gets what both had and what was left of ``eps``."""
        cells = (len(self._x), self._shape[0], side * side)
        self._first, self._second = (self._places.at(corners, side) for corners in draws.corners[move])
        x_first, x_second = self._x.gather(1, self._first), self._x.gather(1, self._second)
        first = (self.asked.gather(1, self._first) - x_first).view(cells)
        self.asked.scatter_(1, self._first, x_first)
        second = (self.asked.gather(1, self._second) - x_second).view(cells)
        self.asked.scatter_(1, self._second, x_second)
        held = row_sums(first.square())
        slack = (self._eps**2 - self._lengths.square()).clamp_min_(0)[:, None] / self._shape[0]
        budget = held + row_sums(second.square()) + slack
        new = first.div_(held.sqrt().add_(TINY).unsqueeze(2)).add_(self._bump(draws, move, side))
        new.mul_((budget.sqrt_() / row_sums(new.square()).sqrt_().add_(TINY)).unsqueeze(2))
        self.asked.scatter_(1, self._first, new.flatten(1).add_(x_first).clamp_(0, 1))

    def _lean(self, draws: Draws, move: int, side: int) -> None:
        """Add a bump to the first window and shrink the whole to ``eps``."""
        bump = self._bump(draws, move, side).flatten(1)
        # A bump has length 1 in every channel.
        bump *= (self._reach * (self._eps / self._shape[0] ** 0.5))[:, None]
        delta = (self.best - self._x).scatter_add_(1, self._places.at(draws.corners[move, 0], side), bump)
        self.asked = self._shorten(delta).add_(self._x).clamp_(0, 1)

    def take(self, rows: Tensor) -> Tensor:
        """Those within the ball in spite of rounding."""
        rows = super().take(rows)
        self._taken[rows] = True
        return rows

    def withdraw(self) -> None:
        """Write the best pixels back."""
        if self._leaned:
            self._reach *= torch.where(self._taken, GROWTH, GROWTH ** (-1 / 4))
            self._reach.clamp_(*REACHES)
            self.asked.copy_(self.best)
            return
        for at in (self._first, self._second):
            self.asked.scatter_(1, at, self.best.gather(1, at))

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

    norm = "L1"

    def start(self, generators: ExampleGenerators) -> None:
        """A grid of bumps, as long as ``eps`` allows."""
        super().start(generators)
        self._delta = self.best - self._x
        self._pixels = self._delta.count_nonzero(1)
        self._wanted, self._size, self._part = (torch.empty_like(self._x) for _ in range(3))

    def _shorten(self, delta: Tensor) -> Tensor:
        room = torch.where(delta > 0, 1 - self._x, self._x)
        low, high = self._x.new_zeros(len(delta), 1), delta.abs().amax(1, keepdim=True)
        for _ in range(40):
            middle = (low + high) / 2
            long = row_sums(torch.minimum((delta.abs() - middle).clamp_min_(0), room)) > self._eps
            low, high = torch.where(long[:, None], middle, low), torch.where(long[:, None], high, middle)
        return torch.minimum((delta.abs() - high).clamp_min_(0), room).copysign_(delta)

    def propose(self, draws: Draws, move: int, side: int) -> None:
        """Empty the second window; the first gets C times what both had; what is too much is taken from all pixels."""
        wanted = self._wanted.copy_(self._delta)
        cells = (len(wanted), self._shape[0], side * side)
        at, emptied = (self._places.at(corners, side) for corners in draws.corners[move])
        first = wanted.gather(1, at).view(cells)
        wanted.scatter_(1, at, 0.0)
        held = row_sums(first.abs())
        both = held + row_sums(wanted.gather(1, emptied).abs_().view(cells))
        slack = (self._eps - self._lengths).clamp_min_(0)[:, None]
        new = first.div_(held.add_(TINY).unsqueeze(2)).add_(self._bump(draws, move, side))
        new.mul_(((both * self._shape[0] + slack) / row_sums(new.abs()).add_(TINY)).unsqueeze(2))
        new = new.flatten(1)
        wanted.scatter_(1, emptied, 0.0).scatter_(1, at, new)
        x = self._x.gather(1, at)
        room = torch.where(new > 0, 1 - x, x)
        self._threshold(wanted, at, new.abs_(), room)
        torch.add(self._x, self._part.copysign_(wanted), out=self.asked).clamp_(0, 1)

    def _threshold(self, wanted: Tensor, at: Tensor, new: Tensor, room: Tensor) -> None:
        """Write the sizes of ``wanted``, brought into the ball and the box, to ``_part``.

        Outside the window ``at``, whose sizes are ``new``, the box holds already.
        """
        size, part = torch.abs(wanted, out=self._size), self._part
        beyond = (new - room).clamp_min_(0)
        before = row_sums(size) - row_sums(beyond)
        step = (before - self._eps).clamp_min_(0).div_(self._pixels + new.shape[1])
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
        part.mul_((self._eps / total.clamp_min(self._eps))[:, None])

    def take(self, rows: Tensor) -> Tensor:
        """Those within the ball in spite of rounding."""
        rows = super().take(rows)
        delta = self.best[rows] - self._x[rows]
        self._delta[rows], self._pixels[rows] = delta, delta.count_nonzero(1)
        return rows

    def withdraw(self) -> None:
        """Nothing: the next move writes all of ``asked``."""

    def keep(self, rows: Tensor) -> None:
        """Forget all rows but some."""
        super().keep(rows)
        self._delta, self._pixels = self._delta[rows], self._pixels[rows]
        self._wanted, self._size, self._part = (kept[: len(rows)] for kept in (self._wanted, self._size, self._part))


MOVES: dict[str, type[LinfMoves] | type[L2Moves] | type[L1Moves]] = {"Linf": LinfMoves, "L2": L2Moves, "L1": L1Moves}
