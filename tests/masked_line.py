"""A linear classifier whose robustness has a closed form, and ways to hide it from gradients."""

from __future__ import annotations

import math

import torch
from attack_models import SHAPE, images
from torch import Tensor, nn
from torch.nn import functional as F

EPS = 0.03


class Line(nn.Module):
    """A linear classifier: what it withstands in Linf has a closed form."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(math.prod(SHAPE), 10)
        with torch.no_grad():
            self.linear.weight.copy_(torch.randn(self.linear.weight.shape, generator=torch.Generator().manual_seed(3)))
            self.linear.weight.div_(8)
            self.linear.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.linear((x - 0.5).flatten(1))


BASE = Line().eval().requires_grad_(False)
# Random images moved towards a class by 0 to 0.09, so that about half of them withstand the budget.
X = images(64, seed=4) + torch.linspace(0, 0.09, 64).view(-1, 1, 1, 1) * BASE.linear.weight[
    torch.arange(64) % 10
].sign().view(64, *SHAPE)
Y = BASE(X).argmax(1)


def true_robust() -> Tensor:
    """bool (64,): the exact Linf distance to the boundary is above ``EPS``."""
    z, w = BASE(X).double(), BASE.linear.weight.double()
    gap = z.gather(1, Y[:, None]) - z
    reach = (w[Y][:, None] - w[None]).abs().sum(2)
    return (gap / reach).scatter(1, Y[:, None], math.inf).amin(1) > EPS


class Wrapped(nn.Module):
    def __init__(self, rule: str) -> None:
        super().__init__()
        self.inner, self.rule = Line(), rule

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self, f"_{self.rule}")(x)

    def _scale(self, x: Tensor) -> Tensor:
        return 1000 * self.inner(x)

    def _softmax(self, x: Tensor) -> Tensor:
        return (30 * self.inner(x)).softmax(1)

    def _detach(self, x: Tensor) -> Tensor:
        return self.inner(x.detach()) + 0 * x.flatten(1).sum(1, keepdim=True)

    def _killer(self, x: Tensor) -> Tensor:
        return self.inner(Killer.apply(x))

    def _flip(self, x: Tensor) -> Tensor:
        x = x * 1
        if x.requires_grad:
            x.register_hook(lambda grad: -grad)
        return self.inner(x)

    def _noise(self, x: Tensor) -> Tensor:
        x = x * 1
        if x.requires_grad:
            x.register_hook(
                lambda grad: grad + 10 * grad.flatten(1).norm(dim=1).view(-1, 1, 1, 1) * torch.randn_like(grad)
            )
        return self.inner(x)

    def _tanh(self, x: Tensor) -> Tensor:
        z = self.inner(x)
        return 10 * torch.tanh(z / 0.005) + 1e-3 * z.detach()

    def _onehot(self, x: Tensor) -> Tensor:
        z = self.inner(x)
        return 10 * F.one_hot(z.argmax(1), 10).float() + 0 * z

    def _rounding(self, x: Tensor) -> Tensor:
        z = self.inner(x)
        return (z.softmax(1) * 20).round() / 20 + 1e-4 * z.detach()


class Whole(Wrapped):
    """The same without a part that maps images to logits: what changes them stands in the network's own forward."""

    def __init__(self, rule: str) -> None:
        nn.Module.__init__(self)
        self.linear, self.rule = Line().linear, rule

    def inner(self, x: Tensor) -> Tensor:
        return self.linear((x - 0.5).flatten(1))


class Killer(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return torch.zeros_like(grad)


RULES = ("scale", "softmax", "detach", "killer", "flip", "noise", "tanh", "onehot", "rounding")
