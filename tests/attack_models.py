"""Networks whose robustness is known, or that misbehave in one known way, for the tests of the attacks."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.attacks import ATTACKS

SHAPE = (3, 8, 8)
DUAL = {"Linf": 1.0, "L2": 2.0, "L1": math.inf}
ORDER = {"Linf": math.inf, "L2": 2.0, "L1": 1.0}


def images(n: int, *, seed: int = 1, low: float = 0.4, high: float = 0.6) -> Tensor:
    """Random images away from the borders of the box."""
    return low + (high - low) * torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(seed))


def distance(x_adv: Tensor, x: Tensor, norm: str) -> Tensor:
    return torch.linalg.vector_norm((x_adv.double() - x.double()).flatten(1), ord=ORDER[norm], dim=1)


class Linear(nn.Module):
    """Logits W(x - 1/2) + b: the distance to its decision boundary has a closed form."""

    def __init__(self, classes: int = 10, seed: int = 0, scale: float = 1.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        n = math.prod(SHAPE)
        self.weight = scale * torch.randn(classes, n, generator=generator) / n**0.5
        self.bias = scale * 0.05 * torch.randn(classes, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) - 0.5) @ self.weight.T + self.bias

    def exact_distance(self, x: Tensor, y: Tensor, norm: str) -> Tensor:
        """min over k of (z_y - z_k) / |W_y - W_k|, in the dual norm; float64 (N,)."""
        logits, weight = self(x).double(), self.weight.double()
        gaps = logits.gather(1, y[:, None]) - logits
        norms = torch.linalg.vector_norm(weight[y][:, None] - weight[None], ord=DUAL[norm], dim=2)
        return (gaps / norms).scatter(1, y[:, None], math.inf).amin(1)

    def eps_between(self, x: Tensor, y: Tensor, norm: str) -> float:
        """A budget that breaks about half of the images and that none of them lies close to."""
        ordered = self.exact_distance(x, y, norm).sort().values
        middle = ordered[len(ordered) // 3 : 2 * len(ordered) // 3]
        best = int((middle[1:] / middle[:-1]).argmax())
        return float((middle[best] * middle[best + 1]) ** 0.5)


class RowByRow(nn.Module):
    """A small convolutional network that looks at one image at a time, so that batching cannot change a single bit."""

    def __init__(self, classes: int = 10, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.first = torch.randn(8, 3, 3, 3, generator=generator) / 27**0.5
        self.second = torch.randn(8, 8, 3, 3, generator=generator) / 72**0.5
        self.last = torch.randn(classes, 8 * 16, generator=generator) / 128**0.5
        self.queries: list[Tensor] = []

    def _one(self, x: Tensor) -> Tensor:
        h = F.elu(F.conv2d(4 * (x - 0.5), self.first, padding=1))
        h = F.elu(F.conv2d(h, self.second, stride=2, padding=1))
        return 3 * h.flatten(1) @ self.last.T

    def forward(self, x: Tensor) -> Tensor:
        self.queries.append(x.detach().clone())
        return torch.cat([self._one(row[None]) for row in x])


class TinyCNN(nn.Module):
    """Trained in seconds."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 12, 5, 2, 2), nn.SiLU(), nn.Conv2d(12, 24, 3, 2, 1), nn.SiLU(), nn.Conv2d(24, 24, 3, 2, 1),
            nn.SiLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(96, classes),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(4 * (x - 0.5))
        return out


def shifted(x: Tensor, y: Tensor, copies: int) -> tuple[Tensor, Tensor]:
    """``copies`` versions of every image, mirrored and moved by a few pixels."""
    parts = [
        torch.roll(x if copy % 2 else x.flip(3), (copy // 2 % 3 - 1, copy // 6 - 1), (2, 3)) for copy in range(copies)
    ]
    return torch.cat(parts), y.repeat(copies)


def trained(x: Tensor, y: Tensor, *, steps: int = 150, seed: int = 0) -> TinyCNN:
    """A ``TinyCNN`` fitted to shifted copies of a few images, frozen, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = TinyCNN()
        optimiser = torch.optim.Adam(model.parameters(), 5e-3)
        x, y = shifted(x, y, 6)
        for _ in range(steps):
            rows = torch.randint(len(x), (64,))
            loss = F.cross_entropy(model(x[rows]), y[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return model.eval().requires_grad_(False)


QUICK = {
    "apgd-ce": {"steps": 8}, "apgd-t": {"steps": 8, "targets": 2}, "fab-t": {"steps": 8, "targets": 2},
    "apgd-dlr": {"steps": 8}, "budget": {"steps": 4, "fractions": [0.5, 1.0]},
    "square": {"queries": 20}, "pgd": {"steps": 6, "restarts": 2}, "deepfool": {"steps": 6},
}  # fmt: skip
"""Parameters that make an attack short."""


def run(name, model, x, y, *, eps=0.01, norm="Linf", generator=None, **params):
    return ATTACKS.get(name).run(model, x, y, eps=eps, norm=norm, generator=generator, **QUICK.get(name, {}) | params)
