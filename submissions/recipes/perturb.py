"""Inner maximisation shared by the adversarial recipes: BatchNorm in evaluation mode, parameters frozen."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@contextmanager
def attackable(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and frozen parameters inside the block; both restored after it."""
    training = model.training
    model.eval().requires_grad_(False)
    try:
        yield
    finally:
        model.train(training).requires_grad_(True)


def ascend(
    model: nn.Module, x: Tensor, y: Tensor, start: Tensor, *, eps: float, step_size: float, steps: int
) -> Tensor:
    """Signed-gradient ascent on the cross-entropy from ``start`` within the Linf ball of ``eps`` around ``x``."""
    x_adv = start
    with attackable(model):
        for _ in range(steps):
            x_adv = x_adv.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(F.cross_entropy(model(x_adv), y, reduction="sum"), x_adv)
            moved = x_adv.detach() + step_size * gradient.sign()
            x_adv = (x + (moved - x).clamp(-eps, eps)).clamp(0, 1)
    return x_adv.detach()


def uniform_start(x: Tensor, *, eps: float, generator: torch.Generator) -> Tensor:
    """``x`` plus uniform noise of the Linf ball of ``eps``, clipped to [0, 1]."""
    noise = torch.rand(x.shape, generator=generator).to(x.device).mul_(2 * eps).sub_(eps)
    return (x + noise).clamp(0, 1)
