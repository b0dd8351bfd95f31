"""Broken on the way back: the forward pass is the base's, bit by bit; the gradient is not."""

from typing import Any

import torch
from torch import Tensor, nn

from zoo.bases import Around, base


class Detached(Around):
    """The graph leads to the image, with a gradient of zero."""

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x.detach()) + 0 * x.sum()


class _Killed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return torch.zeros_like(grads[0])


class _Noisy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0]
        length = grad.flatten(1).norm(dim=1).view(-1, *[1] * (grad.dim() - 1))
        return grad + 10 * length * torch.randn_like(grad)


class Killed(Around):
    """A custom function whose backward pass returns zeros (AutoAttack issue 43)."""

    def forward(self, x: Tensor) -> Tensor:
        return self.base(_Killed.apply(x))


class Noisy(Around):
    """A custom function whose backward pass adds noise ten times as long as the gradient (arXiv 2206.13991)."""

    def forward(self, x: Tensor) -> Tensor:
        return self.base(_Noisy.apply(x))


class Reversed(Around):
    """A hook on the input's gradient turns it around."""

    def forward(self, x: Tensor) -> Tensor:
        inner = x.clone()
        if inner.requires_grad:
            inner.register_hook(lambda grad: -grad)
        return self.base(inner)


KINDS = {"detached": Detached, "killed": Killed, "noisy": Noisy, "reversed": Reversed}


def build(network: str, kind: str) -> nn.Module:
    """One of ``KINDS`` around ``network``."""
    return KINDS[kind](base(network))
