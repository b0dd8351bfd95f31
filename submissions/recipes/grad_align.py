"""FGSM adversarial training with gradient alignment (Andriushchenko & Flammarion 2020, arXiv 2007.02617).

The penalty asks the input gradient to point the same way at the image and at a random point of the ball around it,
which keeps one-step training from catastrophic overfitting. As in the authors' code the gradient at the image serves
both the attack and the penalty, so it is taken with BatchNorm in training mode. The penalty is the paper's formula,
differentiated through both gradients; the authors' code leaves out the one at the image.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def input_gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Gradient of each image's cross-entropy at ``x`` (N, 3, H, W), differentiable in the weights."""
    point = x.detach().requires_grad_(True)
    value = F.cross_entropy(model(point).float(), y, reduction="sum")
    (gradient,) = torch.autograd.grad(value, point, create_graph=True)
    return gradient.float()


def misalignment(here: Tensor, there: Tensor) -> Tensor:
    """1 - cosine of two gradients (N, 3, H, W) of an image, the mean over the images."""
    return (1 - F.cosine_similarity(here.flatten(1), there.flatten(1), dim=1, eps=1e-12)).mean()


def loss(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, generator: torch.Generator, weight: float = 0.2
) -> Tensor:
    """Cross-entropy after one full signed-gradient step from the image, plus ``weight`` times ``misalignment``.

    The random point, uniform in the ball of ``eps``, is not clipped to [0, 1], as in the authors' code.
    """
    noise = torch.rand(x.shape, generator=generator).to(x.device).mul_(2 * eps).sub_(eps)
    here, there = input_gradient(model, x, y), input_gradient(model, x + noise, y)
    x_adv = (x + eps * here.detach().sign()).clamp(0, 1)
    return F.cross_entropy(model(x_adv), y) + weight * misalignment(here, there)
