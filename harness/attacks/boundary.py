"""Where the decision boundary next to a point seems to be: the nearest of the linearised ones."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from harness.attacks.asking import answer, ask_gradient, batches, reveal
from harness.attacks.geometry import finite
from harness.attacks.losses import difference, input_gradient

_DUAL = {"L2": 2.0, "Linf": 1.0, "L1": math.inf}
"""Order of the norm that measures gradients when perturbations are measured in the key's norm."""
_STEEPER = 2.0
"""How much steeper than a step before the lead of another class may have become before it is overlooked."""


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
    slopes: Tensor | None = None,
) -> Boundary:
    """Linearise the boundaries between ``y`` (N,) and ``others`` (int64 (N, M)) at ``x`` and take the nearest.

    One forward pass and M backward passes. ``wanted`` (bool (N,)) spares the others theirs; by default the points that
    are misclassified are spared. What stands in the place of a spared point counts as nothing seen. ``slopes``
    (N, M), where given, is filled with the dual norm of the gradient of each lead; ``nearest_again`` makes use of it.
    """
    seen = _nothing(x)
    for part in batches(len(x), batch_size):
        leaf = x[part].detach().requires_grad_()
        with torch.enable_grad():
            logits = answer(model, leaf)
        seen.fooled[part] = reveal(model, leaf.detach(), logits.detach(), y[part], batch_size)
        looking = ~seen.fooled[part] if wanted is None else wanted[part]
        if not bool(looking.any()):
            continue
        for column in range(others.shape[1]):
            with torch.enable_grad():
                gap = logits.gather(1, others[part, column : column + 1]) - logits.gather(1, y[part, None])
                gap = gap.squeeze(1)
            last = column + 1 == others.shape[1]
            slope = input_gradient(gap, leaf, wanted=looking, retain_graph=not last)
            rows = looking.nonzero().squeeze(1)
            _take(seen, slopes, part.start + rows, column, gap.detach()[rows], slope[rows], norm)
    return seen


def nearest_again(
    model: nn.Module, x: Tensor, y: Tensor, others: Tensor, norm: str, batch_size: int | None, slopes: Tensor
) -> Boundary:
    """What ``nearest_boundary`` answers, a short way from where it was asked before, mostly with one backward pass.

    ``slopes`` (N, M) holds the dual norms seen last, and is brought up to date. The leads that the forward pass shows,
    over these norms, say which boundary is likely to be the nearest; it is linearised anew, and beside it only those
    that would be nearer than it if their slope had grown by the factor ``_STEEPER``, or that had none.
    """
    seen = _nothing(x)
    leads = x.new_zeros(others.shape)
    guess = x.new_zeros(len(x), dtype=torch.int64)

    def likeliest_lead(logits: Tensor, at: Tensor) -> Tensor:
        gaps = logits.gather(1, others[at]) - logits.gather(1, y[at, None])
        leads[at] = gaps.detach()
        guess[at] = (leads[at].abs() / slopes[at]).nan_to_num(math.inf, math.inf).argmin(1)
        return gaps.gather(1, guess[at, None]).squeeze(1)

    logits, lead, gradient = ask_gradient(model, x, likeliest_lead, batch_size, leave=y)
    seen.fooled.copy_(reveal(model, x, logits, y, batch_size))
    rows = (~seen.fooled).nonzero().squeeze(1)
    _take(seen, slopes, rows, guess[rows], lead[rows], gradient[rows], norm)
    possible = (leads.abs() / (_STEEPER * slopes) < seen.distance[:, None]) | (slopes == 0)
    possible[torch.arange(len(x), device=x.device), guess] = False
    rows, columns = (possible & ~seen.fooled[:, None]).nonzero(as_tuple=True)
    if len(rows):

        def this_lead(logits: Tensor, at: Tensor) -> Tensor:
            return difference(logits, y[rows[at]], others[rows[at], columns[at]])

        _, lead, gradient = ask_gradient(model, x[rows], this_lead, batch_size)
        for column in range(others.shape[1]):
            of = (columns == column).nonzero().squeeze(1)
            _take(seen, slopes, rows[of], columns[of], lead[of], gradient[of], norm)
    return seen


def _nothing(x: Tensor) -> Boundary:
    """What is known of the points ``x`` before any is looked at."""
    return Boundary(
        x.new_full((len(x),), math.inf),
        x.new_zeros(len(x)),
        torch.zeros_like(x),
        torch.zeros(len(x), dtype=torch.bool, device=x.device),
    )


def _take(
    seen: Boundary,
    slopes: Tensor | None,
    rows: Tensor,
    columns: Tensor | int,
    lead: Tensor,
    gradient: Tensor,
    norm: str,
) -> None:
    """Enter one linearised boundary of each of ``rows``, all different, where it is nearer than what was seen there."""
    length = torch.linalg.vector_norm(gradient.flatten(1), ord=_DUAL[norm], dim=1)
    if not bool(length.isfinite().all()):
        gradient = finite(gradient)
        length = torch.linalg.vector_norm(gradient.flatten(1), ord=_DUAL[norm], dim=1)
    if slopes is not None:
        slopes[rows, columns] = length
    distance = lead.abs() / length
    closer = distance < seen.distance[rows]
    at = rows[closer]
    seen.distance[at], seen.lead[at], seen.gradient[at] = distance[closer], lead[closer], gradient[closer]


def likeliest(logits: Tensor, y: Tensor, count: int) -> Tensor:
    """The ``count`` classes of highest logit besides ``y``, likeliest first, int64 (N, at most K - 1)."""
    ranked = logits.nan_to_num().scatter(1, y[:, None], -math.inf).argsort(dim=1, descending=True, stable=True)
    return ranked[:, : min(count, logits.shape[1] - 1)]
