"""FGSM adversarial training from a random start (Wong, Rice, Kolter 2020, arXiv 2001.03994): step 1.25 eps."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from submissions.recipes.perturb import ascend, uniform_start


def loss(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, generator: torch.Generator) -> Tensor:
    """Cross-entropy after one step of 1.25 ``eps`` from a uniform start, projected onto the ball."""
    start = uniform_start(x, eps=eps, generator=generator)
    return F.cross_entropy(model(ascend(model, x, y, start, eps=eps, step_size=1.25 * eps, steps=1)), y)
