"""TRADES (Zhang et al. 2019, arXiv 1901.08573): accuracy at the image, agreement in its neighbourhood."""

from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from submissions.recipes.perturb import ascend_from_clean, divergence, normal_start


def objective(model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor, beta: float) -> Tensor:
    """Mean of CE(x, y) + ``beta`` KL(p(x) || p(x_adv)); gradients flow through both sides of the divergence."""
    logits, logits_adv = model(x), model(x_adv)
    return F.cross_entropy(logits, y) + beta * divergence(logits, logits_adv).mean()


def loss(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    generator: torch.Generator,
    beta: float = 6.0,
    steps: int = 10,
    step_size: str = "0.007",
) -> Tensor:
    """``objective`` at the point ``steps`` ascents of the divergence lead to from a small Gaussian start."""
    start = normal_start(x, generator=generator)
    x_adv = ascend_from_clean(model, x, start, eps=eps, step_size=float(Fraction(step_size)), steps=steps)
    return objective(model, x, x_adv, y, beta)
