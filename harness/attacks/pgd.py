"""Projected gradient descent with the best iterate kept."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from harness.attacks.asking import Loss, ask, ask_gradient, reveal
from harness.attacks.geometry import Ball, ascent, per_image
from harness.attacks.inputs import (
    check_batch,
    check_batch_size,
    check_choice,
    check_count,
    check_labels,
    check_norm,
    check_positive,
    check_switch,
)
from harness.attacks.losses import LOSSES
from harness.attacks.randomness import ExampleGenerators
from harness.errors import UserError

NORMS = ("Linf", "L2")


def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str = "Linf",
    steps: int = 20,
    step_size: float | None = None,
    restarts: int = 1,
    loss: str = "ce",
    random_start: bool = True,
    generator: ExampleGenerators | torch.Generator | None = None,
    batch_size: int | None = None,
) -> Tensor:
    """Projected gradient descent (Madry et al. 2018, arXiv 1706.06083).

    ``x`` is float (N, C, H, W) in [0, 1], ``y`` int64 (N,), ``model`` maps images to logits (N, K); the answer has
    the shape and dtype of ``x`` and lies within ``eps`` of it in ``norm``. ``step_size`` is ``eps / 4`` by default;
    ``loss`` is ``ce`` (cross-entropy) or ``margin`` (largest other logit minus the label's). The start is a uniform
    point of the ball, or ``x`` without ``random_start``; each of the ``restarts`` draws anew and attacks the survivors.

    Every iterate is tested, the start and the last one included. The first misclassified one is returned and its
    example leaves the batch; an example that survives gets its iterate of highest loss. An image that is
    misclassified itself comes back as it is. ``batch_size`` only cuts the questions to the model (None: all at once).
    Raises ``UserError`` for arguments out of range.
    """
    check_batch("pgd", x, y)
    check_batch_size("pgd", batch_size)
    check_norm("pgd", norm, NORMS)
    check_positive("pgd", eps=eps)
    step_size = eps / 4 if step_size is None else step_size
    check_positive("pgd", step_size=step_size)
    check_count("pgd", steps=steps, restarts=restarts)
    check_choice("pgd", LOSSES, loss=loss)
    check_switch("pgd", random_start=random_start)
    if restarts > 1 and not random_start:
        raise UserError(f"pgd: restarts: expected 1 without a random start, got {restarts}")
    x = x.detach()
    x_adv = x.clone()
    if not len(x):
        return x_adv
    logits = ask(model, x, batch_size)
    check_labels("pgd", logits, y)
    rows = (~reveal(model, x, logits, y, batch_size)).nonzero().squeeze(1)
    best = x.new_full((len(x),), -math.inf)
    generators = ExampleGenerators.of(generator, len(x))
    for _ in range(restarts):
        if not len(rows):
            break
        ball = Ball(x[rows], norm, eps)
        start = ball.sample(generators.select(rows)) if random_start else ball.x.clone()
        points, values, fooled = _ascend(model, ball, y[rows], start, steps, step_size, LOSSES[loss], batch_size)
        better = fooled | (values > best[rows])
        x_adv[rows[better]] = points[better]
        best[rows[better]] = values[better]
        rows = rows[~fooled]
    return x_adv


def _ascend(
    model: nn.Module,
    ball: Ball,
    y: Tensor,
    point: Tensor,
    steps: int,
    step_size: float,
    loss: Callable[[Tensor, Tensor], Tensor],
    batch_size: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Climb from ``point``, which is overwritten; the best iterates, their losses and whether they are misclassified.

    Rows that are done are dropped, so the ones that are left cost less and never feel the others.
    """
    answer, reached = point.clone(), point.new_full((len(point),), -math.inf)
    fooled = torch.zeros(len(point), dtype=torch.bool, device=point.device)
    rows = torch.arange(len(point), device=point.device)
    best, values = point.clone(), reached.clone()
    for step in range(steps + 1):
        last = step == steps
        if last:
            logits = ask(model, point, batch_size)
            losses = loss(logits, y)
        else:
            logits, losses, grad = ask_gradient(model, point, _against(y, loss), batch_size, leave=y)
        done = reveal(model, point, logits, y, batch_size)
        better = done | (losses > values)
        values = torch.where(better, losses, values)
        best = point.clone() if bool(better.all()) else torch.where(per_image(better, point), point, best)
        leaving = done | last
        if bool(leaving.any()):
            answer[rows[leaving]], reached[rows[leaving]] = best[leaving], values[leaving]
            fooled[rows[done]] = True
            if bool(leaving.all()):
                break
            keep = ~leaving
            rows, y, ball, point, grad = rows[keep], y[keep], ball.select(keep), point[keep], grad[keep]
            best, values = best[keep], values[keep]
        point = ball.project_(point.add_(ascent(grad, ball.norm), alpha=step_size))
    return answer, reached, fooled


def _against(y: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> Loss:
    """``loss`` for rows asked about by their positions in ``y``."""

    def of(logits: Tensor, rows: Tensor) -> Tensor:
        return loss(logits, y[rows])

    return of
