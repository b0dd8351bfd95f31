"""Broken inside: activations that shatter, vanish or draw at random, and BatchNorm on the batch's own statistics."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.bases import Around, base, inside


def winners(network: str, share: float = 0.3) -> nn.Module:
    """k winners take all (arXiv 1905.10510): of every map the largest ``share`` of values is kept."""

    def change(h: Tensor) -> Tensor:
        flat = h.flatten(1)
        least = flat.topk(max(1, int(share * flat.shape[1])), 1).values[:, -1:]
        return (flat * (flat >= least)).view_as(h)

    return inside(base(network), change)


def pruned(network: str, share: float = 1.0) -> nn.Module:
    """Stochastic activation pruning (arXiv 1803.01442): large values survive more often and make up for the others.

    ``share`` is the number of draws with replacement over the number of values.
    """

    def change(h: Tensor) -> Tensor:
        flat = h.flatten(1)
        chance = flat / flat.sum(1, keepdim=True).clamp_min(1e-12)
        keep = 1 - (1 - chance).clamp_min(0).pow(share * flat.shape[1])
        kept = (torch.rand_like(flat) < keep.detach()) / keep.detach().clamp_min(1e-6)
        return (flat * kept).view_as(h)

    return inside(base(network), change)


def quantised(network: str, bits: int = 4) -> nn.Module:
    """Activations in ``2 ** bits`` steps up to the image's largest (EMPIR, arXiv 2004.10162), rounded plainly."""

    def change(h: Tensor) -> Tensor:
        size = h.detach().amax((1, 2, 3), keepdim=True).clamp_min(1e-12)
        steps = 2**bits - 1
        return (h / size * steps).round() / steps * size

    return inside(base(network), change)


def dropped(network: str, share: float = 0.3) -> nn.Module:
    """Dropout that stays on."""
    return inside(base(network), lambda h: F.dropout(h, share, training=True))


class Transductive(Around):
    """BatchNorm on the statistics of the batch at hand: every image's answer depends on its neighbours."""

    def forward(self, x: Tensor) -> Tensor:
        for part in self.base.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.training = True
        return self.base(x)


def transductive(network: str) -> nn.Module:
    """``network`` with its BatchNorm in training mode."""
    return Transductive(base(network))
