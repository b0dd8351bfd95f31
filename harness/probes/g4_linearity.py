"""G4: whether the loss is as linear inside the budget as an attack's gradients assume."""

import torch
from torch import Tensor

from harness.attacks.asking import ask
from harness.attacks.geometry import Ball, ascent, per_image
from harness.attacks.losses import LOSSES
from harness.probes.climbing import median, sensitivity
from harness.probes.probe import Probe
from harness.probes.standing import gate, sample
from harness.probes.subject import Measured, Subject

margin = LOSSES["margin"]


def measure(
    subject: Subject, *, examples: int = 48, ascent_steps: int = 10, corners: int = 8, neighbours: int = 24
) -> Measured:
    """Four numbers on clean-correct images, medians over them, with the margin loss L and its gradient g.

    ``gamma``: the largest |L(x + d) - L(x) - d.g| an ascent of ``ascent_steps`` finds (arXiv 1907.02610), over
    |L(x + d) - L(x)| + 0.1 * the median margin. ``linear_error``: mean over random corners of the budget of
    |L(x) + d.g - L(x + d)| / |L(x + d) - L(x)|.
    ``slope``: (L(x + d) - L(x)) / d.g after one full step d (Pintor et al., ESANN 2021). ``change``: mean over random
    neighbours within half the budget of |L(x + d) - L(x)| / |L(x)|, at most 1 (arXiv 2106.09947, indicator 2). Deep:
    ``examples=128, corners=16, neighbours=100``.
    """
    rows = sample(subject, subject.correct, examples)
    stop = gate(subject, rows)
    if stop is not None:
        return stop
    x, y = subject.x[rows], subject.y[rows]
    logits, grad = sensitivity(subject.model, x, y, "margin", subject.batch_size)
    value = margin(logits, y)
    scale = float(value.abs().median())
    ball = Ball(x, subject.norm, subject.eps)
    full = ball.project_(x + subject.eps * ascent(grad, subject.norm))
    predicted = _along(full - x, grad)
    slope = (_loss(subject, full, y) - value) / predicted
    slope = torch.where(predicted > 0, slope, torch.nan)
    errors, draws = [], subject.generators("g4-linearity", rows)
    for _ in range(corners):
        step = ascent(draws.uniform(x.shape[1:]).to(x) - 0.5, subject.norm)
        corner = ball.project_(x + subject.eps * step)
        moved = _loss(subject, corner, y)
        errors.append((value + _along(corner - x, grad) - moved).abs() / (moved - value).abs().clamp_min(1e-12))
    small = Ball(x, subject.norm, subject.eps / 2)
    changes = []
    for _ in range(neighbours):
        moved = _loss(subject, small.sample(draws), y)
        changes.append(((moved - value).abs() / value.abs().clamp_min(1e-12)).clamp_max(1))
    gamma = _gamma(subject, ball, y, value, grad, ascent_steps, 0.1 * scale)
    return Measured(
        {
            "applicable": True, "examples": len(rows), "gamma": median(gamma), "slope": median(slope),
            "no_slope": float(slope.isnan().float().mean()), "linear_error": median(torch.stack(errors).mean(0)),
            "change": median(torch.stack(changes).mean(0)), "margin": scale,
        }
    )  # fmt: skip


def _loss(subject: Subject, points: Tensor, y: Tensor) -> Tensor:
    return margin(ask(subject.model, points, subject.batch_size), y)


def _along(delta: Tensor, grad: Tensor) -> Tensor:
    return (delta * grad).flatten(1).sum(1)


def _gamma(
    subject: Subject, ball: Ball, y: Tensor, value: Tensor, grad: Tensor, steps: int, guard: float
) -> Tensor:  # fmt: skip
    """The largest relative violation of linearity met on the way up it, (N,)."""
    point = ball.sample(subject.generators("g4-gamma", torch.arange(len(y))))
    worst = torch.zeros_like(value)
    for _ in range(steps):
        logits, there = sensitivity(subject.model, point, y, "margin", subject.batch_size)
        moved = margin(logits, y)
        gap = moved - value - _along(point - ball.x, grad)
        worst = torch.maximum(worst, gap.abs() / ((moved - value).abs() + guard).clamp_min(1e-12))
        uphill = per_image(gap.sign(), point) * (there - grad)
        point = ball.project_(point + subject.eps / 4 * ascent(uphill, subject.norm))
    return worst


PROBE = Probe("g4-linearity", measure, 1)
