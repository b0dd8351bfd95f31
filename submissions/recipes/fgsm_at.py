"""FGSM adversarial training without a random start (Goodfellow et al. 2014, arXiv 1412.6572).

With a step as long as ``eps`` and no early stop it ends in catastrophic overfitting (Wong et al. 2020, arXiv
2001.03994; Andriushchenko & Flammarion 2020, arXiv 2007.02617): robust against FGSM, not against more steps.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from submissions.recipes.perturb import ascend


def loss(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, generator: torch.Generator) -> Tensor:
    """Cross-entropy at one full signed-gradient step of length ``eps`` from the image itself."""
    return F.cross_entropy(model(ascend(model, x, y, x, eps=eps, step_size=eps, steps=1)), y)
