"""DeepFool: the nearest linearised decision boundary, again and again until it is crossed."""

import math

import torch
from torch import Tensor, nn

from harness.attacks.geometry import ascent, per_image
from harness.attacks.inputs import check_batch, check_count, check_labels, check_norm
from harness.attacks.losses import input_gradient, misclassified
from harness.attacks.randomness import ExampleGenerators
from harness.errors import UserError

NORMS = ("L2", "Linf")

_DUAL = {"L2": 2.0, "Linf": 1.0}
"""Order of the norm that measures gradients when perturbations are measured in the key's norm."""
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
) -> Tensor:
    """A close adversarial example by repeated linearisation (Moosavi-Dezfooli et al. 2016, arXiv 1511.04599).

    ``x`` is float (N, C, H, W) in [0, 1], ``y`` int64 (N,), ``model`` maps images to logits (N, K). The budget is not
    bounded: ``eps`` and ``generator`` are accepted and ignored. Each step goes to the nearest of the linearised
    boundaries between ``y`` and the other ``candidates`` (a number that includes ``y``: the classes of highest logit
    at ``x``; by default 10, which is all of them for up to 10 classes). The sum of all steps, times
    1 + ``overshoot``, is added to ``x`` and clipped to [0, 1]; the clipped image is what the next forward tests.

    Returns, in the shape and dtype of ``x``, the first misclassified iterate, and ``x`` itself where ``steps`` were
    not enough or where it is misclassified already. Raises ``UserError`` for arguments out of range.
    """
    check_batch("deepfool", x, y)
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
    point, total, rows = x.clone(), torch.zeros_like(x), torch.arange(len(x), device=x.device)
    others = rows[:, None]
    for step in range(steps + 1):
        last = step == steps
        with torch.set_grad_enabled(not last):
            logits = model(point.requires_grad_(not last))
        if step == 0:
            check_labels("deepfool", logits, y)
            others = _others(logits.detach(), y, candidates or 10)
        done = misclassified(logits.detach(), y)
        x_adv[rows[done]] = point.detach()[done]
        if last or bool(done.all()):
            break
        distance, direction = _nearest_boundary(logits, point, y, others, norm, ~done)
        keep = ~done & distance.isfinite()
        if not bool(keep.all()):
            rows, y, others, total = rows[keep], y[keep], others[keep], total[keep]
            distance, direction = distance[keep], direction[keep]
            if not len(rows):
                break
        length = (distance + _NUDGE if step else distance).clamp_max(_FAR)
        total.addcmul_(ascent(direction, norm), per_image(length, direction))
        point = x[rows].add_(total, alpha=1 + overshoot).clamp_(0, 1)
    return x_adv


def _others(logits: Tensor, y: Tensor, candidates: int) -> Tensor:
    """The ``candidates - 1`` classes of highest logit besides ``y``, int64 (N, at most K - 1)."""
    ranked = logits.nan_to_num().scatter(1, y[:, None], -math.inf)
    return ranked.topk(min(candidates, logits.shape[1]) - 1).indices


def _nearest_boundary(
    logits: Tensor, point: Tensor, y: Tensor, others: Tensor, norm: str, wanted: Tensor
) -> tuple[Tensor, Tensor]:
    """Distance (N,) to the nearest linearised boundary and the gradient (N, C, H, W) towards it, for ``wanted`` rows.

    The distance is inf, and the gradient 0, where no boundary can be seen: every gradient is zero or not finite.
    """
    nearest, direction = point.new_full((len(point),), math.inf), torch.zeros_like(point)
    for column in range(others.shape[1]):
        with torch.enable_grad():
            gap = (logits.gather(1, others[:, column : column + 1]) - logits.gather(1, y[:, None])).squeeze(1)
        grad = input_gradient(gap, point, wanted=wanted, retain_graph=column + 1 < others.shape[1])
        distance = gap.detach().abs() / torch.linalg.vector_norm(grad.flatten(1), ord=_DUAL[norm], dim=1)
        closer = distance < nearest
        nearest = torch.where(closer, distance, nearest)
        direction[closer] = grad[closer]
    return nearest, direction
