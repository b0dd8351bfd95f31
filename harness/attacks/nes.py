"""Gradients estimated from answers alone: natural evolution strategies."""

import torch
from torch import Tensor, nn

from harness.attacks.asking import ask, reveal
from harness.attacks.geometry import Ball, ascent
from harness.attacks.inputs import check_batch, check_count, check_labels, check_norm, check_positive
from harness.attacks.losses import margin
from harness.attacks.randomness import ExampleGenerators

NORMS = ("Linf", "L2")


def nes(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str = "Linf",
    steps: int = 20,
    queries: int = 64,
    sigma: float | None = None,
    step_size: float | None = None,
    momentum: float = 0.5,
    generator: ExampleGenerators | torch.Generator | None = None,
    batch_size: int | None = None,
) -> Tensor:
    """PGD whose gradient is estimated from ``queries`` answers a step (Ilyas et al. 2018, arXiv 1804.08598).

    ``x`` is float (N, C, H, W) in [0, 1], ``y`` int64 (N,), ``model`` maps images to logits (N, K) and is asked for
    no gradient. The estimate is the mean of u (L(x + sigma u) - L(x - sigma u)) over antithetic normal pairs, L the
    margin; ``sigma`` is ``eps / 8`` in Linf and spread over the pixels in L2. Estimates are averaged over the steps
    with ``momentum``. ``step_size`` is ``eps / 5`` by default, and the climb begins at the image.

    The answer lies within ``eps`` of ``x``; the first misclassified iterate or question inside is returned, else the
    last iterate. Raises ``UserError`` for arguments out of range.
    """
    check_batch("nes", x, y)
    check_norm("nes", norm, NORMS)
    check_count("nes", steps=steps)
    check_count("nes", least=2, queries=queries)
    spread = eps / 8 if norm == "Linf" else eps / (2 * max(1, x[:1].numel()) ** 0.5)
    sigma, step_size = spread if sigma is None else sigma, eps / 5 if step_size is None else step_size
    check_positive("nes", eps=eps, sigma=sigma, step_size=step_size)
    x_adv = x.detach().clone()
    if not len(x):
        return x_adv
    logits = ask(model, x_adv, batch_size)
    check_labels("nes", logits, y)
    rows = (~reveal(model, x_adv, logits, y, batch_size)).nonzero().squeeze(1)
    generators, mean = ExampleGenerators.of(generator, len(x)), torch.zeros_like(x_adv)
    for _ in range(steps):
        if not len(rows):
            break
        ball = Ball(x.detach()[rows], norm, eps)
        noise = generators.select(rows).normal((queries // 2, *x.shape[1:])).to(x)
        estimate = _estimate(model, x_adv[rows], y[rows], noise, sigma, batch_size)
        mean[rows] = momentum * mean[rows] + (1 - momentum) * estimate
        x_adv[rows] = ball.project_(x_adv[rows] + step_size * ascent(mean[rows], norm))
        fooled = reveal(model, x_adv[rows], ask(model, x_adv[rows], batch_size), y[rows], batch_size)
        rows = rows[~fooled]
    return x_adv


def _estimate(
    model: nn.Module, x: Tensor, y: Tensor, noise: Tensor, sigma: float, batch_size: int | None
) -> Tensor:  # fmt: skip
    """Estimated gradients (N, C, H, W) from ``noise`` (N, pairs, C, H, W), of any length."""
    pairs = noise.shape[1]
    labels = y.repeat_interleave(pairs)
    high = margin(ask(model, (x[:, None] + sigma * noise).clamp_(0, 1).flatten(0, 1), batch_size), labels)
    low = margin(ask(model, (x[:, None] - sigma * noise).clamp_(0, 1).flatten(0, 1), batch_size), labels)
    weights = (high - low).nan_to_num(0.0, 0.0, 0.0).view(len(x), pairs, 1, 1, 1)
    return (weights * noise).mean(1)
