"""What decides a verdict: predictions, distances, and whether what an attack returned keeps its contract."""

import math

import torch
from torch import Tensor

from harness.errors import BreachError

LINF_SLACK = 1e-6
"""Absolute slack of the Linf budget at most: x + eps - x rounds."""
LINF_ROUNDING = 6e-8
"""What that rounding is: a float32 step below 1."""
L2_SLACK = 1e-5
"""Relative slack of the L2 and L1 budgets."""


def classify(logits: Tensor) -> Tensor:
    """Predicted classes int64 (N,); -1 where a logit is not finite, which counts as misclassified."""
    return logits.argmax(1).masked_fill(~logits.isfinite().all(1), -1)


def margins(logits: Tensor, y: Tensor) -> Tensor:
    """Logit of ``y`` minus the largest other logit, float32 (N,)."""
    own = logits.gather(1, y[:, None]).squeeze(1)
    return own.sub(logits.scatter(1, y[:, None], -math.inf).amax(1))


def distance(delta: Tensor, norm: str) -> Tensor:
    """Norm of every row of ``delta`` (N, ...), computed in float64."""
    order = {"Linf": math.inf, "L2": 2, "L1": 1}[norm]
    length: Tensor = torch.linalg.vector_norm(delta.flatten(1).double(), ord=order, dim=1)
    return length


def within(delta: Tensor, norm: str, eps: float) -> Tensor:
    """Whether every row of ``delta`` lies in the budget, up to the rounding of float32; bool (N,)."""
    slack = min(LINF_SLACK, max(LINF_ROUNDING, 1e-4 * eps)) if norm == "Linf" else eps * L2_SLACK
    limit = eps + slack
    return distance(delta, norm) <= limit


def inspect(x: Tensor, before: Tensor, x_adv: Tensor, *, norm: str, eps: float | None) -> None:
    """Hold what an attack returned against its contract; ``BreachError`` with the number when it breaks it."""
    if not isinstance(x_adv, Tensor) or x_adv.shape != before.shape:
        got = tuple(x_adv.shape) if isinstance(x_adv, Tensor) else type(x_adv).__name__
        raise BreachError("breach", f"the attack returned {got}, expected a tensor {tuple(before.shape)}")
    if x_adv.dtype != before.dtype:
        raise BreachError("breach", f"the attack returned {x_adv.dtype}, expected {before.dtype}")
    if not torch.equal(x, before):
        raise BreachError("breach", f"the attack changed its input by {float((x - before).abs().max()):.3g}")
    if not x_adv.isfinite().all():
        raise BreachError("breach", f"{int((~x_adv.isfinite()).sum())} pixels of the adversarial images are not finite")
    if float(x_adv.min()) < 0 or float(x_adv.max()) > 1:
        raise BreachError("breach", f"pixels in [{float(x_adv.min()):.9g}, {float(x_adv.max()):.9g}], expected [0, 1]")
    if eps is not None and not within(x_adv - before, norm, eps).all():
        worst = float(distance(x_adv - before, norm).max())
        raise BreachError("breach", f"{norm} distance {worst:.9g} is larger than eps {eps:.9g}")
