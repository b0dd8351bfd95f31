"""Where the decision boundary next to a point seems to be: the nearest of the linearised ones."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from harness.attacks.asking import batches, reveal
from harness.attacks.geometry import finite
from harness.attacks.losses import input_gradient

_DUAL = {"L2": 2.0, "Linf": 1.0, "L1": math.inf}
"""Order of the norm that measures gradients when perturbations are measured in the key's norm."""


class Boundary(NamedTuple):
    """What was seen from N points."""

    distance: Tensor
    """To the nearest linearised boundary, (N,); inf where none can be seen: every gradient is zero. Entries
    that are not finite count as zero."""
    lead: Tensor
    """By how much the logit beyond that boundary is above the label's, (N,); 0 where none is seen."""
    gradient: Tensor
    """Of the lead, (N, C, H, W); 0 where none is seen."""
    fooled: Tensor
    """Which points are misclassified, bool (N,)."""


def nearest_boundary(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    others: Tensor,
    norm: str,
    batch_size: int | None,
    *,
    wanted: Tensor | None = None,
) -> Boundary:
    """Linearise the boundaries between ``y`` (N,) and ``others`` (int64 (N, M)) at ``x`` and take the nearest.

    One forward pass and M backward passes. ``wanted`` (bool (N,)) spares the others theirs; by default the points that
    are misclassified are spared. What stands in the place of a spared point counts as nothing seen.
    """
    nearest, lead = x.new_full((len(x),), math.inf), x.new_zeros(len(x))
    gradient = torch.zeros_like(x)
    fooled = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for part in batches(len(x), batch_size):
        leaf = x[part].detach().requires_grad_()
        with torch.enable_grad():
            logits = model(leaf)
        fooled[part] = reveal(model, leaf.detach(), logits.detach(), y[part], batch_size)
        looking = ~fooled[part] if wanted is None else wanted[part]
        if not bool(looking.any()):
            continue
        for column in range(others.shape[1]):
            with torch.enable_grad():
                gap = logits.gather(1, others[part, column : column + 1]) - logits.gather(1, y[part, None])
                gap = gap.squeeze(1)
            last = column + 1 == others.shape[1]
            slope = input_gradient(gap, leaf, wanted=looking, retain_graph=not last)
            length = torch.linalg.vector_norm(slope.flatten(1), ord=_DUAL[norm], dim=1)
            if not bool(length.isfinite().all()):
                slope = finite(slope)
                length = torch.linalg.vector_norm(slope.flatten(1), ord=_DUAL[norm], dim=1)
            distance = gap.detach().abs() / length
            closer = (distance < nearest[part]) & looking
            nearest[part] = torch.where(closer, distance, nearest[part])
            lead[part] = torch.where(closer, gap.detach(), lead[part])
            gradient[part][closer] = slope[closer]
    return Boundary(nearest, lead, gradient, fooled)


def likeliest(logits: Tensor, y: Tensor, count: int) -> Tensor:
    """The ``count`` classes of highest logit besides ``y``, likeliest first, int64 (N, at most K - 1)."""
    ranked = logits.nan_to_num().scatter(1, y[:, None], -math.inf).argsort(dim=1, descending=True, stable=True)
    return ranked[:, : min(count, logits.shape[1] - 1)]
