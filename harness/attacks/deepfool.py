"""DeepFool: the nearest linearised decision boundary, again and again until it is crossed."""

import math

import torch
from torch import Tensor, nn

from harness.attacks.asking import ask, reveal
from harness.attacks.boundary import likeliest, nearest_again, nearest_boundary
from harness.attacks.geometry import ascent, per_image
from harness.attacks.inputs import check_batch, check_batch_size, check_count, check_labels, check_norm
from harness.attacks.randomness import ExampleGenerators
from harness.errors import UserError

NORMS = ("L2", "Linf")

_NUDGE = 1e-4
"""Added to the length of every step after the first: a step that fell short would otherwise be followed by ever
smaller ones that creep up to the boundary. The authors' code adds it to the first step as well."""
_FAR = 1e6
"""Steps are cut here: longer than any distance between two images, and short enough to add up."""


def deepfool(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    norm: str = "L2",
    steps: int = 50,
    overshoot: float = 0.02,
    candidates: int | None = None,
    eps: float | None = None,
    generator: ExampleGenerators | torch.Generator | None = None,
    batch_size: int | None = None,
) -> Tensor:
    """A close adversarial example by repeated linearisation (Moosavi-Dezfooli et al. 2016, arXiv 1511.04599).

    ``x`` is float (N, C, H, W) in [0, 1], ``y`` int64 (N,), ``model`` maps images to logits (N, K). The budget is not
    bounded: ``eps`` and ``generator`` are accepted and ignored; ``batch_size`` only cuts the questions to the model.
    Each step goes to the nearest of the linearised boundaries between ``y`` and the other ``candidates`` (a number
    that includes ``y``: the classes of highest logit at ``x``; by default 10, which is all of them for up to 10
    classes); from the second step on, boundaries that were far away compared with the nearest are not linearised again
    (``nearest_again``). The sum of all steps, times 1 + ``overshoot``, is added to ``x`` and clipped to [0, 1]; the
    clipped image is what the next forward tests.

    Returns, in the shape and dtype of ``x``, the first misclassified iterate, and ``x`` itself where ``steps`` were
    not enough or where it is misclassified already. Raises ``UserError`` for arguments out of range.
    """
    check_batch("deepfool", x, y)
    check_batch_size("deepfool", batch_size)
    check_norm("deepfool", norm, NORMS)
    check_count("deepfool", steps=steps)
    if not (isinstance(overshoot, int | float) and 0 <= overshoot < math.inf):
        raise UserError(f"deepfool: overshoot: expected a finite number of at least 0, got {overshoot!r}")
    if candidates is not None:
        check_count("deepfool", least=2, candidates=candidates)
    x = x.detach()
    x_adv = x.clone()
    if not len(x):
        return x_adv
    logits = ask(model, x, batch_size)
    check_labels("deepfool", logits, y)
    rows = (~reveal(model, x, logits, y, batch_size)).nonzero().squeeze(1)
    others = likeliest(logits, y, (candidates or 10) - 1)
    point, total = x[rows], torch.zeros_like(x[rows])
    slopes = x.new_zeros(others[rows].shape)
    for step in range(steps):
        if not len(rows):
            break
        if step:
            seen = nearest_again(model, point, y[rows], others[rows], norm, batch_size, slopes)
        else:
            seen = nearest_boundary(model, point, y[rows], others[rows], norm, batch_size, slopes=slopes)
        x_adv[rows[seen.fooled]] = point[seen.fooled]
        keep = ~seen.fooled & seen.distance.isfinite()
        rows, total, slopes = rows[keep], total[keep], slopes[keep]
        distance, direction = seen.distance[keep], seen.gradient[keep]
        length = (distance + _NUDGE if step else distance).clamp_max(_FAR)
        total.addcmul_(ascent(direction, norm), per_image(length, direction))
        point = x[rows].add_(total, alpha=1 + overshoot).clamp_(0, 1)
    if len(rows):
        fooled = reveal(model, point, ask(model, point, batch_size), y[rows], batch_size)
        x_adv[rows[fooled]] = point[fooled]
    return x_adv
