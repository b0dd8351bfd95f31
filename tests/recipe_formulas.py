"""Random tensors and small formulas that the tests of the recipes share."""

import math

import torch
from torch import nn


def images(count: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(count, 3, 32, 32), torch.randint(0, 10, (count,))


def draws(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def probabilities(logits: torch.Tensor) -> list[list[float]]:
    powers = [[math.exp(value) for value in row] for row in logits.tolist()]
    return [[value / sum(row) for value in row] for row in powers]


class Smooth(nn.Module):
    """A small smooth network in float64, so that finite differences are exact."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 3, 2).double(), nn.Linear(4 * 9, 10).double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 4 * self.linear(torch.tanh(self.conv(x)).flatten(1))
