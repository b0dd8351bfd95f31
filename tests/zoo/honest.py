"""Honest networks of kinds that a careless check takes for broken ones."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from submissions.architectures.slim_resnet import BasicBlock
from zoo.bases import Around, Input, Output, base, inside


def scaled(network: str, factor: float) -> nn.Module:
    """Logits times a moderate ``factor``."""
    return Output(base(network), lambda z: factor * z)


def log_softmax(network: str) -> nn.Module:
    """Logarithms of probabilities, which are logits."""
    return Output(base(network), lambda z: z.log_softmax(1))


def upsampled(network: str) -> nn.Module:
    """Bilinear enlargement and averaging in front: a slight blur, smooth all the way."""

    def change(x: Tensor) -> Tensor:
        return F.avg_pool2d(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False), 2)

    return Input(base(network), change)


def folded(network: str) -> nn.Module:
    """BatchNorm folded into the convolutions."""
    net = base(network)
    fold = torch.nn.utils.fusion.fuse_conv_bn_eval
    net.stem = nn.Sequential(fold(net.stem[0], net.stem[1]), net.stem[2])
    for block in net.stages:
        block.conv1, block.bn1 = fold(block.conv1, block.bn1), nn.Identity()
        block.conv2, block.bn2 = fold(block.conv2, block.bn2), nn.Identity()
        if isinstance(block.shortcut, nn.Sequential):
            block.shortcut = nn.Sequential(fold(block.shortcut[0], block.shortcut[1]))
    return net


class SmoothBlock(nn.Module):
    """A basic block with another activation."""

    def __init__(self, block: BasicBlock, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.block, self.activation = block, activation

    def forward(self, x: Tensor) -> Tensor:
        block = self.block
        h = self.activation(block.bn1(block.conv1(x)))
        return self.activation(block.bn2(block.conv2(h)) + block.shortcut(x))


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": lambda h: F.silu(8 * h) / 8,
    "gelu": lambda h: F.gelu(4 * h) / 4,
    "softplus": lambda h: F.softplus(h, beta=10),
}


def smooth(network: str, activation: str) -> nn.Module:
    """Smooth activations in place of the ReLUs, steep enough for the trained weights."""
    net, function = base(network), ACTIVATIONS[activation]
    net.stem = nn.Sequential(net.stem[0], net.stem[1], Function(function))
    net.stages = nn.Sequential(*(SmoothBlock(block, function) for block in net.stages))
    return net


class Function(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class MixedPool(nn.Module):
    """Between the mean and the maximum over the map."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, h: Tensor) -> Tensor:
        return (1 - self.share) * F.adaptive_avg_pool2d(h, 1) + self.share * F.adaptive_max_pool2d(h, 1)


def max_pooled(network: str, share: float = 0.3) -> nn.Module:
    """A pooling that is partly a maximum, with its kinks."""
    net = base(network)
    net.pool = MixedPool(share)
    return net


class HalfWeights(Around):
    """Weights and arithmetic in bfloat16."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network.to(torch.bfloat16))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x.to(torch.bfloat16)).float()


class Autocast(Around):
    """Convolutions in bfloat16."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            z = self.base(x)
        return z.float()


def half(network: str, kind: str) -> nn.Module:
    """Half precision: ``weights`` or ``autocast``."""
    return (HalfWeights if kind == "weights" else Autocast)(base(network))


def regularised(network: str) -> nn.Module:
    """Dropout and stochastic depth that are off in eval mode."""
    from torchvision.ops import StochasticDepth

    parts: dict[str, Callable[[], nn.Module]] = {
        "dropout": lambda: nn.Dropout(0.3), "depth": lambda: StochasticDepth(0.2, "row")
    }  # fmt: skip
    net = inside(base(network), nn.Sequential(parts["dropout"](), parts["depth"]()))
    return net


def traced(network: str) -> nn.Module:
    """A TorchScript trace, without Python frames."""
    return torch.jit.trace(base(network), torch.zeros(2, 3, 32, 32), check_trace=False)


class Mean(nn.Module):
    """Mean of the logits of several networks."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([member(x) for member in self.members]).mean(0)


def ensemble(networks: Sequence[str]) -> nn.Module:
    """Several networks, logits averaged."""
    return Mean([base(name) for name in networks])


class Mirrored(Around):
    """Mean of the logits of the image and its mirror image."""

    def forward(self, x: Tensor) -> Tensor:
        return (self.base(x) + self.base(x.flip(3))) / 2


def mirrored(network: str) -> nn.Module:
    """Averages over a mirror image."""
    return Mirrored(base(network))


class Recomputed(nn.Module):
    """A layer whose activations are computed again on the way back."""

    def __init__(self, layer: nn.Module, reentrant: bool) -> None:
        super().__init__()
        self.layer, self.reentrant = layer, reentrant

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.layer, x, use_reentrant=self.reentrant)


def recomputed(network: str, reentrant: bool = False) -> nn.Module:
    """Activation checkpointing in every stage."""
    net = base(network)
    net.stages = nn.Sequential(*(Recomputed(stage, reentrant) for stage in net.stages))
    return net
