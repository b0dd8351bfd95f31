"""Honest networks that look odd: other arithmetic, other ways to compute the same, weak, very robust or untrained."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from submissions.architectures.slim_resnet import BasicBlock
from zoo.bases import Around, Input, base
from zoo.honest import Function, SmoothBlock

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


class Normalised(Around):
    """Normalises by CIFAR-10's statistics inside; the first layer takes it back."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.base((x - self.mean) / self.std * self.std + self.mean)


def normalised(network: str) -> nn.Module:
    """Normalisation inside."""
    return Normalised(base(network))


class Double(Around):
    """Counts in float64."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network.double())

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x.double())


def double(network: str) -> nn.Module:
    """Weights and arithmetic in float64."""
    return Double(base(network))


RELUS: dict[str, Callable[[Tensor], Tensor]] = {
    "sort": lambda h: torch.stack([h, torch.zeros_like(h)]).sort(0).values[1],
    "where": lambda h: torch.where(h > 0, h, torch.zeros_like(h)),
}


def other_relu(network: str, kind: str) -> nn.Module:
    """The same ReLU by another operation, one that broken networks use as well."""
    net, function = base(network), RELUS[kind]
    net.stem = nn.Sequential(net.stem[0], net.stem[1], Function(function))
    net.stages = nn.Sequential(*(SmoothBlock(block, function) for block in net.stages))
    return net


class SoftVote(nn.Module):
    """Logarithm of the mean probabilities of several networks."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([member(x).log_softmax(1) for member in self.members]).logsumexp(0)


def soft_vote(networks: Sequence[str]) -> nn.Module:
    """Several networks, probabilities averaged. With a network of no robustness it is a weak defence, and honest."""
    return SoftVote([base(name) for name in networks])


class Remembering(Around):
    """Keeps its last features for a plot, and makes a table at first use."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.last: Tensor | None = None
        self.scale: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.scale is None:
            self.scale = torch.ones(1, device=x.device)
        z = self.base(x * self.scale)
        self.last = z.detach()
        return z


def remembering(network: str) -> nn.Module:
    """Attributes that change and mean nothing."""
    return Remembering(base(network))


def cropped(network: str) -> nn.Module:
    """The middle of the image, mirrored outwards again: no gradient at its edge."""
    return Input(base(network), lambda x: F.pad(x[..., 2:-2, 2:-2], (2, 2, 2, 2), mode="reflect"))


def contracted(network: str, share: float = 0.6) -> nn.Module:
    """Images drawn towards grey: less accurate, and several times as robust."""
    return Input(base(network), lambda x: 0.47 + share * (x - 0.47))


class PreActivation(nn.Module):
    """A layer normalisation beside a block, weighed so that it changes little."""

    def __init__(self, block: BasicBlock) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        h = self.block(x)
        return h + 0.02 * F.layer_norm(h, h.shape[1:])


def layer_normed(network: str) -> nn.Module:
    """Layer normalisation over whole maps in every stage."""
    net = base(network)
    net.stages = nn.Sequential(*(PreActivation(block) for block in net.stages))
    return net


def untrained(seed: int) -> nn.Module:
    """Random weights: right for a tenth of the images, about, whatever is done to them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = base("natural")
        for part in net.modules():
            if isinstance(part, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
                part.reset_parameters()
    return net.eval().requires_grad_(False)
