"""Losses an attack raises, each per example, and the test for success."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of every row, (N,)."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Largest other logit minus the logit of ``y``, (N,): above 0 once misclassified, whatever the logits' scale."""
    own = logits.gather(1, y[:, None])
    return (logits.scatter(1, y[:, None], -math.inf).amax(1, keepdim=True) - own).squeeze(1)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"ce": cross_entropy, "margin": margin}


def misclassified(logits: Tensor, y: Tensor) -> Tensor:
    """Whether each row is not classified as ``y``, bool (N,); a row with a logit that is not finite never is."""
    return (logits.argmax(1) != y) | ~logits.isfinite().all(1)


def input_gradient(loss: Tensor, x: Tensor, *, wanted: Tensor | None = None, retain_graph: bool = False) -> Tensor:
    """Gradient of the sum of ``loss`` (N,) with respect to ``x``; zeros where ``x`` does not reach the loss.

    The sum, not the mean: the gradient of an example must not depend on how many others share its batch. Rows that
    are not ``wanted`` (bool (N,), None: all are) are left out of the sum; what stands in their place has no meaning.
    """
    if not loss.requires_grad:
        return torch.zeros_like(x)
    weights = torch.ones_like(loss) if wanted is None else wanted.to(loss.dtype)
    (grad,) = torch.autograd.grad(loss, x, weights, retain_graph=retain_graph, allow_unused=True)
    return torch.zeros_like(x) if grad is None else grad
