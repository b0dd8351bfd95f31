"""Broken by what is counted: hard votes and reject classes."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoo.bases import Around, base


class HardVote(nn.Module):
    """Counts the decisions of several networks; ties go to the first network's order, without a gradient."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> Tensor:
        outputs = [member(x) for member in self.members]
        votes = sum(torch.zeros_like(z).scatter_(1, z.argmax(1, keepdim=True), 1.0) + 0 * z for z in outputs)
        return votes + 1e-3 * outputs[0].softmax(1).detach()


def hard_vote(networks: Sequence[str]) -> nn.Module:
    """A hard vote of bundled networks (arXiv 2002.08347 on such ensembles)."""
    return HardVote([base(name) for name in networks])


class Rejecting(Around):
    """Rejects an image whose decision is not the same under noise (arXiv 1902.04818, arXiv 2002.08347).

    ``nan=False``: by an eleventh class; ``nan=True``: by logits that are no numbers.
    """

    def __init__(self, network: nn.Module, *, nan: bool) -> None:
        super().__init__(network)
        self.nan = nan

    def forward(self, x: Tensor) -> Tensor:
        z = self.base(x)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            changed = sum(
                (self.base(x + 0.03 * torch.randn(x.shape[1:], generator=generator)).argmax(1) != z.argmax(1)).int()
                for _ in range(8)
            )
        rejected = (changed > 2)[:, None]
        if self.nan:
            return z.masked_fill(rejected, torch.nan)
        return torch.cat([z, torch.where(rejected, 2 * z.amax(1, keepdim=True).abs() + 1, z.amin(1, keepdim=True))], 1)


def rejecting(network: str, nan: bool = False) -> nn.Module:
    """A detector by noise around ``network``."""
    return Rejecting(base(network), nan=nan)
