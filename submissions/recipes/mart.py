"""MART (Wang et al. 2020, "Improving Adversarial Robustness Requires Revisiting Misclassified Examples", ICLR).

The authors' form. The RCM paper's code has another: a margin term without the logarithm, and the divergence the
other way round.
"""

from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from submissions.recipes.perturb import ascend, normal_start

TINY = 1e-12
"""Kept inside the logarithms."""


def objective(logits: Tensor, logits_adv: Tensor, y: Tensor, weight: float) -> Tensor:
    """Boosted cross-entropy of ``logits_adv`` plus ``weight`` times KL(p || p_adv) (1 - p_y), means over the batch.

    The boosted cross-entropy adds to the cross-entropy the margin term -log(1 - max of p_adv over the wrong classes).
    """
    wide = torch.promote_types(logits.dtype, torch.float32)
    p, p_adv = logits.to(wide).softmax(1), logits_adv.to(wide).softmax(1)
    is_label = F.one_hot(y, logits.shape[1]).bool()
    strongest_other = p_adv.masked_fill(is_label, -1).amax(1)
    margin = -(1.0001 - strongest_other + TINY).log()
    boosted = F.cross_entropy(logits_adv.to(wide), y) + margin.mean()
    divergence = (p * ((p + TINY).log() - (p_adv + TINY).log())).sum(1)
    doubt = 1.0000001 - p.gather(1, y[:, None]).squeeze(1)
    return boosted + weight * (divergence * doubt).mean()


def loss(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    generator: torch.Generator,
    weight: float = 5.0,
    steps: int = 10,
    step_size: str = "0.007",
) -> Tensor:
    """``objective`` with PGD examples on the cross-entropy from a small Gaussian start."""
    start = normal_start(x, generator=generator)
    x_adv = ascend(model, x, y, start, eps=eps, step_size=float(Fraction(step_size)), steps=steps)
    return objective(model(x), model(x_adv), y, weight)
