"""Networks for images (3, 8, 8) that the tests of a network's other forms wrap and ask."""

import torch
from torch import nn

from harness.models import WorkerOptions

PLAIN = WorkerOptions(optimise=False, image_shape=(3, 8, 8))


class Base(nn.Module):
    """A smooth network for images (3, 8, 8)."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv = nn.Conv2d(3, 6, 3, padding=1)
            self.linear = nn.Linear(6 * 64, 5)

    def forward(self, x):
        return self.linear(nn.functional.silu(self.conv(x - 0.5)).flatten(1))


class Wrapped(nn.Module):
    def __init__(self, call, **parts) -> None:
        super().__init__()
        self.f = Base()
        self.call = call
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.call(self, x)


def gradient_of(model, x, weights):
    leaf = x.clone().requires_grad_()
    logits = model(leaf)
    (gradient,) = torch.autograd.grad((logits * weights).sum(), leaf)
    return logits.detach(), gradient


def cosine(one, other):
    return float(torch.cosine_similarity(one.flatten(1), other.flatten(1)).mean())
