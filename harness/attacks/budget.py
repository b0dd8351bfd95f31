"""Budget curve: the smallest of several budgets at which each image falls, in one pass."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from harness.attacks.apgd import LOSSES, NORMS, apgd
from harness.attacks.asking import ask, reveal
from harness.attacks.inputs import (
    check_batch,
    check_batch_size,
    check_choice,
    check_count,
    check_labels,
    check_norm,
    check_positive,
)
from harness.attacks.randomness import ExampleGenerators
from harness.errors import UserError

FRACTIONS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 8.0, 16.0)
"""Budgets of the curve, in units of the headline budget."""


def budget(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str = "Linf",
    fractions: Sequence[float] = FRACTIONS,
    steps: int = 20,
    loss: str = "margin",
    generator: ExampleGenerators | torch.Generator | None = None,
    batch_size: int | None = None,
) -> Tensor:
    """Auto-PGD (arXiv 2003.01690) at ``fractions`` of ``eps`` in rising order, each on what the smaller ones left.

    ``x`` is float (N, C, H, W) in [0, 1], ``y`` int64 (N,), ``model`` maps images to logits (N, K). Returns, in the
    shape and dtype of ``x``, an adversarial example within the smallest of the budgets at which one was found, so the
    distances hold the robust accuracy at every one of them; ``x`` itself where none was found or where it is
    misclassified already. A budget of an image that fell at a smaller one is never tried: a curve cannot rise. Raises
    ``UserError`` for arguments out of range.
    """
    check_batch("budget", x, y)
    check_batch_size("budget", batch_size)
    check_norm("budget", norm, NORMS)
    check_positive("budget", eps=eps)
    check_count("budget", steps=steps)
    check_choice("budget", LOSSES, loss=loss)
    parts = list(fractions) if isinstance(fractions, Sequence) else []
    if not parts or not all(_positive(part) for part in parts) or parts != sorted(set(parts)):
        raise UserError(f"budget: fractions: expected rising numbers above 0, got {fractions!r}")
    x_adv = x.detach().clone()
    if not len(x):
        return x_adv
    logits = ask(model, x_adv, batch_size)
    check_labels("budget", logits, y)
    rows = (~reveal(model, x_adv, logits, y, batch_size)).nonzero().squeeze(1)
    generators = ExampleGenerators.of(generator, len(x))
    for part in parts:
        if not len(rows):
            break
        found = apgd(
            model, x[rows].detach(), y[rows], eps=part * eps, norm=norm, steps=steps, loss=loss,
            generator=generators.select(rows), batch_size=batch_size,
        )  # fmt: skip
        fooled = reveal(model, found, ask(model, found, batch_size), y[rows], batch_size)
        x_adv[rows[fooled]] = found[fooled]
        rows = rows[~fooled]
    return x_adv


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
