"""Norm balls around images: projection, steepest ascent, random points."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.attacks.randomness import ExampleGenerators

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

    Linf: the sign. L2: the gradient over its norm, scaled by its largest entry first so that nothing underflows.
    """
    if norm == "Linf":
        return grad.sign()
    largest = grad.flatten(1).abs().amax(1)
    if not bool(largest.isfinite().all()):
        grad = finite(grad)
        largest = grad.flatten(1).abs().amax(1)
    step = grad / per_image(torch.where(largest > 0, largest, 1.0), grad)
    # At least one entry is 1 now, unless all are 0.
    return step.div_(per_image(torch.linalg.vector_norm(step.flatten(1), dim=1).clamp_min_(1.0), step))


class Ball:
    """All images in [0, 1] within ``eps`` of ``x`` (N, C, H, W) in ``norm`` (``Linf`` or ``L2``)."""

    def __init__(self, x: Tensor, norm: str, eps: float) -> None:
        self.x, self.norm, self.eps = x, norm, eps
        if norm == "Linf":
            self._low, self._high = (x - eps).clamp_(min=0), (x + eps).clamp_(max=1)

    def select(self, rows: Tensor) -> Ball:
        """The balls of some rows."""
        part = Ball.__new__(Ball)
        part.x, part.norm, part.eps = self.x[rows], self.norm, self.eps
        if self.norm == "Linf":
            part._low, part._high = self._low[rows], self._high[rows]
        return part

    def project_(self, points: Tensor) -> Tensor:
        """Move ``points`` into the ball: Linf to the nearest point; L2 radially, then into [0, 1].

        Clipping to [0, 1] never lengthens a perturbation, so the second step keeps the first one's promise.
        """
        if self.norm == "Linf":
            return points.clamp_(self._low, self._high)
        points.sub_(self.x)
        lengths = torch.linalg.vector_norm(points.flatten(1), dim=1).clamp_min_(1e-12)
        return points.mul_(per_image((self.eps / lengths).clamp_max_(1.0), points)).add_(self.x).clamp_(0, 1)

    def sample(self, generators: ExampleGenerators) -> Tensor:
        """A point drawn uniformly from every ball, then clipped to [0, 1]."""
        shape = self.x.shape[1:]
        if self.norm == "Linf":
            noise = generators.uniform(shape).mul_(2).sub_(1)
        else:
            # A normal draw points in a uniform direction; u^(1/d) is the radius of a uniform point of a d-ball.
            noise = ascent(generators.normal(shape), "L2")
            noise.mul_(per_image(generators.uniform(()).pow_(1 / shape.numel()), noise))
        return self.project_(noise.to(self.x).mul_(self.eps).add_(self.x))
