"""Norm balls around images: projection, steepest ascent, random points."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from harness.attacks.randomness import ExampleGenerators

PIXEL_ROUNDING = 2**-25
"""Most that rounding to float32 moves a pixel in [0, 1]."""
TIGHT = 8e-6
"""Relative length of a perturbation's rounding from which it has to be undone; below the engine's slack."""
LARGE = 1e15
"""Stands for an infinite gradient entry; its square still fits float32 after summing over an image."""


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """``values`` (N,) shaped so that they broadcast over the images ``like`` (N, C, H, W)."""
    return values.view(-1, *[1] * (like.ndim - 1))


def finite(grad: Tensor) -> Tensor:
    """NaN replaced by 0 and infinities by a large number of their sign, so that one bad entry spoils no other."""
    return grad.nan_to_num(nan=0.0, posinf=LARGE, neginf=-LARGE)


def ascent(grad: Tensor, norm: str) -> Tensor:
    """From gradients (N, C, H, W) to the unit steps of ``norm`` that raise the loss fastest; zero stays zero.

    Linf: the sign. L2: the gradient over its norm, scaled by its largest entry first so that nothing underflows. L1:
    the sign of the largest entry alone.
    """
    if norm == "Linf":
        return grad.sign()
    if norm == "L1":
        return sparse_ascent(grad, torch.ones(len(grad), dtype=torch.int64, device=grad.device))
    largest = grad.flatten(1).abs().amax(1)
    if not bool(largest.isfinite().all()):
        grad = finite(grad)
        largest = grad.flatten(1).abs().amax(1)
    step = grad / per_image(torch.where(largest > 0, largest, 1.0), grad)
    # At least one entry is 1 now, unless all are 0.
    return step.div_(per_image(torch.linalg.vector_norm(step.flatten(1), dim=1).clamp_min_(1.0), step))


def sparse_ascent(grad: Tensor, counts: Tensor) -> Tensor:
    """Unit L1 steps (N, C, H, W) along the signs of the ``counts`` (int64 (N,), at least 1) largest entries of a row.

    Entries as large as the smallest chosen one come along; a gradient of zeros stays zero (arXiv 2103.01208).
    """
    size = grad.flatten(1).abs()
    ranked = size.topk(int(counts.amax()), 1).values
    chosen = size >= ranked.gather(1, counts[:, None] - 1)
    step = grad.flatten(1).sign().mul_(chosen)
    return step.div_(torch.linalg.vector_norm(step, ord=1, dim=1, keepdim=True).clamp_min_(1.0)).view_as(grad)


def cut_l1(delta: Tensor, x: Tensor, eps: float) -> Tensor:
    """The nearest perturbations, both (N, D), to ``delta`` of L1 length at most ``eps`` that keep ``x`` in [0, 1].

    Every entry loses the same length, and what is left stops at the border of the box (arXiv 2103.01208, section 3).
    The common loss is the root of a falling, piecewise linear function; Newton steps inside a bracket end on it after
    a few rounds. A row stands still from then on, so its result does not depend on the others.
    """
    size = delta.abs()
    room = torch.where(delta > 0, 1 - x, x)
    kept = torch.minimum(size, room)
    long = kept.sum(1) > eps
    if bool(long.any()):
        every = bool(long.all())
        kept_long = _shrunk(size if every else size[long], room if every else room[long], eps)
        if every:
            kept = kept_long
        else:
            kept[long] = kept_long
    return kept.copysign_(delta)


def _shrunk(size: Tensor, room: Tensor, eps: float) -> Tensor:
    """``size`` (N, D) less one number a row, within 0 and ``room``, so that rows that are too long sum to ``eps``."""
    low, high = size.new_zeros(len(size), 1), size.amax(1, keepdim=True)
    loss, found = low, torch.zeros_like(low, dtype=torch.bool)
    for _ in range(60):
        rest = size - loss
        kept = torch.minimum(rest.clamp_min(0), room)
        excess = kept.sum(1, keepdim=True) - eps
        low, high = torch.where(excess > 0, loss, low), torch.where(excess > 0, high, loss)
        newton = loss + excess / ((kept == rest) & (kept > 0)).sum(1, keepdim=True)
        middle = (low + high) / 2
        following = torch.where((newton > low) & (newton < high), newton, middle)
        found = found | (excess.abs() <= 1e-6 * eps) | (following == loss)
        if bool(found.all()):
            break
        loss = torch.where(found, loss, following)
    return kept.mul_((eps / kept.sum(1, keepdim=True)).clamp_max_(1.0))


class Ball:
    """All images in [0, 1] within ``eps`` of ``x`` (N, C, H, W) in ``norm`` (``Linf``, ``L2`` or ``L1``)."""

    def __init__(self, x: Tensor, norm: str, eps: float) -> None:
        self.x, self.norm, self.eps = x, norm, eps
        self._order = {"L2": 2, "L1": 1}.get(norm, 0)
        if norm == "Linf":
            self._low, self._high = (x - eps).clamp_(min=0), (x + eps).clamp_(max=1)

    def select(self, rows: Tensor) -> Ball:
        """The balls of some rows."""
        part = Ball.__new__(Ball)
        part.x, part.norm, part.eps, part._order = self.x[rows], self.norm, self.eps, self._order
        if self.norm == "Linf":
            part._low, part._high = self._low[rows], self._high[rows]
        return part

    def project_(self, points: Tensor) -> Tensor:
        """Move ``points`` into the ball: Linf and L1 to the nearest point; L2 radially, then into [0, 1].

        Clipping to [0, 1] never lengthens a perturbation, so the second step keeps the first one's promise.
        """
        if self.norm == "Linf":
            return points.clamp_(self._low, self._high)
        points.sub_(self.x)
        if self.norm == "L1":
            points.copy_(cut_l1(points.flatten(1), self.x.flatten(1), self.eps).view_as(points))
        else:
            lengths = torch.linalg.vector_norm(points.flatten(1), dim=1).clamp_min_(1e-12)
            points.mul_(per_image((self.eps / lengths).clamp_max_(1.0), points))
        points.add_(self.x).clamp_(0, 1)
        return self.settle_(points) if self._tight else points

    @property
    def _tight(self) -> bool:
        """Whether rounding the pixels may lengthen a perturbation by a share of ``eps`` that counts."""
        if not self._order:
            return False
        size: float = math.prod(self.x.shape[1:]) ** (1 / self._order)
        return PIXEL_ROUNDING * size > TIGHT * self.eps

    def settle_(self, points: Tensor) -> Tensor:
        """Undo what rounding pixels may have added to the length of ``points`` in the ball.

        It matters where ``eps`` is small beside the resolution of a pixel: the pixels of a row that is too long step
        back towards the image until it is not; a row that five steps do not bring back is the image.
        """
        if not self._order:
            return points
        for step in range(5):
            delta = (points - self.x).flatten(1).double()
            long = torch.linalg.vector_norm(delta, ord=self._order, dim=1) > self.eps * (1 + 2e-6)
            if not bool(long.any()):
                break
            points[long] = self.x[long] if step == 4 else points[long].nextafter(self.x[long])
        return points

    def sample(self, generators: ExampleGenerators, copies: int = 1) -> Tensor:
        """A random point of every ball: Linf and L2 uniform, then clipped to [0, 1]; L1 normal noise, projected.

        With ``copies`` every generator draws for as many balls that follow each other.
        """
        shape = self.x.shape[1:]
        if self.norm == "Linf":
            noise = generators.uniform((copies, *shape)).flatten(0, 1).mul_(2).sub_(1)
        elif self.norm == "L1":
            return self.project_(generators.normal((copies, *shape)).flatten(0, 1).to(self.x).add_(self.x))
        else:
            # A normal draw points in a uniform direction; u^(1/d) is the radius of a uniform point of a d-ball.
            noise = ascent(generators.normal((copies, *shape)).flatten(0, 1), "L2")
            noise.mul_(per_image(generators.uniform((copies,)).flatten().pow_(1 / shape.numel()), noise))
        return self.project_(noise.to(self.x).mul_(self.eps).add_(self.x))
