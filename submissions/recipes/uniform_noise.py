"""Training on uniform noise: the JARN paper's control row (Chan et al. 2020, arXiv 1912.10185, table 3)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from submissions.recipes.perturb import uniform_start


def loss(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, generator: torch.Generator) -> Tensor:
    """Cross-entropy of images (N, 3, H, W) moved by uniform noise of the Linf ball of ``eps``."""
    return F.cross_entropy(model(uniform_start(x, eps=eps, generator=generator)), y)
