"""Adversarial logit pairing (Kannan et al. 2018, arXiv 1803.06373), with the images' own loss kept.

The squared distance of the logits is averaged over batch and classes (``reduction = "mean"``, as in the RCM paper's
code) or summed over the classes (``"sum"``), which is the same term with ten times the weight on CIFAR-10.
"""

from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from submissions.recipes.perturb import ascend, uniform_start


def pairing(logits: Tensor, logits_adv: Tensor, reduction: str) -> Tensor:
    """Squared distance of logits (N, C), the mean over N and, as ``reduction`` says, the mean or sum over C."""
    if reduction not in {"mean", "sum"}:
        raise ValueError(f"reduction: expected 'mean' or 'sum', got {reduction!r}")
    square = (logits.float() - logits_adv.float()).square()
    return square.mean() if reduction == "mean" else square.sum(1).mean()


def loss(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    generator: torch.Generator,
    weight: float = 0.5,
    reduction: str = "mean",
    steps: int = 10,
    step_size: str = "2/255",
) -> Tensor:
    """Cross-entropy at the image and at its PGD example, plus ``weight`` times the pairing of their logits."""
    start = uniform_start(x, eps=eps, generator=generator)
    x_adv = ascend(model, x, y, start, eps=eps, step_size=float(Fraction(step_size)), steps=steps)
    logits, logits_adv = model(x), model(x_adv)
    paired = pairing(logits, logits_adv, reduction)
    return F.cross_entropy(logits, y) + F.cross_entropy(logits_adv, y) + weight * paired
