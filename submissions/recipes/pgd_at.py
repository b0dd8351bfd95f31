"""PGD adversarial training (Madry et al. 2018, arXiv 1706.06083; settings of Pang et al. 2021, arXiv 2010.00467)."""

from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from submissions.recipes.perturb import ascend, uniform_start


def loss(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    generator: torch.Generator,
    steps: int = 10,
    step_size: str = "2/255",
) -> Tensor:
    """Cross-entropy after ``steps`` signed-gradient steps from a uniform start; ``step_size`` is an exact fraction."""
    start = uniform_start(x, eps=eps, generator=generator)
    x_adv = ascend(model, x, y, start, eps=eps, step_size=float(Fraction(step_size)), steps=steps)
    return F.cross_entropy(model(x_adv), y)
