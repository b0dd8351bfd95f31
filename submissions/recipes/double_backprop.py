"""Double backpropagation (Drucker & LeCun 1992): a penalty on the gradient of the loss with respect to the image."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def loss(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, generator: torch.Generator, weight: float = 1.0
) -> Tensor:
    """Cross-entropy plus ``weight`` times the mean over the images of the squared L2 norm of its input gradient.

    The gradient is that of an image's own cross-entropy, in units of loss per pixel value in [0, 1]; ``eps`` and
    ``generator`` are not used.
    """
    x = x.detach().requires_grad_(True)
    value = F.cross_entropy(model(x).float(), y)
    (gradient,) = torch.autograd.grad(value * len(x), x, create_graph=True)
    return value + weight * gradient.float().square().sum(dim=(1, 2, 3)).mean()
