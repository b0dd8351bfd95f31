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
    # Weights given as ``grad_outputs`` would make torch import a computer algebra system, a second in every process.
    with torch.enable_grad():
        total = (loss if wanted is None else loss * wanted).sum()
    (grad,) = torch.autograd.grad(total, x, retain_graph=retain_graph, allow_unused=True)
    return torch.zeros_like(x) if grad is None else grad


def difference(logits: Tensor, y: Tensor, targets: Tensor) -> Tensor:
    """Logit of the target minus the logit of ``y``, (N,); ``targets`` is int64 (N,)."""
    return (logits.gather(1, targets[:, None]) - logits.gather(1, y[:, None])).squeeze(1)


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio of every row, (N,): the margin over the largest logit's lead on the third.

    It is above 0 once misclassified (arXiv 2003.01690, equation 6). It needs three classes: with two it is the margin.
    """
    if logits.shape[1] < 3:
        return margin(logits, y)
    top = logits.topk(3, 1).values
    return margin(logits, y) / _spread(top[:, 0] - top[:, 2])


def dlr_targeted(logits: Tensor, y: Tensor, targets: Tensor) -> Tensor:
    """Targeted difference of logits ratio, (N,): ``difference`` over the largest logit's lead on the third and fourth.

    Their mean counts (arXiv 2003.01690, equation 7). It needs four classes: with fewer it is the difference.
    """
    if logits.shape[1] < 4:
        return difference(logits, y, targets)
    top = logits.topk(4, 1).values
    return difference(logits, y, targets) / _spread(top[:, 0] - (top[:, 2] + top[:, 3]) / 2)


def _spread(values: Tensor) -> Tensor:
    """``values`` kept from 0, and small ones as they are: the ratio does not depend on the logits' scale."""
    return values.clamp_min(torch.finfo(values.dtype).tiny)
