"""Networks whose robustness is known exactly, for every test of an attack.

``linear_problem``: linear models with the exact distance to the decision boundary inside the box [0, 1].
``relu_problem``: tiny ReLU networks and whether each image has an adversarial example, decided by mixed-integer
programs. All truths are computed in float64; ``perturbation`` lengths are in the norm named.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from torch import Tensor, nn

LINEAR_SHAPE, RELU_SHAPE = (3, 8, 8), (1, 5, 5)


class Affine(nn.Module):
    """Logits W (x - 1/2) + b."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) - 0.5) @ self.weight.T.to(x.dtype) + self.bias.to(x.dtype)


class LinearProblem(NamedTuple):
    """A linear model, images (N, 3, 8, 8), their labels, and how far away the nearest misclassified image is."""

    model: Affine
    x: Tensor
    y: Tensor
    distances: Tensor
    """float64 (N,): the smallest perturbation in the norm that keeps pixels in [0, 1]; inf where there is none."""

    def eps(self, share: float = 0.5, *, clearance: float = 1e-3) -> float:
        """A budget that breaks about ``share`` of the images and that no distance is closer to than ``clearance``."""
        ordered = self.distances[self.distances.isfinite()].sort().values
        at = min(max(int(share * len(self.distances)), 1), len(ordered) - 1)
        for shift in range(len(ordered)):
            for place in (at - shift, at + shift):
                if 0 < place < len(ordered) and ordered[place] > ordered[place - 1] * (1 + 3 * clearance):
                    return float((ordered[place] * ordered[place - 1]).sqrt())
        raise AssertionError("expected a gap between the distances, got none")


def linear_problem(
    classes: int, norm: str, seed: int, *, n: int = 30, low: float = 0.0, high: float = 1.0, scale: float = 1.0
) -> LinearProblem:
    """``n`` images with pixels in [``low``, ``high``]; with the whole range the box binds, with [0.4, 0.6] seldom."""
    generator = torch.Generator().manual_seed(seed)
    size = int(np.prod(LINEAR_SHAPE))
    weight = scale * torch.randn(classes, size, generator=generator) / size**0.5
    model = Affine(weight, scale * 0.05 * torch.randn(classes, generator=generator))
    x = low + (high - low) * torch.rand(n, *LINEAR_SHAPE, generator=generator)
    y = model(x).argmax(1)
    return LinearProblem(model, x, y, linear_distances(model, x, y, norm))


def linear_distances(model: Affine, x: Tensor, y: Tensor, norm: str) -> Tensor:
    """The exact distance of every image, float64 (N,): the smallest over all other classes."""
    weight, bias = model.weight.double().numpy(), model.bias.double().numpy()
    rows = x.flatten(1).double().numpy()
    distances = []
    for row, label in zip(rows, y.tolist(), strict=True):
        logits = weight @ (row - 0.5) + bias
        others = [k for k in range(len(logits)) if k != label]
        distances.append(
            min(halfspace_distance(weight[k] - weight[label], row, logits[label] - logits[k], norm) for k in others)
        )
    return torch.tensor(distances, dtype=torch.float64)


def halfspace_distance(slope: np.ndarray, x: np.ndarray, gap: float, norm: str) -> float:
    """Length of the shortest d with slope . d = ``gap`` (at least 0) and x + d in [0, 1]; inf without one.

    Every pixel moves the way of its slope until it meets the border. In Linf all move by the same t; in L2 in
    proportion to their slopes, t |slope|; in L1 one after the other, the steepest first. What they gain grows
    piecewise linearly with t (L1: with the length), with a bend wherever a pixel stops.
    """
    room, steep = np.where(slope > 0, 1 - x, x), np.abs(slope)
    room, steep = room[steep > 0], steep[steep > 0]
    if steep @ room < gap:
        return float("inf")
    if norm == "L1":
        order = np.argsort(-steep)
        gains = np.concatenate([[0], np.cumsum((steep * room)[order])])
        lengths = np.concatenate([[0], np.cumsum(room[order])])
        return float(np.interp(gap, gains, lengths))
    speed = np.ones_like(steep) if norm == "Linf" else steep
    order = np.argsort(room / speed)
    stops = (room / speed)[order]
    stopped, going = np.cumsum((steep * room)[order]), np.cumsum((steep * speed)[order])
    gains = np.concatenate([[0], stopped + stops * (going[-1] - going)])
    t = float(np.interp(gap, gains, np.concatenate([[0], stops])))
    return t if norm == "Linf" else float(np.linalg.norm(np.minimum(t * speed, room)))


class TinyReLU(nn.Module):
    """Logits V relu(W (x - 1/2) + b) + c, one hidden layer."""

    def __init__(self, first: Tensor, bias: Tensor, last: Tensor, out: Tensor) -> None:
        super().__init__()
        for name, value in (("first", first), ("bias", bias), ("last", last), ("out", out)):
            self.register_buffer(name, value)

    def forward(self, x: Tensor) -> Tensor:
        hidden = ((x.flatten(1) - 0.5) @ self.first.T.to(x.dtype) + self.bias.to(x.dtype)).relu()
        return hidden @ self.last.T.to(x.dtype) + self.out.to(x.dtype)


class ReLUProblem(NamedTuple):
    """A ReLU network, images (N, 1, 5, 5), their labels, and whether each has an adversarial example."""

    model: TinyReLU
    x: Tensor
    y: Tensor
    exists: Tensor
    """bool (N,): whether an image of [0, 1] within ``eps`` is misclassified."""
    eps: float
    margins: Tensor
    """float64 (N,): the highest margin (largest other logit minus the label's) in the ball; never close to 0."""


def relu_problem(
    seed: int, *, norm: str = "Linf", eps: float | None = None, n: int = 16, hidden: int = 6, classes: int = 3
) -> ReLUProblem:
    """``n`` images whose best margin is clearly on one side of 0; ``norm`` is Linf or L1."""
    generator = torch.Generator().manual_seed(seed)
    size = int(np.prod(RELU_SHAPE))

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    model = TinyReLU(
        2 * normal(hidden, size) / size**0.5, 0.4 + 0.4 * normal(hidden), normal(classes, hidden), 0.2 * normal(classes)
    )
    eps = {"Linf": 0.05, "L1": 0.4}[norm] if eps is None else eps
    x = torch.rand(n + 4, *RELU_SHAPE, generator=generator)
    y = model(x).argmax(1)
    margins = torch.tensor([highest_margin(model, row, int(label), norm, eps) for row, label in zip(x, y, strict=True)])
    clear = (margins.abs() > 1e-3).nonzero().squeeze(1)[:n]
    return ReLUProblem(model, x[clear], y[clear], margins[clear] > 0, eps, margins[clear])


@dataclass(frozen=True)
class _Region:
    """The images within the budget as linear constraints on the variables (x, and in L1 the sizes of the changes)."""

    low: np.ndarray
    high: np.ndarray
    matrix: np.ndarray
    """``matrix @ variables <= limit``."""
    limit: np.ndarray


def _region(x: np.ndarray, norm: str, eps: float) -> _Region:
    n = len(x)
    if norm == "Linf":
        return _Region(np.maximum(x - eps, 0), np.minimum(x + eps, 1), np.zeros((0, n)), np.zeros(0))
    unit = np.eye(n)
    matrix = np.block([[unit, -unit], [-unit, -unit], [np.zeros((1, n)), np.ones((1, n))]])
    low, high = np.concatenate([np.zeros(n), np.zeros(n)]), np.concatenate([np.ones(n), np.full(n, eps)])
    return _Region(low, high, matrix, np.concatenate([x, -x, [eps]]))


def highest_margin(model: TinyReLU, x: Tensor, label: int, norm: str, eps: float) -> float:
    """The highest margin of any image in the ball and the box, by one mixed-integer program for each other class.

    A hidden unit h = relu(a) with bounds l <= a <= u is h >= a, h >= 0, h <= a - l (1 - s), h <= u s with s in {0, 1}.
    """
    first, bias, last, out, centre = _arrays(model, x)
    region = _region(centre, norm, eps)
    variables, hidden = len(region.low), len(bias)
    weight = np.zeros((hidden, variables))
    weight[:, : len(centre)] = first
    low, high = _bounds(first, bias, centre, norm, eps)
    unit, none = np.eye(hidden), np.zeros((hidden, hidden))
    matrix = np.block(
        [
            [region.matrix, np.zeros((len(region.limit), 2 * hidden))],
            [weight, -unit, none],
            [-weight, unit, np.diag(-np.minimum(low, 0))],
            [np.zeros((hidden, variables)), unit, np.diag(-np.maximum(high, 0))],
        ]
    )
    limit = np.concatenate([region.limit, -bias, bias - np.minimum(low, 0), np.zeros(hidden)])
    box = Bounds(
        np.concatenate([region.low, np.zeros(2 * hidden)]),
        np.concatenate([region.high, np.maximum(high, 0), np.ones(hidden)]),
    )
    whole = np.concatenate([np.zeros(variables + hidden), np.ones(hidden)])
    margins = []
    for k in range(len(out)):
        if k != label:
            gain = np.concatenate([np.zeros(variables), last[k] - last[label], np.zeros(hidden)])
            solved = milp(-gain, constraints=LinearConstraint(matrix, ub=limit), bounds=box, integrality=whole)
            assert solved.success, solved.message
            margins.append(-solved.fun + out[k] - out[label])
    return float(max(margins))


def highest_margin_by_patterns(model: TinyReLU, x: Tensor, label: int, norm: str, eps: float) -> float:
    """The same by one linear program for each activation pattern and other class: slow, no binary variables."""
    first, bias, last, out, centre = _arrays(model, x)
    region = _region(centre, norm, eps)
    weight = np.zeros((len(bias), len(region.low)))
    weight[:, : len(centre)] = first
    low, high = _bounds(first, bias, centre, norm, eps)
    choices = [[s for s in (0, 1) if (high[i] >= 0 if s else low[i] <= 0)] for i in range(len(bias))]
    margins = []
    for pattern in itertools.product(*choices):
        on = np.array(pattern)
        sign = (1 - 2 * on)[:, None]
        matrix, limit = np.vstack([region.matrix, sign * weight]), np.concatenate([region.limit, -sign[:, 0] * bias])
        for k in range(len(out)):
            if k != label:
                slope = (last[k] - last[label]) * on
                solved = linprog(
                    -(slope @ weight), matrix, limit, bounds=list(zip(region.low, region.high, strict=True))
                )
                if solved.success:
                    margins.append(-solved.fun + slope @ bias + out[k] - out[label])
    return float(max(margins))


def _arrays(model: TinyReLU, x: Tensor) -> tuple[np.ndarray, ...]:
    """The weights in terms of x rather than x - 1/2, and the image, flat; float64."""
    first, bias, last, out = (value.double().numpy() for value in (model.first, model.bias, model.last, model.out))
    return first, bias - 0.5 * first.sum(1), last, out, x.flatten().double().numpy()


def _bounds(first: np.ndarray, bias: np.ndarray, x: np.ndarray, norm: str, eps: float) -> tuple[np.ndarray, np.ndarray]:
    """Bounds on every hidden unit's input over the region, a little too wide."""
    down, up = np.minimum(x, eps), np.minimum(1 - x, eps)
    rise, fall = (np.maximum(first * up, -first * down).sum(1), np.maximum(-first * up, first * down).sum(1))
    if norm == "L1":
        steepest = eps * np.abs(first).max(1)
        rise, fall = np.minimum(rise, steepest), np.minimum(fall, steepest)
    middle = first @ x + bias
    return middle - fall - 1e-6, middle + rise + 1e-6
