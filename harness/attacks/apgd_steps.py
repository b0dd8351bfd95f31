"""How Auto-PGD climbs: what it keeps of every point on its way, and its two rules for the next one."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Self

import torch
from torch import Tensor

from harness.attacks.geometry import Ball, ascent, finite, per_image, sparse_ascent

RHO = 0.75
"""A step is halved when at most this share of the moves since the last look raised the loss (the authors' code; the
paper says fewer)."""
MOMENTUM = 0.75
"""Share of the new move in Linf and L2; the rest repeats the move before."""
SPARSITY = 1.5
"""In L1 a move touches as many pixels as the best point has changed, over this."""
DECAY = 1.5
"""In L1 a step is divided by this, down to a tenth of the budget."""


class Climb(ABC):
    """Points on their way up, each on its own. A tensor has an entry for every point."""

    def __init__(self, ball: Ball, start: Tensor, *, size: float, period: int) -> None:
        """Before the first question; ``start`` (N, C, H, W) lies in the ``ball`` and is taken over."""
        n = len(start)
        self.rows = torch.arange(n, device=start.device)
        """Which of the points at the start these are; ascending."""
        self.ball, self.point, self.best = ball, start, start.clone()
        self.grad, self.best_grad = torch.zeros_like(start), torch.zeros_like(start)
        """Gradients at ``point`` and at ``best``, finite."""
        self.value = start.new_full((n,), -torch.inf)
        """Loss of ``best``, the highest so far."""
        self.size = start.new_full((n,), size)
        """Length of the next move."""
        self.period = period
        """Moves between two looks at how the climb goes."""
        self.moves = self._since = 0

    def select(self, keep: Tensor) -> Self:
        """The climb of some points (bool (N,))."""
        part = copy.copy(self)
        for name, values in vars(self).items():
            if isinstance(values, Tensor):
                setattr(part, name, values[keep])
        part.ball = self.ball.select(keep)
        return part

    def note(self, losses: Tensor, grad: Tensor | None) -> None:
        """Take in the ``losses`` (N,) at ``point`` and, except after the last move, their gradients.

        A loss that is not a number counts as the lowest.
        """
        losses = losses.to(self.value).nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
        better = losses > self.value if self.moves else torch.ones_like(losses, dtype=torch.bool)
        self.best[better], self.value[better] = self.point[better], losses[better]
        if grad is not None:
            self.grad = finite(grad)
            self.best_grad[better] = self.grad[better]
        self._watch(losses, better)
        self._since += self.moves > 0
        if self._since == self.period and grad is not None:
            self._look()
            self._since = 0

    def move(self) -> None:
        """Go to the next point."""
        self.point = self._next()
        self.moves += 1

    def _restart(self, chosen: Tensor) -> None:
        """Go on from the best point where ``chosen`` (bool (N,))."""
        self.point[chosen], self.grad[chosen] = self.best[chosen], self.best_grad[chosen]

    @abstractmethod
    def _watch(self, losses: Tensor, better: Tensor) -> None:
        """Remember what the next look needs; ``better`` says where ``point`` is the new best."""

    @abstractmethod
    def _look(self) -> None:
        """Change the sizes and restart."""

    @abstractmethod
    def _next(self) -> Tensor:
        """The next point; ``point`` stays as it is."""


class Momentum(Climb):
    """Linf and L2 (arXiv 2003.01690): a step with momentum, halved at checkpoints that come closer and closer."""

    def __init__(self, ball: Ball, start: Tensor, steps: int) -> None:
        super().__init__(ball, start, size=2 * ball.eps, period=max(int(0.22 * steps), 1))
        self._closer, self._least = max(int(0.03 * steps), 1), max(int(0.06 * steps), 1)
        self._previous = start
        self._last, self._then = self.value, self.value
        """Loss of the iterate before, and the highest loss at the last look."""
        self._raised = torch.zeros_like(self.value)
        """How many moves since the last look raised the loss."""
        self._halved = torch.ones_like(self.rows, dtype=torch.bool)
        """Whether the step is a new one since the last look, as at the start."""

    def _watch(self, losses: Tensor, better: Tensor) -> None:
        if self.moves:
            self._raised += losses > self._last
        else:
            self._then = losses
        self._last = losses

    def _look(self) -> None:
        """Halve where the loss swings, or has not grown since the last look although the step is the same."""
        swings, stuck = self._raised <= RHO * self.period, self._then >= self.value
        self._halved = swings | (stuck & ~self._halved)
        self.size[self._halved] /= 2
        self._restart(self._halved)
        self._then = self.value.clone()
        self._raised.zero_()
        self.period = max(self.period - self._closer, self._least)

    def _next(self) -> Tensor:
        point = self.point
        move = ascent(self.grad, self.ball.norm).mul_(per_image(self.size, point)).add_(point)
        move = self.ball.project_(move)
        if self.moves:
            # point + MOMENTUM (move - point) + (1 - MOMENTUM) (point - previous)
            move.mul_(MOMENTUM).add_(point, alpha=2 * (1 - MOMENTUM)).add_(self._previous, alpha=MOMENTUM - 1)
            move = self.ball.project_(move)
        self._previous = point
        return self.ball.settle_(move)


class Sparse(Climb):
    """L1 (arXiv 2103.01208): a step along the largest gradient entries, as many as the best point has use for."""

    def __init__(self, ball: Ball, start: Tensor, steps: int) -> None:
        super().__init__(ball, start, size=ball.eps, period=max(int(0.04 * steps), 1))
        self._changed = _changed(start, ball.x)
        """How many entries differ from the image: of ``point``, of ``best``, and of ``best`` at the last look."""
        self._best_changed, self._then = self._changed.clone(), self._changed

    def _watch(self, losses: Tensor, better: Tensor) -> None:
        self._best_changed[better] = self._changed[better]

    def _look(self) -> None:
        """Points that became sparser restart from their best with the full step; the others step shorter."""
        sparser = self._best_changed < 0.95 * self._then
        self.size = (self.size / DECAY).clamp_min(self.ball.eps / 10)
        self.size[sparser] = self.ball.eps
        self._restart(sparser)
        self._then = self._best_changed.clone()

    def _next(self) -> Tensor:
        counts = (self._then / SPARSITY).long().clamp_min(1)
        # A pixel at the border of the box that is to go further would take its share of the step and stay.
        free = (self.point + self.grad.sign()).clamp_(0, 1) != self.point
        move = sparse_ascent(self.grad * free, counts).mul_(per_image(self.size, self.point)).add_(self.point)
        move = self.ball.settle_(self.ball.project_(move))
        self._changed = _changed(move, self.ball.x)
        return move


def begin(ball: Ball, start: Tensor, steps: int) -> Climb:
    """The climb that suits the ball's norm."""
    return Sparse(ball, start, steps) if ball.norm == "L1" else Momentum(ball, start, steps)


def _changed(points: Tensor, x: Tensor) -> Tensor:
    return (points != x).flatten(1).sum(1)
