"""FGSM adversarial training without a random start (Goodfellow et al. 2014, arXiv 1412.6572).

Half of the loss is on the images themselves, half on images moved by one signed-gradient step as long as ``eps``.
Without an early stop it ends in catastrophic overfitting and label leaking (Kurakin et al. 2016, arXiv 1611.01236;
Andriushchenko & Flammarion 2020, arXiv 2007.02617): robust against FGSM, not against more steps.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from submissions.recipes.perturb import ascend


def loss(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, generator: torch.Generator) -> Tensor:
    """Mean of the cross-entropies at the image and at one full signed-gradient step from it."""
    x_adv = ascend(model, x, y, x, eps=eps, step_size=eps, steps=1)
    logits, logits_adv = model(torch.cat([x, x_adv])).chunk(2)
    return (F.cross_entropy(logits, y) + F.cross_entropy(logits_adv, y)) / 2
