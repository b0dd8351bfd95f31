"""Gradient ascent that is watched: the losses of every step are kept, and the gradient may be turned or smoothed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harness.attacks.asking import ask, ask_gradient
from harness.attacks.geometry import Ball, ascent
from harness.attacks.losses import LOSSES, dlr, misclassified
from harness.attacks.randomness import ExampleGenerators

LossOf = Callable[[Tensor, Tensor], Tensor]
"""From logits (n, K) and labels (n,) to losses (n,)."""
LOSS_OF: dict[str, LossOf] = {**LOSSES, "dlr": dlr}
Watch = Callable[[int, Tensor, Tensor, Tensor], None]
"""Told the step, the rows (m,) still climbing, their points (m, C, H, W) and their gradients, before each move."""


@dataclass(frozen=True)
class Climb:
    """What an ascent came to; all rows in the order they were given."""

    x_adv: Tensor
    """float (N, C, H, W): the first misclassified iterate, else the one of highest loss."""
    fooled: Tensor
    """bool (N,): whether some iterate was misclassified."""
    losses: Tensor
    """float (steps + 1, N): the loss at every iterate, NaN once a row has left."""
    last: Tensor
    """float (N, C, H, W): the last iterate."""


def _on(of: LossOf, y: Tensor) -> LossOf:
    """The loss of rows by their number."""
    return lambda logits, rows: of(logits, y[rows])


def sensitivity(
    model: nn.Module, x: Tensor, y: Tensor, loss: str | LossOf, batch_size: int | None
) -> tuple[Tensor, Tensor]:
    """Logits (N, K) and the gradient (N, C, H, W) of a loss, by its name or itself; what is not finite becomes 0."""
    of = LOSS_OF[loss] if isinstance(loss, str) else loss
    logits, _, grad = ask_gradient(model, x, _on(of, y), batch_size)
    return logits, grad.nan_to_num(0.0, 0.0, 0.0)


def climb(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str,
    steps: int,
    loss: str | LossOf = "margin",
    step_size: float | None = None,
    sign: float = 1.0,
    start: Tensor | None = None,
    smooth: int = 0,
    generators: ExampleGenerators | None = None,
    stay: bool = False,
    watch: Watch | None = None,
    batch_size: int | None = None,
) -> Climb:
    """Projected ascent from ``start`` (None: ``x``) with a step of ``eps / 4`` unless another is given.

    ``sign`` -1 walks down the gradient. With ``smooth`` the gradient is the mean over that many normal neighbours at a
    standard deviation of ``eps / 4`` per pixel (Linf), drawn from ``generators``. ``stay`` keeps misclassified rows
    climbing, so that the history of their loss is complete.
    """
    of = LOSS_OF[loss] if isinstance(loss, str) else loss
    length = eps / 4 if step_size is None else step_size
    ball, rows = Ball(x, norm, eps), torch.arange(len(x))
    point = x.clone() if start is None else start.clone()
    best, last = point.clone(), point.clone()
    top = x.new_full((len(x),), -torch.inf)
    losses = x.new_full((steps + 1, len(x)), torch.nan)
    fooled = torch.zeros(len(x), dtype=torch.bool)
    for step in range(steps + 1):
        if not len(rows):
            break
        labels = y[rows]
        if step == steps:
            logits, grad = ask(model, point, batch_size), torch.zeros_like(point)
            values = of(logits, labels)
        else:
            logits, values, grad = ask_gradient(
                model, point, _on(of, labels), batch_size,
                leave=None if stay else labels,
            )  # fmt: skip
        done = misclassified(logits, labels)
        losses[step, rows] = values
        better = (done & ~fooled[rows]) | (~fooled[rows] & (values > top[rows]))
        best[rows[better]], top[rows[better]] = point[better], values[better]
        last[rows] = point
        fooled[rows] |= done
        if step == steps:
            break
        if not stay and bool(done.any()):
            rows, point, grad = rows[~done], point[~done], grad[~done]
        if not len(rows):
            break
        if smooth and generators is not None:
            grad = _smoothed(model, point, y[rows], of, eps, norm, smooth, generators.select(rows), batch_size)
        grad = grad.nan_to_num(0.0, 0.0, 0.0)
        if watch is not None:
            watch(step, rows, point, grad)
        point = ball.select(rows).project_(point + sign * length * ascent(grad, norm))
    return Climb(best, fooled, losses, last)


def _smoothed(
    model: nn.Module, point: Tensor, y: Tensor, of: LossOf, eps: float, norm: str, draws: int,
    generators: ExampleGenerators, batch_size: int | None,
) -> Tensor:  # fmt: skip
    """Mean gradient over ``draws`` neighbours, each row's of length 1 first so that no single one decides."""
    noise = generators.normal((draws, *point.shape[1:])).to(point)
    scale = eps / 4 if norm == "Linf" else eps / (4 * point[0].numel() ** (0.5 if norm == "L2" else 1.0))
    near = (point[:, None] + scale * noise).clamp_(0, 1).flatten(0, 1)
    labels = y.repeat_interleave(draws)
    _, _, grad = ask_gradient(model, near, _on(of, labels), batch_size)
    return ascent(grad.nan_to_num(0.0, 0.0, 0.0), "L2").view(len(point), draws, *point.shape[1:]).mean(1)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of every row's angle, (N,); 0 where one of the two has no length."""
    a, b = a.flatten(1).double(), b.flatten(1).double()
    lengths = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
    return torch.where(lengths > 0, (a * b).sum(1) / lengths.clamp_min(1e-300), 0.0).clamp(-1, 1)


def median(values: Tensor) -> float | None:
    """Median of the finite entries; None without any."""
    finite = values[values.isfinite()]
    return float(finite.double().quantile(0.5)) if finite.numel() else None


def mean(values: Tensor) -> float | None:
    """Mean of the finite entries; None without any."""
    finite = values.double()[values.isfinite()]
    return float(finite.mean()) if finite.numel() else None
